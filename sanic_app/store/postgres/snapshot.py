"""A queue in PostgreSQL as of one moment, only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psycopg

from sanic_app.errors import StartError, StoreFailed
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres.failures import Lost, failure
from sanic_app.store.postgres.servers import Connection, Servers

ROWS = 1_000


class PostgresSnapshot:
    """All tables of one queue, for as long as the context lasts; nodes may serve it meanwhile."""

    def __init__(self, url: str, schema: str) -> None:
        """Take what names the queue."""
        self._servers = Servers(url, schema)
        self._schema = schema
        self._cursors = 0

    def __enter__(self) -> Self:
        """Connect, and begin the moment.

        Raises:
            StartError: there is no such queue, or it cannot be read.
        """
        try:
            self._connection: Connection = self._servers.connect()
        except Lost as error:
            raise StartError(f"cannot connect to {self._servers.where}: {error}") from None
        # The limits of a node are for short transactions. Here whole tables are read.
        self._connection.execute(
            "SET idle_in_transaction_session_timeout = 0; SET enable_seqscan = on;"
            " BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )
        try:
            ((self.version,),) = self._connection.execute("SELECT schema FROM meta").fetchall()
        except (psycopg.Error, ValueError):
            self._connection.close()
            where = self._servers.where
            raise StartError(f"there is no queue in the schema {self._schema} at {where}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the moment."""
        with suppress(psycopg.Error):
            self._connection.close()

    def verify(self) -> None:
        """Do nothing: the server keeps the moment."""

    @property
    def outdated(self) -> bool:
        """Whether the schema is older than this program's."""
        return bool(self.version < len(migrations("postgres")))

    def select(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a query, through a cursor of the server."""
        self._cursors += 1
        try:
            with self._connection.cursor(f"rows{self._cursors}") as cursor:
                cursor.itersize = ROWS
                yield from cursor.execute(sql)
        except psycopg.Error as error:
            found = failure(error)
            raise StoreFailed("corrupt", str(found)) from error

    def engine_faults(self) -> Iterator[str]:
        """Return what PostgreSQL's catalogues say; amcheck looks into the indices, if it is there.

        Damage of tables shows when they are read.
        """
        if self.outdated:
            yield (
                f"its schema version is {self.version}, and this program's"
                f" {len(migrations('postgres'))}: a node brings it up to date when it starts"
            )
        mine = "FROM pg_namespace WHERE nspname = current_schema()"
        for (name,) in self.select(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON oid = indexrelid"
            f" WHERE relnamespace = (SELECT oid {mine}) AND NOT (indisvalid AND indisready)"
        ):
            yield f"the index {name} is not valid"
        for (name,) in self.select(
            "SELECT conname::text FROM pg_constraint"
            f" WHERE connamespace = (SELECT oid {mine}) AND NOT convalidated"
        ):
            yield f"the constraint {name} is not validated"
        if list(self.select("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")):
            try:
                list(
                    self.select(
                        "SELECT bt_index_check(pg_class.oid, true) FROM pg_class"
                        " JOIN pg_am ON pg_am.oid = relam AND amname = 'btree'"
                        f" WHERE relkind = 'i' AND relnamespace = (SELECT oid {mine})"
                    )
                )
            except StoreFailed as error:
                yield f"amcheck: {error.detail}"
