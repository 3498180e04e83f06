"""The tables of SQLite in one open transaction.

Runs in the thread of the writing connection. Each statement releases the interpreter's lock while
SQLite works and takes it back afterwards, which costs more than the statement on a busy service.
So there are few statements, each for many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from sanic_app.clock import WallClock
from sanic_app.errors import StoreFailed
from sanic_app.store import Commit, Figures, Write
from sanic_app.store.keys import FIND_KEY, KeyRow
from sanic_app.store.skipped import Block
from sanic_app.store.sqlite import origin
from sanic_app.store.transition import Limits, NewRow, QueuedRow, Transition, history_rows
from sanic_app.task import Task

ROWS_FEW, ROWS_MANY = 96, 512
"""Any number of rows up to the first has a statement of its own, and so has the second."""

FIGURES = f"SELECT {', '.join(Figures._fields)} FROM state WHERE id = 1"
_UPDATE_STATE = f"UPDATE state SET {', '.join(f'{name} = ?' for name in Figures._fields)}"

_ADD_TO_BLOCK = """
    ON CONFLICT (level, block) DO UPDATE SET
        tasks = tasks + excluded.tasks,
        seconds = seconds + excluded.seconds,
        micros = micros + excluded.micros
"""


def apply(
    connection: sqlite3.Connection,
    writes: Sequence[Write],
    clock: WallClock,
    limits: Limits,
    left: Figures,
    *,
    mark: bool,
) -> Commit:
    """Apply the writes in one transaction and return when it is synced.

    ``left`` is the state row as the only owner left it. ``mark``: a commit that changes something
    renews the mark (see ``origin.py``).

    Raises:
        sqlite3.Error: the transaction failed; the caller rolls back.
        StoreFailed: somebody else has changed the state row.
    """
    connection.execute("BEGIN IMMEDIATE")
    transition = Transition(SqliteRows(connection, clock, left), limits)
    results = [transition.apply(write) for write in writes]
    figures, changed = transition.end()
    if changed:
        connection.execute(_UPDATE_STATE, figures)
        if mark:
            origin.renew(connection)
    connection.execute("COMMIT" if changed else "ROLLBACK")
    now = figures.stamp(clock.wall())
    return Commit(results, figures, now, transition.started, transition.prune_in)


class SqliteRows:
    """See ``Rows`` in ``transition.py``."""

    def __init__(self, connection: sqlite3.Connection, clock: WallClock, left: Figures) -> None:
        """Take the connection with the open transaction, and the state row that is expected."""
        self._execute = connection.execute
        self._clock = clock
        self._left = left

    def wall(self) -> int:
        """Read the machine's wall clock."""
        return self._clock.wall()

    def figures(self) -> Figures:
        """Read the state row."""
        row = self._execute(FIGURES).fetchone()
        if row is None:
            raise StoreFailed("corrupt", "the state row is missing")
        if row != self._left:
            raise StoreFailed("other", "the state row was changed by another program")
        return Figures(*row)

    # The queue.

    def queue(self, rows: Sequence[NewRow]) -> None:
        """Insert into the queue."""
        self._insert("queue", rows)

    def queued(self, first: int, limit: int) -> list[QueuedRow]:
        """Read the queue from a number on."""
        return self._execute(
            "SELECT history_num, num, timeout, created_at FROM queue WHERE history_num >= ?"
            " ORDER BY history_num LIMIT ?",
            (first, limit),
        ).fetchall()

    def last_queued(self, first: int, last: int, limit: int) -> list[QueuedRow]:
        """Read the end of a range of the queue."""
        found = self._execute(
            "SELECT history_num, num, timeout, created_at FROM queue"
            " WHERE history_num BETWEEN ? AND ? ORDER BY history_num DESC LIMIT ?",
            (first, last, limit),
        ).fetchall()
        return found[::-1]

    def remove(self, first: int, last: int, count: int) -> None:
        """Delete from the queue."""
        self._delete("queue", "history_num", first, last, count)

    def skip(self, blocks: Sequence[Block]) -> None:
        """Add to the skipped."""
        self._insert("skipped", blocks, _ADD_TO_BLOCK)

    def forget_skipped(self, passed: Sequence[tuple[int, int]], limit: int) -> None:
        """Delete from the skipped."""
        ends = ", ".join(["(?, ?)"] * len(passed))
        self._execute(
            f"WITH passed (level, ending) AS (VALUES {ends})"
            " DELETE FROM skipped WHERE (level, block) IN ("
            " SELECT skipped.level, block FROM passed CROSS JOIN skipped"
            " WHERE skipped.level = passed.level AND block < ending LIMIT ?)",
            (*chain.from_iterable(passed), limit),
        )

    # The history.

    def append(self, tasks: Sequence[Task], finish_num: int) -> None:
        """Insert into the history."""
        self._insert("history", history_rows(tasks, finish_num))

    def in_history(self, history_num: int) -> bool:
        """Look into the history."""
        return bool(
            self._execute(
                "SELECT true FROM history WHERE history_num = ?", (history_num,)
            ).fetchone()
        )

    def next_finished_at(self, finish_num: int) -> int | None:
        """Read the next finish of the history."""
        row = self._execute(
            "SELECT finished_at FROM history WHERE finish_num > ? ORDER BY finish_num LIMIT 1",
            (finish_num,),
        ).fetchone()
        return row and int(row[0])

    def count_finished(self, finish_num: int, until: int, limit: int) -> int:
        """Count the next finishes of the history."""
        (count,) = self._execute(
            "SELECT count(*) FROM (SELECT finished_at FROM history WHERE finish_num > ?"
            " ORDER BY finish_num LIMIT ?) WHERE finished_at <= ?",
            (finish_num, limit, until),
        ).fetchone()
        return int(count)

    def prune(self, first: int, last: int, count: int) -> None:
        """Delete from the history."""
        self._delete("history", "finish_num", first, last, count)

    # The keys.

    def find_key(self, key: str) -> KeyRow | None:
        """Read a key."""
        row = self._execute(FIND_KEY, (key,)).fetchone()
        return row and KeyRow(*row)

    def put_key(self, key: str, row: KeyRow) -> None:
        """Insert a key, or write over an expired one."""
        columns = ("key", *KeyRow._fields)
        self._execute(
            f"INSERT INTO idempotency ({', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET"
            f" ({', '.join(columns)}) = (excluded.{', excluded.'.join(columns)})",
            (key, *row),
        )

    def end_keys(self, first: int, last: int, stamp: int) -> None:
        """Update the keys of removed tasks. Keys do not overlap: at most one reaches beyond."""
        self._execute(
            """
            UPDATE idempotency SET finished_at = ?
            WHERE last BETWEEN ? AND coalesce(
                (SELECT min(last) FROM idempotency WHERE last > ?), 9223372036854775807
            )
            AND finished_at IS NULL
            AND NOT EXISTS (SELECT true FROM queue WHERE history_num BETWEEN first AND last)
            """,
            (stamp, first, last),
        )

    def sweep_keys(self, until: int, limit: int) -> None:
        """Delete expired keys."""
        self._execute(
            "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency"
            " WHERE finished_at <= ? ORDER BY finished_at LIMIT ?)",
            (until, limit),
        )

    def _delete(self, table: str, column: str, first: int, last: int, count: int) -> None:
        sql = f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?"
        if self._execute(sql, (first, last)).rowcount != count:
            raise StoreFailed("corrupt", f"the {table} does not hold what was read")

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], conflict: str = "") -> None:
        done = 0
        while left := len(rows) - done:
            # Few rows go in one statement, whatever their number: its text is kept for the next.
            size = ROWS_MANY if left >= ROWS_MANY else min(left, ROWS_FEW)
            values = tuple(chain.from_iterable(rows[done : done + size]))
            self._execute(_insert_sql(table, len(rows[0]), size) + conflict, values)
            done += size


@cache
def _insert_sql(table: str, columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([one] * rows)}"
