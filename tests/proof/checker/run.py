"""A run as the rules look at it: its operations and rows, indexed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tests.proof.checker.violation import Kind, Violation
from tests.proof.history import (
    Add,
    Added,
    Cancel,
    History,
    Operation,
    Pause,
    ReadQueue,
    ReadResults,
    ReadTask,
    Request,
    Resume,
    Row,
    Snapshot,
)


@dataclass(slots=True)
class Asked:
    """A task as it was asked for: all attempts to add it, taken together."""

    timeout: float
    operation: Operation
    invoked: float = math.inf  # of the first attempt that may have been applied
    answered: float = math.inf  # of the first acknowledgement
    history_num: int | None = None  # as acknowledged


@dataclass(frozen=True, slots=True)
class Length:
    """A result list as places in line: those before `shown` are done, from `end` on none is."""

    operation: Operation
    shown: int
    end: float


@dataclass(slots=True)
class Earliest:
    """For each place in line, the earliest completed operation that shows something of it."""

    operations: list[Operation | None]
    times: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.times = [math.inf] * len(self.operations)

    def mark(self, place: int, operation: Operation) -> None:
        if operation.completed < self.times[place]:
            self.times[place], self.operations[place] = operation.completed, operation

    def spread(self) -> None:
        """Let what holds of a place hold of those before it: they finish in order."""
        for place in range(len(self.times) - 2, -1, -1):
            if self.times[place + 1] < self.times[place]:
                self.times[place] = self.times[place + 1]
                self.operations[place] = self.operations[place + 1]


class Run:
    """A history and its snapshot, indexed, and what the rules on reads have collected.

    *The line* is every uncancelled task in the order of finishing: the result list, then the
    queue. All reads of one queue describe the same line, so most of what a read shows shrinks to
    one place in it: before it everything is done, from it on nothing is.
    """

    def __init__(self, history: History, snapshot: Snapshot, epsilon: float) -> None:
        self.snapshot = snapshot
        self.epsilon = epsilon
        self.operations: dict[type[Request], list[Operation]] = {
            Add: [], Cancel: [], Pause: [], Resume: [],
            ReadQueue: [], ReadResults: [], ReadTask: [],
        }  # fmt: skip
        for operation in history.operations:
            self.operations[type(operation.request)].append(operation)
        self.rows = sorted((*snapshot.queue, *snapshot.history), key=lambda row: row.history_num)
        self.row = {row.history_num: row for row in (*snapshot.queue, *snapshot.history)}
        self.row_of_num = {row.num: row for row in (*snapshot.queue, *snapshot.history)}
        self.finished = sorted(snapshot.history, key=lambda row: row.finish_num or 0)
        self.done = [row for row in self.finished if row.outcome == "done"]
        self.cancelled = sorted(row.history_num for row in self.finished if row.outcome != "done")
        kept = {row.history_num for row in snapshot.history}
        self.queue = sorted(
            (row for row in snapshot.queue if row.history_num not in kept),
            key=lambda row: row.history_num,
        )
        self.line = self.done + self.queue
        self.place = {row.history_num: place for place, row in enumerate(self.line)}
        self.cancelled_by: dict[int, Operation] = {}
        self.seen = Earliest([None] * len(self.line))  # seen done
        self.gone = Earliest([None] * len(self.line))  # missed in the queue once it was added
        self.pending: list[tuple[int, Operation]] = []  # not done yet, from this place on
        self.lists: list[Length] = []
        self.unstarted = [-math.inf] * len(self.line)
        self.asked: dict[int, Asked] = {}
        self.disagreeing: list[Violation] = []
        for operation in self.operations[Add]:
            self._ask(operation)

    def _ask(self, operation: Operation) -> None:
        request = operation.request
        assert isinstance(request, Add)
        for offset, (num, timeout) in enumerate(request.tasks):
            asked = self.asked.get(num)
            if asked is None:
                asked = self.asked[num] = Asked(timeout, operation)
            elif request.key is None or asked.operation.request != request:
                raise ValueError(f"num {num} was sent by two different adds")
            if operation.answer == "refused":
                continue
            asked.invoked = min(asked.invoked, operation.invoked)
            if isinstance(operation.value, Added):
                number = operation.value.first + offset
                if asked.history_num not in (None, number):
                    message = f"num {num} was acknowledged as {asked.history_num} and as {number}"
                    evidence = (asked.operation, operation)
                    self.disagreeing.append(Violation(Kind.DOUBLED, message, (number,), evidence))
                if operation.completed < asked.answered:
                    asked.answered, asked.operation = operation.completed, operation
                    asked.history_num = number

    def invoked(self, row: Row) -> float:
        """Return when the task was first sent, at the earliest."""
        asked = self.asked.get(row.num)
        return -math.inf if asked is None else asked.invoked
