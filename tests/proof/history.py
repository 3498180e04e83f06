"""The history of a run: what clients asked and were told, and what observers saw.

Clients record each operation as *invoked*, then *ok*, *refused* (certainly not applied) or
*unknown*; after the run an observer reads every row of the store.

Times of operations are seconds of one monotonic clock (on one machine all processes share it);
stamps in rows are integer microseconds of the store's clock. The two are never compared.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MICROSECONDS = 1_000_000
"""In a second: timeouts of rows are microseconds, those of requests seconds."""
Answer = Literal["ok", "refused", "unknown"]
Listed = tuple[int, int, float]
"""An entry of the queue as a reader sees it: `history_num`, `num`, `timeout` in seconds."""


@dataclass(frozen=True, slots=True)
class Add:
    """Add one task, or a batch (all or none, contiguous); each is (`num`, `timeout` seconds)."""

    tasks: tuple[tuple[int, float], ...]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the unfinished tasks with these history numbers, both ends included.

    The value of an ok is how many it cancelled. A cancel of one task (`first == last`) that finds
    it finished is a refusal.
    """

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause the queue: the head's wait goes on and no further task starts."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Resume the queue."""


@dataclass(frozen=True, slots=True)
class ReadQueue:
    """Read the whole queue; the value of an ok is a tuple of `Listed`, in the order shown."""


@dataclass(frozen=True, slots=True)
class ReadResults:
    """Read the result list: the whole, or a page of `limit` after the history number `after`."""

    after: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Read one task in any state; the value of an ok is a `Seen`, or None where it is unknown."""

    history_num: int


@dataclass(frozen=True, slots=True)
class Added:
    """The answer to an add: the first and last history number, and `created_at` if it said so."""

    first: int
    last: int
    created_at: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """The result list in columns; what the answer does not carry is None."""

    nums: tuple[int, ...]
    history_nums: tuple[int, ...] | None = None
    finished_at: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One task as a reader saw it; `timeout` in seconds, stamps in microseconds."""

    state: Literal["queued", "waiting", "done", "cancelled"]
    num: int
    timeout: float
    started_at: int | None = None
    finished_at: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the store, queue or history; `timeout` and stamps in microseconds."""

    history_num: int
    num: int
    timeout: int
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    finish_num: int | None = None
    outcome: Literal["done", "cancelled"] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every row of the store, read in one transaction after all operations."""

    queue: tuple[Row, ...]
    history: tuple[Row, ...]


Request = Add | Cancel | Pause | Resume | ReadQueue | ReadResults | ReadTask
Value = Added | int | tuple[Listed, ...] | Results | Seen | None


@dataclass(slots=True, eq=False)
class Operation:
    """What one client asked, and what it was told; unknown until it is told something."""

    client: str
    request: Request
    invoked: float
    completed: float = math.inf
    answer: Answer = "unknown"
    value: Value = None


class History:
    """A recorder that only grows. It needs no lock: each operation is its caller's own token."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds and never goes back."""
        self.operations: list[Operation] = []
        self.faults: list[tuple[float, float]] = []
        self._clock = clock

    def invoke(self, client: str, request: Request) -> Operation:
        """Call this before anything is sent; the operation is the token for its answer."""
        operation = Operation(client, request, self._clock())
        self.operations.append(operation)
        return operation

    def ok(self, operation: Operation, value: Value = None) -> None:
        """Record a success; the types of requests say what `value` is."""
        self._complete(operation, "ok", value)

    def refused(self, operation: Operation) -> None:
        """Record a problem with `"applied": false`, or a connection that was never made."""
        self._complete(operation, "refused", None)

    def unknown(self, operation: Operation) -> None:
        """Record anything else: a lost connection, a time limit, `"applied": null`."""
        self._complete(operation, "unknown", None)

    def observe(
        self, client: str, request: Request, value: Value, invoked: float, completed: float
    ) -> None:
        """Record a success whose times were taken elsewhere."""
        self.operations.append(Operation(client, request, invoked, completed, "ok", value))

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Mark the time of an injected fault, up to the moment when the service is back."""
        begun = self._clock()
        try:
            yield
        finally:
            self.faults.append((begun, self._clock()))

    def _complete(self, operation: Operation, answer: Answer, value: Value) -> None:
        operation.completed = self._clock()
        operation.answer = answer
        operation.value = value

    def dump(self, stream: TextIO, snapshot: Snapshot) -> None:
        """Write one JSON value a line, so that the history of a failing run can be kept."""
        lines = itertools.chain(self.operations, self.faults, [snapshot])
        stream.writelines(json.dumps(line, default=_members) + "\n" for line in lines)

    @staticmethod
    def load(stream: Iterable[str]) -> tuple[History, Snapshot]:
        """Read what `dump` wrote."""
        history, snapshot = History(), Snapshot((), ())
        for line in stream:
            match _tuples(json.loads(line, object_hook=_instance)):
                case Operation() as operation:
                    history.operations.append(operation)
                case Snapshot() as last:
                    snapshot = last
                case begun, ended:
                    history.faults.append((begun, ended))
        return history, snapshot


_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Add, Cancel, Pause, Resume, ReadQueue, ReadResults, ReadTask),
        *(Added, Results, Seen, Row, Snapshot, Operation),
    )
}


def _members(instance: Any) -> dict[str, object]:
    members = {each.name: getattr(instance, each.name) for each in fields(instance)}
    # JSON has no infinity: an operation that never completed goes without the member.
    known = {name: value for name, value in members.items() if value != math.inf}
    return {"is": type(instance).__name__, **known}


def _instance(members: dict[str, Any]) -> object:
    kind = _TYPES[members.pop("is")]
    return kind(**{name: _tuples(value) for name, value in members.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
