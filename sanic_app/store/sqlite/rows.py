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

from sanic_app.errors import StoreFailed
from sanic_app.store import Figures
from sanic_app.store.rows import SqlRows

ROWS_FEW, ROWS_MANY = 96, 512
"""Any number of rows up to the first has a statement of its own, and so has the second."""

FIGURES = f"SELECT {', '.join(Figures._fields)} FROM state WHERE id = 1"
COUNTS = 6
"""So many figures come first that each add changes; the others are about the front of the queue."""
UPDATE_COUNTS, UPDATE_STATE = (
    f"UPDATE state SET {', '.join(f'{name} = ?' for name in names)}"
    for names in (Figures._fields[:COUNTS], Figures._fields)
)


class SqliteRows(SqlRows):
    """See ``Rows`` in ``transition.py``."""

    def __init__(
        self, connection: sqlite3.Connection, wall: int, left: Figures, *, alone: bool
    ) -> None:
        """Take the connection with the open transaction, and the state row that is expected.

        ``alone`` says that nobody else has committed since the row was left so.
        """
        self._execute = connection.execute
        self._wall = wall
        self._left = left
        self._alone = alone

    def wall(self) -> int:
        """Return the clock as it was when the transaction had begun, or what goes on for it."""
        return self._wall

    def figures(self) -> Figures:
        """Return the state row; read it where it may not be the expected one."""
        if self._alone:
            return self._left
        row = self._execute(FIGURES).fetchone()
        if row is None:
            raise StoreFailed("corrupt", "the state row is missing")
        if row != self._left:
            raise StoreFailed("other", "the state row was changed by another program")
        return self._left

    def put_figures(self, figures: Figures) -> None:
        """Write the state row; only its counts where the others stay.

        SQLite would check the foreign key of the head again, and all the row's conditions.
        """
        if figures[COUNTS:] == self._left[COUNTS:]:
            self._execute(UPDATE_COUNTS, figures[:COUNTS])
        else:
            self._execute(UPDATE_STATE, figures)

    def sweep_keys(self, until: int, limit: int) -> None:
        """Delete expired keys."""
        sql = """
            DELETE FROM idempotency WHERE key IN (
                SELECT key FROM idempotency WHERE finished_at <= ? ORDER BY finished_at LIMIT ?
            )
        """
        self._write(sql, until, limit)

    def _read(self, sql: str, *values: object) -> list[Any]:
        return self._execute(sql, values).fetchall()

    def _write(self, sql: str, *values: object) -> None:
        self._execute(sql, values)

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
