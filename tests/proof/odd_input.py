"""Odd input: schemathesis asks whatever the service's document allows and forbids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import service
from tests.running import Running

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"
TOKEN = "of-this-proof"


def odd_input(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Explore a service with and without a token for minutes, and one that parses laxly."""
    seconds = scale.pick(5, 300)
    broken: list[str] = []
    for token in ("", TOKEN):
        with emptied(folder) as home:
            broken += _explored(home, token, seconds, seed)
    accident = _accident(folder, seed)
    return Outcome(
        promise="whatever is sent, the answer is one of the document, and never an accident",
        fault=f"schemathesis with all checks for {2 * seconds} s",
        tried=2 * seconds,
        lost=len(broken),
        control="a service that parses laxly: "
        + (f"found out within {accident} s" if accident else "not found out"),
        broken=tuple(broken),
        missed=() if accident else ("it passed as well",),
        notes="tried counts seconds",
    )


def explore(
    running: Running, folder: Path, token: str, seconds: int, seed: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Let schemathesis ask the service for so long, with all of its checks but one.

    A cancelled task stays in the history: ``use_after_free`` would call that a fault.
    It waits for the end of an answer, and the stream of events has none.
    """
    flags = [
        "--checks",
        "all",
        "--exclude-checks",
        "use_after_free",
        "--exclude-path",
        "/api/v1/events",
        "--continue-on-failure",
        "--max-time",
        str(seconds),
    ]
    flags += ["--header", f"Authorization: Bearer {token}"] if token else []
    flags += ["--seed", str(seed)] if seed is not None else []
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{running.url}/api/docs/openapi.json", *flags),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CONFIG.parents[1]), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 60,
        check=False,
    )


def _accident(folder: Path, seed: int) -> int:
    """Return in how many seconds a service that parses laxly met an accident, 0 if in none.

    What comes up in so many seconds is chance: each further look is twice as long.
    """
    for seconds in (10, 20, 40):
        with emptied(folder) as home, service(home, changes=("lax_parsing",)) as running:
            found = explore(running, home, "", seconds, seed)
        if "Server error" in found.stdout:
            return seconds
    return 0


def _explored(home: Path, token: str, seconds: int, seed: int) -> list[str]:
    broken = []
    environ = {"SANIC_APP_API_TOKEN": token} if token else {}
    with service(home, environ=environ) as running:
        found = explore(running, home, token, seconds, seed)
        if found.returncode:
            broken.append(found.stdout[-2_000:])
        running.stop()
        levels = {json.loads(line)["level"] for line in running.lines}
    if not levels <= {"INFO", "WARNING"}:
        broken.append(f"the log has {levels}")
    return broken
