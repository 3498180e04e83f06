"""The rules of a commit: what it makes of its writes, for every engine.

A ``Transition`` decides. ``Rows`` is what an engine lends it for one open transaction. Reads
depend on earlier writes of the same commit, so the decisions are no pure function of the figures.

A statement costs an engine more than its rows do. So the verbs of ``Rows`` take many rows, and new
tasks are kept back until something has to read the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sanic_app.errors import (
    AlreadyFinished,
    Gone,
    KeyReused,
    NotFound,
    NotHead,
    QueueFull,
    ServiceError,
    StoreFailed,
)
from sanic_app.store import (
    CANCEL_MAX,
    RUN_MAX,
    WAIT_SUM_MODULUS,
    Add,
    Added,
    Cancel,
    Cancelled,
    CancelRange,
    Done,
    Figures,
    Finish,
    PauseState,
    Result,
    SetPaused,
    Write,
    retention,
)
from sanic_app.store.keys import KeyRows, Keys
from sanic_app.store.skipped import Skipped, SkippedRows
from sanic_app.task import Retention, State, Task

BACKLOG_LIMIT = 2**63
"""In microseconds: all waits together must fit into a column of the state row."""

QueuedRow = tuple[int, int, int, int]
"""Of the queue: history_num, num, timeout, created_at."""
NewRow = tuple[int, int, int, int, int]
"""To be queued: the same, and the sum of all timeouts up to it."""
HistoryRow = tuple[int, int, int, int, str, int | None, int | None, int]
"""Of the history: the same four, outcome, started_at, finished_at, finish_num."""


class Limits(NamedTuple):
    """What no write decides for itself."""

    idempotency_keep: int
    """The lifetime of a key, in microseconds, from the end of its last unfinished task."""
    queue_max: int
    retention: Retention | None = None
    """None: the whole history is kept."""


class Rows(KeyRows, retention.HistoryRows, SkippedRows, Protocol):
    """The tables in one open transaction."""

    def wall(self) -> int:
        """Return the clock that stamps are taken from, in microseconds since 1970."""

    def figures(self) -> Figures:
        """Return the state row.

        Raises:
            StoreFailed: it is missing.
        """

    def queue(self, rows: Sequence[NewRow]) -> None:
        """Put tasks at the end of the queue."""

    def queued(self, first: int, limit: int) -> list[QueuedRow]:
        """Return the first tasks of the queue from a history number on, in order."""

    def last_queued(self, first: int, last: int, limit: int) -> list[QueuedRow]:
        """Return the last tasks of the queue between two history numbers, in order."""

    def append(self, tasks: Sequence[Task], finish_num: int) -> None:
        """Put finished tasks into the history, with finish numbers from this one on."""

    def remove(self, first: int, last: int, count: int) -> None:
        """Remove the tasks between two history numbers from the queue.

        Raises:
            StoreFailed: they are not so many; an engine may find out when it commits.
        """

    def in_history(self, history_num: int) -> bool:
        """Return whether the history has the task."""


class Transition:
    """The state row while a commit works on it, and the tasks that are not queued yet."""

    def __init__(self, rows: Rows, limits: Limits) -> None:
        """Take the open transaction and the limits."""
        self._before = before = rows.figures()
        self._rows = rows
        self._keys = Keys(rows, limits.idempotency_keep)
        self._limits = limits
        (
            self._last_history_num,
            self._last_finish_num,
            self._stamp,
            self._wait_sum,
            self._depth,
            self._backlog,
            self._oldest_created_at,
            self._paused,
            self._head,
            self._head_started_at,
            self._pruned,
        ) = before
        self._stamp = before.stamp(rows.wall())
        self._new: list[NewRow] = []
        self._skipped = Skipped(rows)
        self.started: Task | None = None
        self.prune_in: float | None = None

    def apply(self, write: Write) -> Result | ServiceError:
        """Apply one write; return what it did, or why it was refused."""
        try:
            match write:
                case Add():
                    return self._add(write)
                case Finish():
                    return self._finish(write)
                case Cancel():
                    return self._cancel(write)
                case CancelRange():
                    return self._cancel_range(write)
                case SetPaused():
                    return self._set_paused(write)
        except (AlreadyFinished, Gone, KeyReused, NotFound, NotHead, QueueFull) as refusal:
            return refusal

    def end(self) -> tuple[Figures, bool]:
        """Return the figures to write, and whether anything but time has changed."""
        self._flush()
        self._skipped.end()
        figures = Figures(
            self._last_history_num,
            self._last_finish_num,
            self._stamp,
            self._wait_sum,
            self._depth,
            self._backlog,
            self._oldest_created_at,
            self._paused,
            self._head,
            self._head_started_at,
            self._pruned,
        )
        if (kept := self._limits.retention) is not None:
            pruned, self.prune_in = retention.prune(self._rows, kept, figures)
            figures = figures._replace(pruned=pruned)
        if figures._replace(last_stamp=self._before.last_stamp) == self._before:
            return self._before, False
        return figures, True

    # One method for each write.

    def _add(self, add: Add) -> Added:
        if add.key is not None and (before := self._keys.find(add, self._stamp)) is not None:
            return before
        # Settings allow no such backlog, but those before, or another node's, may have been others.
        backlog = self._backlog + sum([timeout for _, timeout in add.tasks])
        if self._depth + len(add.tasks) > self._limits.queue_max or backlog >= BACKLOG_LIMIT:
            raise QueueFull
        first = number = self._last_history_num + 1
        stamp, wait_sum, new = self._stamp, self._wait_sum, self._new
        for num, timeout in add.tasks:
            wait_sum = (wait_sum + timeout) % WAIT_SUM_MODULUS
            new.append((number, num, timeout, stamp, wait_sum))
            number += 1
        self._wait_sum = wait_sum
        self._backlog = backlog
        self._last_history_num = last = number - 1
        self._depth += last - first + 1
        if self._oldest_created_at is None:
            self._oldest_created_at = stamp
        starts = self._head is None and not self._paused
        if starts:
            self._start(first, *add.tasks[0], stamp)
        added = Added(first, last, stamp, starts)
        if add.key is not None:
            self._keys.remember(add, added, stamp)
        return added

    def _finish(self, finish: Finish) -> Done:
        head, started_at = finish
        if head != self._head or started_at not in (None, self._head_started_at):
            raise NotHead
        self._flush()
        queued = self._rows.queued(finish.history_num, 2)
        if not queued or queued[0][0] != self._head:
            raise StoreFailed("corrupt", "the head is not in the queue")
        length = 1
        # A pause ends a run at the head: those behind it would start in this commit.
        if not self._paused and _run_length(queued) > 1:
            queued = self._rows.queued(finish.history_num, RUN_MAX + 1)
            length = _run_length(queued)
        # Never early, even when the wall clock went back during the wait.
        self._stamp = max(self._stamp, (self._head_started_at or 0) + queued[0][2])
        done = self._take_out(queued[:length], State.DONE)
        self._start_next(done, queued[length:])
        return Done(done)

    def _cancel(self, cancel: Cancel) -> Cancelled:
        self._flush()
        number = cancel.history_num
        queued = self._rows.last_queued(number, number, 1)
        if not queued:
            if number > self._last_history_num:
                raise NotFound(NotFound.no_task)
            raise AlreadyFinished if self._rows.in_history(number) else Gone
        return self._cancel_queued(queued)

    def _cancel_range(self, cancel: CancelRange) -> Cancelled:
        self._flush()
        queued = self._rows.last_queued(cancel.first, cancel.last, CANCEL_MAX)
        return self._cancel_queued(queued) if queued else Cancelled(())

    def _set_paused(self, write: SetPaused) -> PauseState:
        changed = bool(self._paused) != write.paused
        self._paused = int(write.paused)
        if not write.paused and self._head is None and self._depth:
            self._flush()
            self._start(*self._rows.queued(0, 1)[0])
        return PauseState(write.paused, changed)

    # What they share.

    def _start(self, history_num: int, num: int, timeout: int, created_at: int) -> None:
        self._head = history_num
        self._head_started_at = self._stamp
        self.started = Task(history_num, num, timeout, created_at, State.WAITING, self._stamp)

    def _cancel_queued(self, queued: Sequence[QueuedRow]) -> Cancelled:
        """Cancel tasks that stand one behind the other in the queue."""
        first = self._rows.queued(0, 1)[0][0]
        cancelled = self._take_out(queued, State.CANCELLED)
        if queued[0][0] == first:
            self._start_next(cancelled, self._rows.queued(first, 1))
        else:
            self._skipped.add(cancelled, first)
        return Cancelled(cancelled)

    def _take_out(self, queued: Sequence[QueuedRow], outcome: State) -> list[Task]:
        """Move tasks that stand one behind the other from the queue to the history."""
        stamp, head = self._stamp, self._head
        # In a run, those behind the first start in this commit.
        started_at = stamp if outcome is State.DONE else None
        tasks = [
            Task(
                number,
                num,
                timeout,
                created_at,
                outcome,
                self._head_started_at if number == head else started_at,
                stamp,
            )
            for number, num, timeout, created_at in queued
        ]
        first, last = queued[0][0], queued[-1][0]
        self._rows.append(tasks, self._last_finish_num + 1)
        self._rows.remove(first, last, len(tasks))
        self._rows.end_keys(first, last, stamp)
        self._last_finish_num += len(tasks)
        self._depth -= len(tasks)
        self._backlog -= sum(task.timeout for task in tasks)
        return tasks

    def _start_next(self, gone: Sequence[Task], queued: Sequence[QueuedRow]) -> None:
        """Start the first of what is queued now, behind those that are gone from the front."""
        self._head = self._head_started_at = self._oldest_created_at = self.started = None
        first = queued[0][0] if queued else self._last_history_num + 1
        if first > gone[0].history_num + len(gone):
            self._skipped.advance(first)
        if queued:
            self._oldest_created_at = queued[0][3]
            if not self._paused:
                self._start(*queued[0])

    def _flush(self) -> None:
        if self._new:
            self._rows.queue(self._new)
            self._new = []


def history_rows(tasks: Sequence[Task], finish_num: int) -> list[HistoryRow]:
    """Return finished tasks as rows of the history, with finish numbers from this one on."""
    return [
        (*task[:4], task.state.value, task.started_at, task.finished_at, number)
        for number, task in enumerate(tasks, finish_num)
    ]


def _run_length(queued: Sequence[QueuedRow]) -> int:
    """Return how many of these finish together: one, or a run of zero timeouts."""
    length = 0
    for _, _, timeout, _ in queued[:RUN_MAX]:
        if timeout:
            break
        length += 1
    return max(length, 1)
