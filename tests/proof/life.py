"""One short life of a service with everything in it that writes, for faults at every call.

It starts on a database that an earlier process left behind in the midst of its work (a WAL, a
queue, a head that waits), adds, finishes, checkpoints, and stops in order. Or it starts where
there is no database yet, up to the moment when it serves.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.proof.checker import check
from tests.proof.history import History
from tests.proof.load import Client, Target
from tests.proof.machine import strace
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import contradictions, snapshot
from tests.running import Running

CALLS = (
    *("pwrite64", "write", "fdatasync", "fsync", "ftruncate", "rename", "unlink"),
    *("fallocate", "pwritev", "pwritev2", "renameat", "renameat2", "unlinkat", "link", "mkdir"),
)
CHANGES = ("checkpoint_pages=12",)
LEFT = 6
"""Tasks that the earlier process left: the first waits, the others are behind it."""
END_SECONDS = 8
_FIRST = 1_000_000


class Point(NamedTuple):
    """The n-th call of its kind in any one thread."""

    call: str
    number: int


@dataclass(slots=True)
class Life:
    """What came of one life, and of the restart after it."""

    served: bool = False
    status: int | None = None
    log: str = ""
    trace: list[str] = field(default_factory=list)
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)


class Beginning:
    """A folder as an earlier process left it, and the history of what it acknowledged."""

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        """Make it once; every life gets a copy."""
        self.folder = folder
        self.fresh = fresh
        folder.mkdir()
        self._history = History()
        if fresh:
            return
        running = service(folder)
        try:
            client = Client("earlier", _target(running), self._history)
            _add(client, _FIRST, [0, 0, 0, 0.02])
            _add(client, 1, [0.4, *[0.0] * (LEFT - 1)])
            client.close()
        finally:
            running.kill()

    def copy(self, folder: Path) -> History:
        """Lay a copy of the folder there; return a copy of its history to go on with."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("*-shm"))
        history = History()
        history.operations += self._history.operations
        return history


def live(
    beginning: Beginning,
    folder: Path,
    options: Sequence[str] = (),
    paths: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> Life:
    """Let a service live under strace with these options; then restart it and look."""
    history = beginning.copy(folder)
    life = Life()
    trace = folder.with_name(f"{folder.name}.strace")
    prefix = strace(trace, CALLS, *options, paths=[folder / path for path in paths])
    with history.fault():
        running = service(folder, changes=(*CHANGES, *changes), prefix=prefix, ready=False)
        try:
            life.served = _live(running, history, fresh=beginning.fresh)
        finally:
            life.status = _end(running)
    life.log = running.log
    life.trace = _lines(trace)
    trace.unlink()
    if any("exited with" in line or "killed by" in line for line in life.trace[-1:]):
        _restart(folder, history, life)
    else:
        life.wrong.append("the trace has no end")
    shutil.rmtree(folder)
    return life


def points(life: Life) -> list[Point]:
    """Return every point that this life passed, in a thread's own count of calls."""
    most: Counter[str] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for line in life.trace:
        if match := re.match(r"(\d+) +[\d.]+ (\w+)\(", line):
            counts[match[1], match[2]] += 1
            most[match[2]] = max(most[match[2]], counts[match[1], match[2]])
    return [Point(call, number + 1) for call, count in most.items() for number in range(count)]


def _live(running: Running, history: History, *, fresh: bool) -> bool:
    try:
        running.wait_until_serving()
    except AssertionError:
        if running.process.poll() is None:
            raise
        return False
    client = Client("client", _target(running), history)
    _add(client, 2 * _FIRST, [0, 0.003] if fresh else [0, 0, 0.003, 0, 0.001, 0, 0, 0])
    client.read_results()
    client.read_queue()
    if not fresh:
        # Long enough for the head that the earlier process left.
        _settle(running, client)
        _add(client, 3 * _FIRST, [0.0, 0.002, 0.0])
        client.read_results()
    client.close()
    if running.process.poll() is None:
        running.signal()
    return True


def _end(running: Running) -> int | None:
    """Return the status of the process; None when it had to be killed."""
    try:
        return running.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        return None


def _settle(running: Running, client: Client) -> None:
    if running.process.poll() is None:
        try:
            drained(running, 5)
        except OSError:
            return
        client.read_results()


def _restart(folder: Path, history: History, life: Life) -> None:
    life.acknowledged = sum(op.answer == "ok" for op in history.operations)
    try:
        running = service(folder)
    except AssertionError as error:
        life.wrong.append(f"the restart failed: {error}")
        return
    try:
        client = Client("later", _target(running), history)
        _add(client, 4 * _FIRST, [0.0, 0.001, 0.0])
        if not drained(running):
            life.wrong.append("the restart left the queue standing")
        client.read_results()
        client.read_queue()
        client.close()
        if len(client.added) != 3:
            life.wrong.append("the restart took no tasks")
        complaints = [line for line in running.lines if '"level": "INFO"' not in line]
        life.wrong += [f"the restart complains: {line.strip()}" for line in complaints]
    finally:
        running.kill()
    life.wrong += contradictions(folder / DATABASE)
    verdict = check(history, snapshot(folder / DATABASE), finishes=3)
    if not verdict.holds:
        life.wrong.append(verdict.summary)
        life.wrong += [violation.message for violation in verdict.violations[:3]]


def _add(client: Client, first: int, waits: Sequence[float]) -> None:
    for number, wait in enumerate(waits):
        if client.add(first + number, wait).answer == "unknown":
            return


def _target(running: Running) -> Target:
    return Target(running.port)


def _lines(trace: Path) -> list[str]:
    return trace.read_text(encoding="utf-8", errors="replace").splitlines()
