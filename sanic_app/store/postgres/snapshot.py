"""A queue in PostgreSQL as of one moment, only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg

from sanic_app.errors import ServiceError, StartError, StoreFailed
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres import bulk
from sanic_app.store.postgres.failures import failure
from sanic_app.store.postgres.servers import Connection

ROWS = 1_000
LOCK_SECONDS = 60
"""How long it waits for a node that migrates."""


class PostgresSnapshot:
    """All tables of one queue, for as long as the context lasts; nodes may serve it meanwhile."""

    def __init__(self, url: str, schema: str) -> None:
        """Take what names the queue."""
        self._servers = bulk.servers(url, schema)
        self._schema = schema

    def __enter__(self) -> PostgresTables:
        """Connect, and begin the moment.

        Raises:
            StartError: there is no such queue, or it cannot be read.
        """
        self._connection = bulk.connect(self._servers, LOCK_SECONDS)
        try:
            return self._begin()
        except BaseException:
            self._connection.close()
            raise

    def __exit__(self, *_: object) -> None:
        """End the moment."""
        with suppress(psycopg.Error):
            self._connection.close()

    def _begin(self) -> PostgresTables:
        where = f"the schema {self._schema} at {self._servers.where}"
        with bulk.explained(f"cannot read {where}"):
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                ((version,),) = self._connection.execute("SELECT schema FROM meta").fetchall()
            except (psycopg.errors.UndefinedTable, ValueError):
                raise StartError(f"there is no queue in {where}") from None
            self._connection.execute("SAVEPOINT begun")
        return PostgresTables(self._connection, version)


class PostgresTables:
    """All tables of one queue, read within the open transaction of a connection.

    The transaction has a savepoint ``begun``: after an error it goes on from there.
    """

    def __init__(self, connection: Connection, version: int) -> None:
        """Take the connection, and the version of the schema in its search path."""
        self._connection = connection
        self._version = version
        self._cursors = 0

    @property
    def outdated(self) -> bool:
        """Whether the schema is older than this program's."""
        return self._version < len(migrations("postgres"))

    def verify(self) -> None:
        """Do nothing: the server keeps the moment."""

    def select(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a query, through a cursor of the server.

        One that is not read to its end stays open until the transaction ends: whoever collects the
        garbage must not talk to the server.
        """
        self._cursors += 1
        name = f"rows{self._cursors}"
        execute = self._connection.execute
        try:
            execute(f"DECLARE {name} NO SCROLL CURSOR FOR {sql}")
            while rows := execute(f"FETCH {ROWS} FROM {name}").fetchall():
                yield from rows
            execute(f"CLOSE {name}")
        except psycopg.Error as error:
            found = failure(error)
            with bulk.explained("the connection to PostgreSQL was lost"):
                self._connection.execute("ROLLBACK TO SAVEPOINT begun")
            detail = found.detail if isinstance(found, ServiceError) else str(found)
            raise StoreFailed("corrupt", detail) from error

    def engine_faults(self) -> Iterator[str]:
        """Return what PostgreSQL's catalogues say; amcheck looks into the indices, if it is there.

        Damage of tables shows when they are read.
        """
        if self.outdated:
            yield (
                f"its schema version is {self._version}, and this program's"
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
        for table, name in self.select(
            "SELECT relname::text, tgname::text FROM pg_trigger JOIN pg_class ON pg_class.oid ="
            f" tgrelid WHERE relnamespace = (SELECT oid {mine}) AND NOT tgisinternal"
        ):
            yield f"{table} has the trigger {name}, which no migration makes"
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
