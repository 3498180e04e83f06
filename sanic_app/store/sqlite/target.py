"""A new database at a place where there is none: it is there whole and checked, or not at all."""

from __future__ import annotations

import os
import sqlite3
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Self

from sanic_app.errors import StartError
from sanic_app.store.snapshot import Progress, Snapshot, rows_of
from sanic_app.store.sqlite import origin
from sanic_app.store.sqlite.disk import (
    leftovers,
    size_of,
    sync,
    sync_folder,
    unfinished,
    why_not_written,
)
from sanic_app.store.sqlite.lease import FileLease, real_path
from sanic_app.store.sqlite.schema import APPLICATION_ID, migrate
from sanic_app.store.sqlite.snapshot import SqliteSnapshot

PAGES = 2_048
"""So many are copied and synced at a time: a service's commits wait for no more than those."""


class SqliteTarget:
    """The place of a copy, owned as long as the context lasts, so that no service starts there."""

    def __init__(self, path: Path) -> None:
        """Take the path of the database that is to be."""
        self.path = real_path(path)
        self.new = unfinished(self.path)
        """Where it lies until it is published; what a kill leaves there, the next one removes."""

    def __enter__(self) -> Self:
        """Own the place.

        Raises:
            StartError: it is in use, or not empty, or cannot be used.
        """
        lock = Path(f"{self.path}.lock")
        try:
            if not self.path.parent.is_dir():
                raise StartError(f"there is no folder {self.path.parent}: make it first")
            made = not lock.exists()
        except OSError as error:
            raise StartError(f"cannot write {self.path}: {error.strerror}") from None
        self._lease = FileLease(self.path)
        try:
            if made:
                # It stays, whatever becomes of the copy.
                self._give_away(lock)
            self._refuse_what_is_there()
            self.empty()
        except OSError as error:
            self._lease.release()
            raise StartError(f"cannot write {self.new}: {error.strerror}") from None
        except StartError:
            self._lease.release()
            raise
        except BaseException:
            # A signal ends a command by an exception, at any moment.
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was not published, and give the place back."""
        self._remove()
        self._lease.release()

    def fill(self, source: Snapshot, progress: Progress) -> None:
        """Copy all tables, and make them a queue of its own.

        Raises:
            StoreFailed: the source is damaged.
            OSError: the database cannot be written.
        """
        try:
            self._fill(source, progress)
        except sqlite3.Error as error:
            size = size_of(source.path) if isinstance(source, SqliteSnapshot) else 0
            raise OSError(0, why_not_written(error, self.new, size)) from error

    def _fill(self, source: Snapshot, progress: Progress) -> None:
        with closing(self._connect()) as connection:
            if isinstance(source, SqliteSnapshot):
                self._fill_pages(connection, source, progress)
            else:
                migrate(connection)
                _fill_rows(connection, source, progress)
        # On a connection of its own: the other may not switch to the WAL after its migrations.
        with closing(self._connect()) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            migrate(connection)
            _begin_lineage(connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.new, isolation_level=None)
        # It is synced before it gets its name.
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def _fill_pages(
        self, connection: sqlite3.Connection, source: SqliteSnapshot, progress: Progress
    ) -> None:
        """Copy page by page: ten times as fast as by rows, and the tables stay as they are."""
        with self.new.open("r+b") as file:

            def copied(_: int, remaining: int, total: int) -> None:
                # Not all at the end: the commits of a service on the same disk would wait for it.
                os.fsync(file.fileno())
                progress(total - remaining, total)

            source.raw.backup(connection, pages=PAGES, progress=copied)

    def empty(self) -> None:
        """Begin anew."""
        self._remove()
        os.close(os.open(self.new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def made(self) -> SqliteSnapshot:
        """Return what was copied."""
        return SqliteSnapshot(self.new)

    def publish(self) -> None:
        """Give the database its name.

        Raises:
            OSError: it cannot be synced or renamed.
        """
        for file in (self.new, Path(f"{self.path}.lock")):
            self._give_away(file)
        sync(self.new)
        self.new.replace(self.path)
        sync_folder(self.path.parent)

    def _give_away(self, file: Path) -> None:
        """Root copies for a service that has a user of its own: the folder says whose."""
        if sys.platform != "win32" and os.geteuid() == 0:
            owner = self.path.parent.stat()
            os.chown(file, owner.st_uid, owner.st_gid)

    def _refuse_what_is_there(self) -> None:
        there = [self.path] if self.path.exists() else []
        # SQLite would apply to the copy what another database has left.
        left = (Path(f"{self.path}-wal"), Path(f"{self.path}-journal"))
        for file in (*there, *(each for each in left if size_of(each) > 0)):
            raise StartError(f"{file} exists: copy to another place, or move that file away first")

    def _remove(self) -> None:
        for file in leftovers(self.new):
            file.unlink(missing_ok=True)


def _fill_rows(connection: sqlite3.Connection, source: Snapshot, progress: Progress) -> None:
    """Copy from another engine."""
    connection.execute("BEGIN IMMEDIATE")
    for name, table, rows in rows_of(source, progress):
        if name == "state":
            assigned = ", ".join(f"{column} = ?" for column in table.columns)
            connection.executemany(f"UPDATE state SET {assigned}", rows)
        else:
            values = ", ".join("?" * len(table.columns))
            connection.executemany(f"INSERT INTO {name} ({table.listed}) VALUES ({values})", rows)
    connection.execute("COMMIT")


def _begin_lineage(connection: sqlite3.Connection) -> None:
    """Make it another queue than its source, for listeners and for WALs."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE lineage SET uuid = ?", (uuid.uuid4().hex,))
    origin.renew(connection)
    connection.execute(f"PRAGMA schema_version = {origin.COOKIE}")
    connection.execute("COMMIT")
