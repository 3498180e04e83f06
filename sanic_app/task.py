"""The basic types of the queue, all frozen.

Times named ``*_at`` are stamps: microseconds since 1970 in UTC. Stamps and timeouts are whole
numbers, so that nothing is ever rounded.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

SECOND = 1_000_000
"""One second in microseconds."""

HISTORY_NUM_MAX = 2**63 - 1
"""The greatest history number that a store can hold."""

_EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)

STAMP_MAX = 253_402_300_799_999_999
"""The last stamp of the year 9999. A later one has no date (RFC 3339)."""


class State(StrEnum):
    """The state of a task, see ARCHITECTURE.md."""

    QUEUED = "queued"
    WAITING = "waiting"
    DONE = "done"
    CANCELLED = "cancelled"


class NewTask(NamedTuple):
    """What a client adds: a number, and a timeout in microseconds."""

    num: int
    timeout: int


class Task(NamedTuple):
    """One task. What is not known yet is None."""

    history_num: int
    num: int
    timeout: int
    created_at: int
    state: State
    started_at: int | None = None
    finished_at: int | None = None


class Head(NamedTuple):
    """The started task, and its deadline in seconds of the monotonic clock."""

    task: Task
    deadline: float
    patience: float = 0.0
    """How long after the deadline this process leaves the finish to the one that started it."""


class Retention(NamedTuple):
    """How much of the history is kept. Exactly one of the two is given."""

    tasks: int | None = None
    """The number of finished tasks that are kept."""
    age: int | None = None
    """The age in microseconds up to which finished tasks are kept."""


def seconds_left(started_at: int, timeout: int, now: int) -> float:
    """Return the rest of a wait after a restart in seconds (ARCHITECTURE.md, rule 4)."""
    return min(max(started_at + timeout - now, 0), timeout) / SECOND


def date(stamp: int) -> str:
    """Return a stamp as RFC 3339 in UTC with microseconds."""
    second, micros = divmod(stamp, SECOND)
    return f"{_second(second)}.{micros:06}Z"


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    """Return a second without its zone. Those of a busy queue are mostly the same."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()
