"""The service under proof: a real process, with a change made to it where a control needs one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.running import Running

DATABASE = "queue.db"
READY_SECONDS = 20.0


def service(
    folder: Path,
    *flags: str,
    changes: Sequence[str] = (),
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    ready: bool = True,
) -> Running:
    """Start the service in the folder; ``changes`` are those of `tests.proof.launch`."""
    # Without byte code to write, the only files that it writes are its own.
    environ = {"PYTHONDONTWRITEBYTECODE": "1", **(environ or {})}
    running = Running(folder, *flags, environ=environ, prefix=prefix, changes=changes, ready=False)
    if ready:
        try:
            running.wait_until_serving(READY_SECONDS)
        except AssertionError as error:
            status = running.process.poll()
            running.kill()
            raise AssertionError(f"status {status}: {error}") from None
    return running


def drained(running: Running, seconds: float = 20) -> bool:
    """Wait until the queue is empty; return whether it got so, or whether the service ended."""
    deadline, pause = time.monotonic() + seconds, 0.005
    with suppress(OSError):
        while time.monotonic() < deadline:
            if running.request("GET", "/api/v1/queue")[1]["depth"] == 0:
                return True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
    return False


def resident_bytes(running: Running) -> int:
    """Return the memory that the process has."""
    pages = Path(f"/proc/{running.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def most_resident_bytes(running: Running) -> int:
    """Return the most memory that the process ever had."""
    status = Path(f"/proc/{running.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1_024


def wal_bytes(folder: Path) -> int:
    """Return the size of the WAL of the service in the folder."""
    try:
        return (folder / f"{DATABASE}-wal").stat().st_size
    except FileNotFoundError:
        return 0
