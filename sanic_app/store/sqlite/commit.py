"""One commit in SQL: applies writes to the two tables and the state row.

Runs in the thread of the writing connection. A statement lets go of the interpreter's lock
while SQLite works and has to get it back afterwards, which on a busy service costs more than
the statement: hence few statements, each for many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sanic_app import errors
from sanic_app.errors import (
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
    PRUNE_MAX,
    RUN_MAX,
    Add,
    Added,
    Cancel,
    Cancelled,
    CancelRange,
    Commit,
    Done,
    Figures,
    Finish,
    PauseState,
    Result,
    SetPaused,
    Write,
)
from sanic_app.store.sqlite.file import FIGURES
from sanic_app.task import SECOND, Retention, State, Task

_SUM_MASK = 2**63 - 1
ROWS_FEW, ROWS_MANY = 96, 512
"""The greatest statement that is made for any number of rows, and the one for many."""
_SWEEP = 10
"""How many expired idempotency keys go with each commit that writes one."""

_ASSIGNMENTS = ", ".join(f"{name} = ?" for name in Figures._fields)
_UPDATE_STATE = f"UPDATE state SET {_ASSIGNMENTS} WHERE id = 1"


class Limits(NamedTuple):
    """What no write decides for itself."""

    idempotency_keep: int
    """How long a key lives on after its last task is finished, in microseconds."""
    queue_max: int
    history_keep: Retention | None = None
    """None: everything."""


_Row = tuple[int, int, int, int]
"""Of the queue: history_num, num, timeout, created_at."""


def apply(
    connection: sqlite3.Connection, writes: Sequence[Write], wall: int, limits: Limits
) -> Commit:
    """Apply the writes in one transaction and return when it is synced.

    ``wall`` is the wall clock now in microseconds.

    Raises:
        sqlite3.Error: the transaction failed; the caller rolls back.
    """
    connection.execute("BEGIN IMMEDIATE")
    transaction = _Transaction(connection, wall, limits)
    results = [transaction.apply(write) for write in writes]
    figures = transaction.end()
    return Commit(results, figures, transaction.started, transaction.prune_in)


class _Transaction:
    """The state row while a transaction works on it, and the rows not inserted yet."""

    def __init__(self, connection: sqlite3.Connection, wall: int, limits: Limits) -> None:
        row = connection.execute(FIGURES).fetchone()
        if row is None:
            raise StoreFailed("corrupt", "the state row is missing")
        self._connection = connection
        self._before = before = Figures(*row)
        self._limits = limits
        self._stamp = max(wall, before.last_stamp)
        self._last_history_num = before.last_history_num
        self._last_finish_num = before.last_finish_num
        self._wait_sum = before.wait_sum
        self._depth = before.depth
        self._backlog = before.backlog
        self._oldest_created_at = before.oldest_created_at
        self._paused = before.paused
        self._head = before.head
        self._head_started_at = before.head_started_at
        self._pruned = before.pruned
        self._rows: list[int] = []
        self.started: Task | None = None
        self.prune_in: float | None = None

    def apply(self, write: Write) -> Result | ServiceError:
        try:
            match write:
                case Add():
                    return self._add(write) if write.key is None else self._add_once(write)
                case Finish():
                    return self._finish(write)
                case Cancel():
                    return self._cancel(write)
                case CancelRange():
                    return self._cancel_range(write)
                case SetPaused():
                    return self._switch(write)
        except (KeyReused, NotHead, QueueFull, NotFound, errors.AlreadyFinished, Gone) as refusal:
            return refusal

    def end(self) -> Figures:
        self._insert_rows()
        self._prune()
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
        if figures._replace(last_stamp=self._before.last_stamp) == self._before:
            # Replays and refusals alone: there is nothing to make durable.
            self._connection.execute("ROLLBACK")
            return self._before
        self._connection.execute(_UPDATE_STATE, figures)
        self._connection.execute("COMMIT")
        return figures

    def _add(self, add: Add) -> Added:
        if self._depth + len(add.tasks) > self._limits.queue_max:
            raise QueueFull
        first = number = self._last_history_num + 1
        stamp, wait_sum = self._stamp, self._wait_sum
        for num, timeout in add.tasks:
            wait_sum = (wait_sum + timeout) & _SUM_MASK
            self._rows += (number, num, timeout, stamp, wait_sum)
            self._backlog += timeout
            number += 1
        self._wait_sum = wait_sum
        self._last_history_num = last = number - 1
        self._depth += last - first + 1
        if self._oldest_created_at is None:
            self._oldest_created_at = stamp
        starts = self._head is None and not self._paused
        if starts:
            self._start(first, *add.tasks[0], stamp)
        return Added(first, last, stamp, starts)

    def _start(self, history_num: int, num: int, timeout: int, created_at: int) -> None:
        self._head = history_num
        self._head_started_at = self._stamp
        self.started = Task(history_num, num, timeout, created_at, State.WAITING, self._stamp)

    def _add_once(self, add: Add) -> Added:
        execute = self._connection.execute
        row = execute(
            "SELECT request, first, last, created_at, started, finished_at"
            " FROM idempotency WHERE key = ?",
            (add.key,),
        ).fetchone()
        if row is not None:
            request, first, last, created_at, started, finished_at = row
            if finished_at is None or finished_at + self._limits.idempotency_keep > self._stamp:
                if request != add.request:
                    raise KeyReused
                return Added(first, last, created_at, bool(started), replayed=True)
            execute("DELETE FROM idempotency WHERE key = ?", (add.key,))
        added = self._add(add)
        execute(
            "INSERT INTO idempotency (key, request, first, last, created_at, started)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (add.key, add.request, added.first, added.last, added.created_at, added.started),
        )
        execute(
            "DELETE FROM idempotency WHERE key IN ("
            "SELECT key FROM idempotency WHERE finished_at <= ? ORDER BY finished_at LIMIT ?)",
            (self._stamp - self._limits.idempotency_keep, _SWEEP),
        )
        return added

    def _finish(self, finish: Finish) -> Done:
        if finish.history_num != self._head:
            raise NotHead
        self._insert_rows()
        rows = self._from(finish.history_num, 2)
        if not rows or rows[0][0] != self._head:
            raise StoreFailed("corrupt", "the head is not in the queue")
        if not self._paused and _run_length(rows) == 2:  # noqa: PLR2004 - as many as were looked at: there may be more
            rows = self._from(finish.history_num, RUN_MAX + 1)
        # Those behind the first of a run would start in this commit, which a pause forbids.
        length = 1 if self._paused else _run_length(rows)
        # Never early, even when the wall clock went back during the wait.
        self._stamp = max(self._stamp, (self._head_started_at or 0) + rows[0][2])
        finished = self._append(rows[:length], State.DONE)
        self._remove(finished)
        self._advance(finished, rows[length:])
        return Done(finished)

    def _cancel(self, cancel: Cancel) -> Cancelled:
        self._insert_rows()
        number = cancel.history_num
        rows = [row for row in self._from(number, 1) if row[0] == number]
        if not rows:
            raise self._why_not_queued(number)
        return self._take_out(rows)

    def _cancel_range(self, cancel: CancelRange) -> Cancelled:
        self._insert_rows()
        rows = self._connection.execute(
            "SELECT history_num, num, timeout, created_at FROM queue"
            " WHERE history_num BETWEEN ? AND ? ORDER BY history_num DESC LIMIT ?",
            (cancel.first, cancel.last, CANCEL_MAX),
        ).fetchall()
        return self._take_out(rows[::-1]) if rows else Cancelled(())

    def _why_not_queued(self, history_num: int) -> ServiceError:
        if history_num > self._last_history_num:
            return NotFound()
        kept = self._connection.execute(
            "SELECT true FROM history WHERE history_num = ?", (history_num,)
        ).fetchone()
        return errors.AlreadyFinished() if kept else Gone()

    def _take_out(self, rows: Sequence[_Row]) -> Cancelled:
        """Cancel tasks that stand one behind the other in the queue."""
        first = self._from(0, 1)[0][0]
        cancelled = self._append(rows, State.CANCELLED)
        self._remove(cancelled)
        if rows[0][0] == first:
            self._advance(cancelled, self._from(first, 1))
        else:
            skipped = [value for row in rows for value in (row[0], row[2])]
            self._insert("skipped", skipped, columns=2)
        return Cancelled(cancelled)

    def _switch(self, switch: SetPaused) -> PauseState:
        changed = bool(self._paused) != switch.paused
        self._paused = int(switch.paused)
        if not switch.paused and self._head is None and self._depth:
            self._insert_rows()
            self._start(*self._from(0, 1)[0])
        return PauseState(switch.paused, changed)

    def _from(self, history_num: int, limit: int) -> list[_Row]:
        return self._connection.execute(
            "SELECT history_num, num, timeout, created_at FROM queue WHERE history_num >= ?"
            " ORDER BY history_num LIMIT ?",
            (history_num, limit),
        ).fetchall()

    def _append(self, rows: Sequence[_Row], outcome: State) -> list[Task]:
        """Write the tasks into the history, all finished now."""
        tasks: list[Task] = []
        values: list[Any] = []
        for history_num, num, timeout, created_at in rows:
            self._last_finish_num += 1
            self._backlog -= timeout
            if history_num == self._head:
                started_at = self._head_started_at
            else:
                # Those behind the first of a run start in this very commit.
                started_at = self._stamp if outcome is State.DONE else None
            values += (history_num, num, timeout, created_at, outcome.value)
            values += (started_at, self._stamp, self._last_finish_num)
            tasks.append(
                Task(history_num, num, timeout, created_at, outcome, started_at, self._stamp)
            )
        self._insert("history", values, columns=8)
        return tasks

    def _remove(self, tasks: Sequence[Task]) -> None:
        ends = (tasks[0].history_num, tasks[-1].history_num)
        removed = self._connection.execute(
            "DELETE FROM queue WHERE history_num BETWEEN ? AND ?", ends
        ).rowcount
        if removed != len(tasks):
            raise StoreFailed("corrupt", "the queue does not hold what was read")
        self._depth -= removed
        self._connection.execute(
            # A key lives on from the moment the last of its tasks is finished, be it not the
            # one with the greatest number. Keys do not overlap: at most one reaches beyond.
            """
            UPDATE idempotency SET finished_at = ?
            WHERE last BETWEEN ? AND coalesce(
                (SELECT min(last) FROM idempotency WHERE last > ?), 9223372036854775807
            )
            AND finished_at IS NULL
            AND NOT EXISTS (SELECT true FROM queue WHERE history_num BETWEEN first AND last)
            """,
            (self._stamp, *ends),
        )

    def _advance(self, gone: Sequence[Task], rows: Sequence[_Row]) -> None:
        """Go on with the next of the queue, if any, behind the first that are gone from it."""
        self._head = self._head_started_at = self._oldest_created_at = self.started = None
        first = rows[0][0] if rows else self._last_history_num + 1
        if first > gone[0].history_num + len(gone):
            self._connection.execute("DELETE FROM skipped WHERE history_num < ?", (first,))
        if rows:
            self._oldest_created_at = rows[0][3]
            if not self._paused:
                self._start(*rows[0])

    def _prune(self) -> None:
        """Remove the oldest finishes that retention does not keep, some in each commit."""
        if self._limits.history_keep is None:
            return
        due = self._count_prunable(self._limits.history_keep)
        if due > 0:
            through = self._pruned + min(due, PRUNE_MAX)
            removed = self._connection.execute(
                "DELETE FROM history WHERE finish_num BETWEEN ? AND ?", (self._pruned + 1, through)
            ).rowcount
            if removed != through - self._pruned:
                raise StoreFailed("corrupt", "the history does not hold its finishes")
            self._pruned = through
            if due > PRUNE_MAX:
                self.prune_in = 0.0

    def _count_prunable(self, keep: Retention) -> int:
        """Return how many finishes may go (not more than it takes to know that some remain)."""
        if keep.age is None:
            return self._last_finish_num - self._pruned - (keep.tasks or 0)
        # The stamps never decrease along the finish numbers.
        oldest = self._connection.execute(
            "SELECT finished_at FROM history WHERE finish_num > ? ORDER BY finish_num LIMIT 1",
            (self._pruned,),
        ).fetchone()
        if oldest is None:
            return 0
        self.prune_in = max(oldest[0] + keep.age - self._stamp, 0) / SECOND
        if self.prune_in:
            return 0
        (count,) = self._connection.execute(
            "SELECT count(*) FROM (SELECT finished_at FROM history WHERE finish_num > ?"
            " ORDER BY finish_num LIMIT ?) WHERE finished_at <= ?",
            (self._pruned, PRUNE_MAX + 1, self._stamp - keep.age),
        ).fetchone()
        return int(count)

    def _insert_rows(self) -> None:
        rows, self._rows = self._rows, []
        self._insert("queue", rows, columns=5)

    def _insert(self, table: str, values: list[Any], columns: int) -> None:
        done, left = 0, len(values) // columns
        while left:
            # Few rows go in one statement, whatever their number: its text is kept for the next.
            size = ROWS_MANY if left >= ROWS_MANY else min(left, ROWS_FEW)
            end = done + size * columns
            self._connection.execute(_insert_sql(table, columns, size), values[done:end])
            done, left = end, left - size


def _run_length(rows: Sequence[_Row]) -> int:
    """Return how many of these finish together: one, or a run of zero timeouts."""
    if rows[0][2] > 0:
        return 1
    for length, row in enumerate(rows[:RUN_MAX]):
        if row[2] > 0:
            return length
    return min(len(rows), RUN_MAX)


@cache
def _insert_sql(table: str, columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([one] * rows)}"
