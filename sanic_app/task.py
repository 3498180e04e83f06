"""The words of the queue as frozen types, and their pure rules.

Times named ``*_at`` are stamps: whole microseconds since 1970 in UTC. Timeouts are whole
microseconds too, so that no rule ever rounds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

SECOND = 1_000_000
"""One second in microseconds."""

HISTORY_NUM_MAX = 2**63 - 1
"""The greatest history number that a store can hold."""


class State(StrEnum):
    """Where a task is: see the drawing in ARCHITECTURE.md."""

    QUEUED = "queued"
    WAITING = "waiting"
    DONE = "done"
    CANCELLED = "cancelled"


class NewTask(NamedTuple):
    """What a client asks for: the number to append, and the wait before it in microseconds."""

    num: int
    timeout: int


class Task(NamedTuple):
    """One task; what is not known yet is None."""

    history_num: int
    num: int
    timeout: int
    created_at: int
    state: State
    started_at: int | None = None
    finished_at: int | None = None


class Head(NamedTuple):
    """The started task, and the moment on the monotonic clock (seconds) at which it is due."""

    task: Task
    deadline: float


class Retention(NamedTuple):
    """How much of the history is kept; exactly one of the two is given."""

    tasks: int | None = None
    """So many finished tasks."""
    age: int | None = None
    """Those finished in the last so many microseconds."""


def seconds_left(started_at: int, timeout: int, now: int) -> float:
    """Return the rest of a wait after a restart, in seconds: never longer than the timeout."""
    return min(max(started_at + timeout - now, 0), timeout) / SECOND


def date(stamp: int) -> str:
    """Return a stamp as RFC 3339 in UTC with microseconds."""
    seconds, micros = divmod(stamp, SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"
