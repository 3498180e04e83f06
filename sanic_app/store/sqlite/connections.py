"""The connections to one database: one that writes, two that only read.

They are closed at first and in the end. Between, they are open, or, where the disk has no room to
open a database for writing, *reading*: then the writer is missing until there is room.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

import aiosqlite

from sanic_app.errors import DiskFull, StartError
from sanic_app.store.sqlite.disk import has_room

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT = 1_000
"""Milliseconds that a statement waits for another program's lock on the database."""
WAL_KEPT_BYTES = 16 * 2**20
"""The WAL is cut to this size when it starts again from its beginning."""
SYNCHRONOUS_FULL = 2


class Connection(aiosqlite.Connection):
    """A connection whose thread runs whole functions: one hop for many statements."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns, called in the connection's thread."""
        result: T = await self._execute(function, *args, **kwargs)  # type: ignore[no-untyped-call] # theirs has no types
        return result

    def join(self) -> None:
        """Return when the thread of a connection that could not be opened is over."""
        self._thread.join(1)

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself, for functions that ``run`` calls."""
        return self._conn


class Connections:
    """The connections to one database, by what each is for."""

    def __init__(self, path: Path) -> None:
        """Take the real path of the database; nothing is opened yet."""
        self._path = path
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        # Whole lists have a reader of their own, so that no other read waits behind a slice.
        self._list_reader: Connection | None = None
        # Read-only connections used while the disk is too full to open the database. They are kept
        # to the end: closing one would drop the locks of all connections of this process.
        self._full_disk_readers: list[Connection] = []

    @property
    def writer(self) -> Connection:
        """The one connection that writes and checkpoints."""
        return _opened(self._writer)

    @property
    def reader(self) -> Connection:
        """The connection for everything but whole lists."""
        return _opened(self._reader)

    @property
    def list_reader(self) -> Connection:
        """The connection for whole lists."""
        return _opened(self._list_reader)

    @property
    def closed(self) -> bool:
        """Whether neither the writer nor a reader is open."""
        return self._reader is None and self._writer is None

    @property
    def writable(self) -> bool:
        """Whether the writer is open."""
        return self._writer is not None

    async def open(self) -> None:
        """Open everything; where there is no room for a writer, open what can read.

        Raises:
            DiskFull: there is no room; what the database held at the last stop can be read.
            sqlite3.Error: the database cannot be opened.
        """
        if await asyncio.to_thread(has_room, self._path):
            self._writer = await self._connect(_configure_writer)
            self._reader = await self._connect(_configure_reader)
            self._list_reader = await self._connect(_configure_reader)
            return
        if not self._full_disk_readers:
            for _ in range(2):
                reader = await self._connect(_configure_reader, "?immutable=1")
                self._full_disk_readers.append(reader)
            self._reader, self._list_reader = self._full_disk_readers
        raise DiskFull

    async def page_of(self, table: str) -> tuple[int, int]:
        """Return where the first page of a table lies in the file: offset and length."""
        ((page, size),) = await self.writer.execute_fetchall(
            "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = ?",
            (table,),
        )
        return (page - 1) * size, size

    async def close_readers(self) -> None:
        """Close what only reads, so that the writer's close finds itself alone."""
        readers = (self._list_reader, self._reader)
        self._list_reader = self._reader = None
        for reader in readers:
            if reader is not None and reader not in self._full_disk_readers:
                await reader.close()

    async def close_writer(self) -> None:
        """Close the writer, and what was opened in its place on a full disk."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
        while self._full_disk_readers:
            await self._full_disk_readers.pop().close()

    async def _connect(
        self, configure: Callable[[sqlite3.Connection], None], how: str = ""
    ) -> Connection:
        uri = f"file:{quote(os.fsencode(self._path))}{how}"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=256)
            configure(connection)
            return connection

        opened = Connection(connect, iter_chunk_size=64)
        try:
            await opened
        except BaseException:
            # The thread reports its end to this loop, which must be there to hear it.
            opened.join()
            raise
        return opened


def _opened(connection: Connection | None) -> Connection:
    if connection is None:
        raise RuntimeError("the store is not open")
    return connection


def _configure_writer(connection: sqlite3.Connection) -> None:
    """Make commits durable, and read back that they are."""
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = FULL")
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    if journal != "wal" or synchronous != SYNCHRONOUS_FULL:
        raise StartError(
            f"journal_mode is {journal} and synchronous {synchronous}, not WAL and FULL"
        )
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    # SQLite's own checkpoint swallows I/O errors: see checkpointer.py.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")


def _configure_reader(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    # The first read opens the WAL. Later, clients may have taken all descriptors.
    connection.execute("PRAGMA user_version").fetchall()
