"""A queue in PostgreSQL as of one moment, only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg

from sanic_app.errors import DiskFull, StartError, StoreBusy, StoreFailed
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres import bulk, catalogue
from sanic_app.store.postgres.failures import Lost, failure, line_of
from sanic_app.store.postgres.schema import require_usage
from sanic_app.store.postgres.servers import Connection

ROWS = 1_000
LOCK_SECONDS = 60
"""How long it waits for a node that migrates."""

_READ_INDICES = """
    SELECT indexrelid::regclass::text, format('SELECT count(*) FROM (SELECT %1$s FROM %2$s %3$s'
        ' ORDER BY %1$s) AS entries', columns, indrelid::regclass,
        'WHERE ' || pg_get_expr(indpred, indrelid))
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid, LATERAL (
        SELECT string_agg(pg_get_indexdef(indexrelid, place, true), ', ' ORDER BY place) AS columns
        FROM generate_series(1, indnkeyatts) AS place
    ) AS keys
    WHERE relnamespace = current_schema()::regnamespace AND indisvalid AND relam = (
        SELECT oid FROM pg_am WHERE amname = 'btree'
    )
    ORDER BY 1
"""
"""Each index with a query that passes over all of it where nothing can be sorted."""


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
            require_usage(self._connection, self._schema)
            try:
                ((version,),) = self._connection.execute("SELECT schema FROM meta").fetchall()
            except (psycopg.errors.UndefinedTable, ValueError):
                raise StartError(f"there is no queue in {where}") from None
            if version > (known := len(migrations("postgres"))):
                raise StartError(
                    f"{where} has schema version {version}, newer than this program's {known}:"
                    " use a newer one"
                )
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
            denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
            if denied or isinstance(failure(error), Lost | DiskFull | StoreBusy):
                # No room for the server's own files, or somebody has cancelled the query.
                raise StartError(f"cannot read all of it: {line_of(error)}") from error
            with bulk.explained("the connection to PostgreSQL was lost"):
                self._connection.execute("ROLLBACK TO SAVEPOINT begun")
            raise StoreFailed("corrupt", line_of(error)) from error

    def engine_faults(self) -> Iterator[str]:
        """Return what PostgreSQL says. Damage of tables shows when they are read."""
        checks = [self._amcheck]
        if self.outdated:
            yield (
                f"its schema version is {self._version}, and this program's"
                f" {len(migrations('postgres'))}: a node brings it up to date when it starts"
            )
        else:
            checks = [self._schema, self._numbers, self._indices, *checks]
        for check in checks:
            try:
                yield from check()
            except StoreFailed as error:
                yield f"{check.__name__.strip('_')}: {error.detail}"

    def _schema(self) -> Iterator[str]:
        """Compare tables, columns, constraints and indices with what the migrations make."""
        found = {part: " ".join(text.split()) for part, text in self.select(catalogue.LISTING)}
        yield from catalogue.differences(found)

    def _numbers(self) -> Iterator[str]:
        """Compare what the state row has on this engine alone."""
        for first, commit_num in self.select("SELECT first_history_num, commit_num FROM state"):
            for (number,) in self.select("SELECT min(history_num) FROM queue"):
                if number is not None and number < first:
                    yield f"state: first_history_num is {first}, and the queue begins with {number}"
            for (number,) in self.select("SELECT max(commit_num) FROM node_commit"):
                if number is not None and number > commit_num:
                    yield f"state: commit_num is {commit_num}, and a node has made commit {number}"

    def _indices(self) -> Iterator[str]:
        """Read each index to its end: a start, or a key, may need one that no other query does."""
        plan = "SET LOCAL enable_seqscan = {0}; SET LOCAL enable_sort = {0}"
        for name, query in list(self.select(_READ_INDICES)):
            # After an error the savepoint has the settings before.
            self._connection.execute(plan.format("off"))
            try:
                list(self.select(query))
            except StoreFailed as error:
                yield f"index {name}: cannot be read: {error.detail}"
            self._connection.execute(plan.format("on"))

    def _amcheck(self) -> Iterator[str]:
        """Let the extension look into the indices, where it is installed and may be used."""
        for (function,) in self.select(
            "SELECT format('%I.%I', nspname, proname) FROM pg_extension"
            " JOIN pg_namespace ON pg_namespace.oid = extnamespace"
            " JOIN pg_proc ON pronamespace = extnamespace"
            " WHERE extname = 'amcheck' AND proname = 'bt_index_check' AND pronargs = 2"
            " AND has_function_privilege(pg_proc.oid, 'EXECUTE')"
        ):
            for _ in self.select(
                f"SELECT {function}(pg_class.oid, true) FROM pg_class"
                " JOIN pg_am ON pg_am.oid = relam AND amname = 'btree'"
                " WHERE relkind = 'i' AND relnamespace = current_schema()::regnamespace"
            ):
                pass
        yield from ()
