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

from sanic_app.errors import KeyReused, NotHead, QueueFull, ServiceError, StoreFailed
from sanic_app.store import (
    RUN_MAX,
    Add,
    Added,
    Commit,
    Figures,
    Finish,
    Finished,
    Result,
    Write,
)
from sanic_app.store.sqlite_file import FIGURES
from sanic_app.task import State, Task

_SUM_MASK = 2**63 - 1
_SWEEP = 10
"""How many expired idempotency keys go with each commit that writes one."""

_ASSIGNMENTS = ", ".join(f"{name} = ?" for name in Figures._fields)
_UPDATE_STATE = f"UPDATE state SET {_ASSIGNMENTS} WHERE id = 1"  # noqa: S608 - no input in it


class Limits(NamedTuple):
    """How long a key lives on after its last task is finished (microseconds); the most tasks."""

    idempotency_keep: int
    queue_max: int


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
    return Commit(results, figures, transaction.started)


class _Transaction:
    """The state row while a transaction works on it, and the rows not inserted yet."""

    def __init__(self, connection: sqlite3.Connection, wall: int, limits: Limits) -> None:
        row = connection.execute(FIGURES).fetchone()
        if row is None:
            raise StoreFailed("corrupt", "the state row is missing")  # noqa: EM101
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
        self._rows: list[int] = []
        self.started: Task | None = None

    def apply(self, write: Write) -> Result | ServiceError:
        try:
            if isinstance(write, Add):
                return self._add_once(write) if write.key is not None else self._add(write)
            return self._finish(write)
        except (KeyReused, NotHead, QueueFull) as refusal:
            return refusal

    def end(self) -> Figures:
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
            self._before.pruned,
        )
        if figures._replace(last_stamp=self._before.last_stamp) == self._before:
            # Replays and refusals alone: there is nothing to make durable.
            self._connection.execute("ROLLBACK")
            return self._before
        self._insert_rows()
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

    def _finish(self, finish: Finish) -> Finished:
        if finish.history_num != self._head or self._head_started_at is None:
            raise NotHead
        self._insert_rows()
        rows = self._first(2)
        if not rows or rows[0][0] != self._head:
            raise StoreFailed("corrupt", "the head is not in the queue")  # noqa: EM101
        if _run_length(rows) == 2:  # noqa: PLR2004 - as many as were looked at: there may be more
            rows = self._first(RUN_MAX + 1)
        length = _run_length(rows)
        finished = self._append(rows[:length])
        self._remove(finished)
        self._head = self._head_started_at = self._oldest_created_at = self.started = None
        if length < len(rows):
            self._oldest_created_at = rows[length][3]
            if not self._paused:
                self._start(*rows[length])
        return Finished(finished)

    def _first(self, limit: int) -> list[tuple[int, int, int, int]]:
        return self._connection.execute(
            "SELECT history_num, num, timeout, created_at FROM queue WHERE history_num >= ?"
            " ORDER BY history_num LIMIT ?",
            (self._head, limit),
        ).fetchall()

    def _append(self, rows: Sequence[tuple[int, int, int, int]]) -> list[Task]:
        started_at = self._head_started_at or 0
        # Never early, even when the wall clock went back during the wait.
        self._stamp = finished_at = max(self._stamp, started_at + rows[0][2])
        tasks: list[Task] = []
        values: list[Any] = []
        for history_num, num, timeout, created_at in rows:
            self._last_finish_num += 1
            self._backlog -= timeout
            values += (history_num, num, timeout, created_at, "done")
            values += (started_at, finished_at, self._last_finish_num)
            tasks.append(
                Task(history_num, num, timeout, created_at, State.DONE, started_at, finished_at)
            )
            # Those behind the first of a run start in this very commit.
            started_at = finished_at
        self._insert("history", values, columns=8)
        return tasks

    def _remove(self, tasks: Sequence[Task]) -> None:
        ends = (tasks[0].history_num, tasks[-1].history_num)
        removed = self._connection.execute(
            "DELETE FROM queue WHERE history_num BETWEEN ? AND ?", ends
        ).rowcount
        if removed != len(tasks):
            raise StoreFailed("corrupt", "the queue does not hold what was read")  # noqa: EM101
        self._depth -= removed
        self._connection.execute(
            # A key lives on from the moment the last of its tasks is finished.
            """
            UPDATE idempotency SET finished_at = ?
            WHERE last BETWEEN ? AND ?
            """,
            (self._stamp, *ends),
        )

    def _insert_rows(self) -> None:
        rows, self._rows = self._rows, []
        self._insert("queue", rows, columns=5)

    def _insert(self, table: str, values: list[Any], columns: int) -> None:
        done, left = 0, len(values) // columns
        for size in (512, 64, 8, 1):
            while left >= size:
                end = done + size * columns
                self._connection.execute(_insert_sql(table, columns, size), values[done:end])
                done, left = end, left - size


def _run_length(rows: Sequence[tuple[int, int, int, int]]) -> int:
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
    return f"INSERT INTO {table} VALUES {', '.join([one] * rows)}"  # noqa: S608 - no input in it
