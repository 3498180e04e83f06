"""The processes that are measured: the service and its yardsticks."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.bench.client import Client, get

ROOT = Path(__file__).parents[2]
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
"""The interpreter of ``make bench-peers``."""

SECONDS = 60
_PORT = re.compile(r'"port": (\d+)')


class Server:
    """One process that says its port on standard error, and goes at the end of a context."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SANIC_APP_")}
        self._log = folder / f"log-{time.monotonic_ns()}"
        self.begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**clean, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self.kill()
            raise

    def seconds_to_ready(self) -> float:
        """Return the seconds from the start of the process until it says that it is ready."""
        with Client(self.port) as client:
            while client.parsed(get("/health/ready"))["status"] != "ready":
                time.sleep(0.002)
        return time.monotonic() - self.begun

    def memory(self) -> tuple[int, int]:
        """Return the resident bytes now, and their greatest since ``forget_peak``."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
        return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024

    def forget_peak(self) -> None:
        """Let the peak begin at what is resident now (proc(5), clear_refs)."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", encoding="ascii")

    def metric(self, name: str) -> float:
        """Return the value of a series without labels."""
        with Client(self.port) as client:
            text = client.ask(get("/metrics")).decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def stop(self) -> None:
        """Stop it in order."""
        self._process.terminate()
        self._process.wait(SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_for_port(self) -> int:
        while time.monotonic() < self.begun + SECONDS:
            log = self._log.read_text(encoding="utf-8", errors="replace")
            if found := _PORT.search(log):
                return int(found[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.002)
        raise RuntimeError(
            f"it does not serve: {self._log.read_text(encoding='utf-8', errors='replace')}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


def service(folder: Path, database: str = "queue.db") -> Server:
    command = [sys.executable, "-m", "sanic_app"]
    return Server(folder, [*command, "--port", "0", "--database", database])


def changed_service(folder: Path, how: str, database: str) -> Server:
    """Start the service as ``launch`` changes it."""
    command = [sys.executable, "-m", "tests.bench.launch", how]
    return Server(folder, [*command, "--port", "0", "--database", database])


def bare(folder: Path) -> Server:
    return Server(folder, [sys.executable, "-m", "tests.bench.bare"])


def in_memory(folder: Path) -> Server | None:
    """Start the service on aiohttp, or return None where that is not installed."""
    if importlib.util.find_spec("aiohttp") is not None:
        python = sys.executable
    elif PEERS_PYTHON.exists():
        python = str(PEERS_PYTHON)
    else:
        return None
    return Server(folder, [python, "-m", "tests.bench.in_memory"])
