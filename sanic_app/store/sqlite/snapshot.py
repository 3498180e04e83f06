"""A database as of one moment, read without changing a byte of it, in service or not."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sanic_app.errors import StartError, StoreBusy, StoreFailed
from sanic_app.store.sqlite import origin
from sanic_app.store.sqlite.connections import BUSY_TIMEOUT
from sanic_app.store.sqlite.disk import size_of
from sanic_app.store.sqlite.failures import explain
from sanic_app.store.sqlite.file import check_header, refuse_journal
from sanic_app.store.sqlite.lease import real_path, unowned
from sanic_app.store.sqlite.reads import LINEAGE
from sanic_app.store.sqlite.schema import APPLICATION_ID, latest, migrate

FAULTS_MAX = 100
"""Of the engine's own check."""
ROWS = 1_000
CACHE_KIB = 65_536


class SqliteSnapshot:
    """All tables of one database, for as long as the context lasts.

    A service may run meanwhile. Its WAL cannot start again from its beginning before this ends.
    """

    def __init__(self, path: Path) -> None:
        """Take the path of the database (links are followed)."""
        self.path = real_path(path)
        self.version = 0
        """Of the schema."""
        self._shm = Path(f"{self.path}-shm")
        self._wal = Path(f"{self.path}-wal")

    def __enter__(self) -> Self:
        """Open the database, and begin the moment.

        Raises:
            StartError: it is no database of this service, or cannot be read.
        """
        self._before: list[str] = []
        try:
            self._look()
        except OSError as error:
            raise StartError(f"cannot read {self.path}: {error.strerror}") from None
        uri = f"file:{quote(os.fsencode(self.path))}?mode=ro"
        how = uri if self._live else f"{uri}&immutable=1"
        try:
            if self._live:
                self._check_wal(uri)
            self.raw = sqlite3.connect(how, uri=True, isolation_level=None)
            self._begin()
        except sqlite3.Error as error:
            self.close()
            reason = explain(error)
            if self._live and not self._had_shm and not os.access(self.path.parent, os.W_OK):
                reason = "its WAL needs an index, which cannot be written there: copy both files"
            raise StartError(f"cannot read {self.path}: {reason}") from None
        except StartError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the moment."""
        self.close()

    def _look(self) -> None:
        refuse_journal(self.path)
        self._files = self._status()
        self._had_shm = self._shm.exists()
        # Without a WAL nothing but the file is to be read, and not even an empty one is left beside
        # it. Where the index of a WAL is, a service may run, or was killed.
        self._live = self._had_shm or size_of(self._wal) > 0
        if self.path.is_fifo():
            # Opening it would block for ever.
            raise OSError(errno.EINVAL, "not a regular file")
        try:
            # Not once a connection is open: to close a second handle would drop its locks.
            check_header(self.path)
        except StartError as error:
            self._before.append(error.detail)

    def _check_wal(self, uri: str) -> None:
        # On a connection of its own: this opens the file once more, and to close that handle drops
        # the locks of the first.
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            if not origin.belongs(uri, connection):
                raise StartError(f"{self.path} does not belong to {self._wal.name} beside it")

    def _begin(self) -> None:
        execute = self.raw.execute
        execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        execute("PRAGMA query_only = ON")
        execute("PRAGMA temp_store = MEMORY")
        execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        execute("BEGIN")
        # The first read fixes the moment.
        (application,) = execute("PRAGMA application_id").fetchone()
        (self.version,) = execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StartError(f"{self.path} is not a database of this service")
        if self.version > (known := latest()):
            raise StartError(
                f"{self.path} has schema version {self.version}, newer than this program's"
                f" {known}: use a newer one"
            )

    def close(self) -> None:
        """Close the database, and leave no file that was not there."""
        with suppress(AttributeError):
            self.raw.close()
        if self._live and not self._had_shm and self._shm.exists():
            # Nobody may be using it by now.
            with unowned(self.path) as alone:
                if alone:
                    self._shm.unlink(missing_ok=True)

    def verify(self) -> None:
        """Look whether the database is still the one of the beginning, when it had no WAL.

        Raises:
            StoreBusy: a service was started meanwhile; what was read may be of several moments.
        """
        if not self._live and (self._shm.exists() or self._status() != self._files):
            raise StoreBusy("a service was started meanwhile")

    @property
    def outdated(self) -> bool:
        """Whether the schema is older than this program's."""
        return bool(self.version < latest())

    def select(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a query."""
        try:
            cursor = self.raw.execute(sql)
            while rows := cursor.fetchmany(ROWS):
                yield from rows
        except sqlite3.Error as error:
            raise StoreFailed("corrupt", str(error)) from error

    def engine_faults(self) -> Iterator[str]:
        """Return what SQLite and the file say."""
        yield from self._before
        checks = [self._integrity, self._schema]
        if not self.outdated:
            checks += [self._ids, self._origin, self._lineage]
        else:
            yield (
                f"its schema version is {self.version}, and this program's"
                f" {latest()}: the service brings it up to date when it starts"
            )
        for check in checks:
            try:
                yield from check()
            except StoreFailed as error:
                yield error.detail

    def _integrity(self) -> Iterator[str]:
        for (line,) in self.select(f"PRAGMA integrity_check({FAULTS_MAX})"):
            if line != "ok":
                yield from (f"integrity_check: {part}" for part in str(line).splitlines())
        for table, *_ in self.select("PRAGMA foreign_key_check"):
            yield f"foreign_key_check: a row of {table} refers to one that is missing"

    def _schema(self) -> Iterator[str]:
        """Compare tables, indices and constraints with what the migrations make."""
        sql = (
            "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'"
        )
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
            migrate(fresh, self.version)
            expected = set(fresh.execute(sql))
        for kind, name, *_ in sorted(expected ^ set(self.select(sql)), key=str):
            yield f"schema: the {kind} {name} is not what the migrations make"

    def _ids(self) -> Iterator[str]:
        # Of a database that it may not write, SQLite reads no CHECK, so integrity_check tries none.
        for table in ("state", "origin", "lineage"):
            if any(self.select(f"SELECT id FROM {table} WHERE id <> 1")):
                yield f"{table}: its row is not the one with the id 1"

    def _lineage(self) -> Iterator[str]:
        found = [uuid for (uuid,) in self.select("SELECT uuid FROM lineage")]
        if len(found) != 1 or not LINEAGE.fullmatch(str(found[0])):
            yield f"lineage: must be one UUID, and is {', '.join(map(str, found)) or 'missing'}"

    def _origin(self) -> Iterator[str]:
        marks = list(self.select("SELECT mark, mark_before FROM origin"))
        if len(marks) != 1 or not all(map(origin.is_mark, marks[0])):
            yield f"origin: must be one row of two marks, and is {marks}"

    def _status(self) -> list[tuple[int, int, int] | None]:
        return [_status(path) for path in (self.path, self._wal)]


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    # An empty WAL is as good as none.
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None
