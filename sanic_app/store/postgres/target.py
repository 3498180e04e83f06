"""A new queue in a schema where there is none: it is there whole and checked, or not at all.

Everything happens in one transaction: the tables are made and filled in a schema with another name,
checked, and given their name. So whatever is killed, nothing is left that anybody could see. The
lock that starting nodes take is taken for the last step alone, and nobody waits for the copy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self
from uuid import uuid4

import psycopg
from psycopg import sql

from sanic_app.errors import StartError, StoreFailed
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres import bulk
from sanic_app.store.postgres.failures import line_of
from sanic_app.store.postgres.link import fetch
from sanic_app.store.postgres.schema import LOCK_CLASS, MIGRATE_SECONDS, exists, tables
from sanic_app.store.postgres.servers import Connection
from sanic_app.store.postgres.snapshot import PostgresTables
from sanic_app.store.snapshot import TABLES, Progress, Snapshot, Table, rows_of


class PostgresTarget:
    """The schema of a copy."""

    def __init__(self, url: str, schema: str) -> None:
        """Take what names the queue that is to be."""
        self._servers = bulk.servers(url, schema)
        self._schema = schema
        self._new = f"sanic_app_new_{uuid4().hex}"
        self._where = f"the schema {schema} at {self._servers.where}"

    def __enter__(self) -> Self:
        """Connect, and begin the transaction.

        Raises:
            StartError: there is a queue, or it cannot be written.
        """
        self._connection: Connection = bulk.connect(self._servers, MIGRATE_SECONDS)
        try:
            with self._explained():
                self._refuse_what_is_there()
            self.empty()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what was not published."""
        with suppress(psycopg.Error):
            self._connection.close()

    def empty(self) -> None:
        """Begin anew."""
        with self._explained():
            # The end waits for the disk and the standbys, whatever the role has for a default.
            self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN; SET LOCAL synchronous_commit = on")
            self._execute("CREATE SCHEMA {new}; SET LOCAL search_path TO {new}")
            for migration in migrations("postgres"):
                self._connection.execute(migration.sql)
            self._connection.execute(f"UPDATE meta SET schema = {len(migrations('postgres'))}")

    def fill(self, source: Snapshot, progress: Progress) -> None:
        """Copy all tables. Lineage and store-wide settings are those of a new queue."""
        try:
            for name, table, rows in rows_of(source, progress):
                if name == "state":
                    self._fill_state(table, list(rows))
                    continue
                copying = f"COPY {name} ({table.listed}) FROM STDIN (FREEZE)"
                with self._connection.cursor() as cursor, cursor.copy(copying) as copy:
                    for row in rows:
                        copy.write_row(row)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise StoreFailed("corrupt", line_of(error)) from error
        except psycopg.Error:
            with self._explained():
                raise
        with self._explained():
            # The check joins whole tables, and needs to be planned well.
            self._connection.execute(f"ANALYZE {', '.join(TABLES)}; SAVEPOINT begun")

    def made(self) -> AbstractContextManager[PostgresTables]:
        """Return what was copied, as the transaction sees it."""
        return nullcontext(PostgresTables(self._connection, len(migrations("postgres"))))

    def publish(self) -> None:
        """Give the schema its name, under the lock that a starting node takes."""
        with self._explained():
            self._connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)")
            self._refuse_what_is_there()
            if exists(self._connection, self._schema):
                # It was made for this queue, with rights perhaps: it stays.
                for table in tables(self._connection, self._new):
                    self._execute(
                        "ALTER TABLE {new}.{table} SET SCHEMA {schema}", table=sql.Identifier(table)
                    )
                self._execute("DROP SCHEMA {new}")
            else:
                self._execute("ALTER SCHEMA {new} RENAME TO {schema}")
        try:
            self._connection.execute("COMMIT")
        except psycopg.OperationalError:
            raise StartError(
                f"{self._where}: the connection was lost while the copy was published; whether it"
                " is there, `sanic-app check` says"
            ) from None

    def _fill_state(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        assigned = ", ".join(f"{column} = %s" for column in table.columns)
        first = "coalesce((SELECT min(history_num) FROM queue), %s + 1)"
        for row in rows:
            # One update, because the constraints compare the columns. Commits count from 0.
            self._connection.execute(
                f"UPDATE state SET first_history_num = {first}, {assigned}",
                (row[table.columns.index("last_history_num")], *row),
            )

    def _refuse_what_is_there(self) -> None:
        if fetch(
            self._connection,
            "SELECT 1 FROM pg_class WHERE relnamespace ="
            " (SELECT oid FROM pg_namespace WHERE nspname = %s)",
            self._schema,
        ):
            # In quotes, as a name may be a word of SQL.
            raise StartError(
                f"{self._where} is not empty: copy to another one, or stop all nodes and move it"
                f' away first (ALTER SCHEMA "{self._schema}" RENAME TO "{self._schema}_before")'
            )

    def _execute(self, text: str, **names: sql.Identifier) -> None:
        new, schema = sql.Identifier(self._new), sql.Identifier(self._schema)
        self._connection.execute(sql.SQL(text).format(new=new, schema=schema, **names))

    def _explained(self) -> Any:
        return bulk.explained(f"cannot write {self._where}")
