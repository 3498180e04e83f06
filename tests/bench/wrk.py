"""The load generator: Debian's ``wrk``, in one thread, which takes about one core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).with_name("post.lua")


class Load(NamedTuple):
    """What one load achieved: requests a second, and seconds to an answer."""

    rate: float
    median: float
    p99: float


def installed() -> bool:
    return shutil.which("wrk") is not None


def load(
    port: int, connections: int, seconds: float, batch: int = 0, timeout: float = 3_600
) -> Load:
    """Add tasks as fast as so many connections can, each waiting for its answer.

    With ``batch`` each request adds so many. ``timeout`` is each task's own.

    wrk counts whole seconds alone.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"]
    path = "/api/v1/tasks/batch" if batch else "/add_task"
    done = subprocess.run(
        [*command, "-s", str(SCRIPT), f"http://127.0.0.1:{port}{path}"],
        env={**os.environ, "TASKS": str(batch), "TIMEOUT": str(timeout)},
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Return what wrk printed through the script; requests that failed are no load."""
    last = output.strip().splitlines()[-1]
    said = json.loads(last)
    if said["errors"] or not said["requests"]:
        raise RuntimeError(f"the load failed: {last}")
    return Load(said["requests"] * 1e6 / said["micros"], said["p50"] / 1e6, said["p99"] / 1e6)
