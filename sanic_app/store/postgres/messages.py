"""What a transaction sends to PostgreSQL: many statements in one message.

Each message costs a round trip. So writes are kept back until something has to be read, or until
the end.

All are texts without parameters, in the simple protocol. After a pipeline the server does not heed
``idle_in_transaction_session_timeout`` (psycopg sends Sync and then Flush), and a node that was
stopped there would stop all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from sanic_app.store.postgres.servers import Connection


class Messages:
    """The messages of one transaction, and the writes that were not sent yet."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection of the transaction."""
        self._connection = connection
        self._kept: list[str] = []

    def literal(self, value: object) -> str:
        """Write an integer, a string, or None in SQL."""
        if isinstance(value, str):
            return sql.Literal(value).as_string(self._connection)
        return "NULL" if value is None else str(value)

    def keep(self, statement: str, *values: object) -> None:
        """Keep a write back, with a value for each ``?``."""
        self._kept.append(self._filled(statement, values))

    def insert(
        self, table: str, rows: Sequence[Sequence[object]], kinds: Sequence[str], rest: str = ""
    ) -> None:
        """Keep an INSERT back: of rows whose columns have these types, and what follows it."""
        columns = zip(*rows, strict=True)
        arrays = ", ".join(
            f"{array(column)}::{kind}[]" for column, kind in zip(columns, kinds, strict=True)
        )
        self.keep(f"INSERT INTO {table} SELECT * FROM unnest({arrays}){rest}")

    def delete(self, table: str, column: str, first: int, last: int, count: int) -> None:
        """Keep a DELETE back that fails, by a division by zero, unless it removes so many rows."""
        self.keep(
            f"WITH gone AS (DELETE FROM {table} WHERE {column} BETWEEN {first} AND {last}"
            f" RETURNING 1) SELECT 1 / (count(*) = {count})::integer FROM gone"
        )

    def read(self, statement: str, *values: object) -> list[Any]:
        """Return the rows of a statement, behind the writes that were kept back."""
        return self.send(self._filled(statement, values))[-1]

    def send(self, *statements: str) -> list[list[Any]]:
        """Send what is kept back and these; return the rows of each that has some.

        Raises:
            psycopg.Error: see ``failures.py``.
        """
        kept, self._kept = self._kept, []
        cursor = self._connection.execute(";".join((*kept, *statements)))
        found = []
        more: bool | None = True
        while more:
            # The cursor's own description would cost more than the rows.
            if cursor.pgresult is not None and cursor.pgresult.status == ExecStatus.TUPLES_OK:
                found.append(cursor.fetchall())
            more = cursor.nextset()
        if statements[-1] == "COMMIT" and cursor.statusmessage != "COMMIT":
            raise psycopg.InternalError(f"COMMIT was answered with {cursor.statusmessage}")
        return found

    def _filled(self, statement: str, values: Sequence[object]) -> str:
        first, *rest = statement.split("?")
        filled = zip(map(self.literal, values), rest, strict=True)
        return first + "".join(map("".join, filled))


def array(values: Iterable[object]) -> str:
    """Write an array in SQL."""
    return f"'{{{','.join('NULL' if each is None else str(each) for each in values)}}}'"
