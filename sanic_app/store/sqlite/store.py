"""The store on SQLite: one connection that writes, others that only read."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import aiosqlite

from sanic_app.clock import Clock
from sanic_app.errors import (
    DiskFull,
    ServiceError,
    StartError,
    StoreBusy,
    StoreFailed,
)
from sanic_app.store import (
    WAIT_SUM_MODULUS,
    Added,
    Cancelled,
    Commit,
    Done,
    Figures,
    Lease,
    Place,
    Result,
    Sizes,
    Slice,
    Started,
    Write,
)
from sanic_app.store.isolation import WriteFailed, commit_isolated
from sanic_app.store.sqlite import rows as sqlite_rows
from sanic_app.store.sqlite.file import FileLease, has_room, prepare, reason, size_of
from sanic_app.store.sqlite.rows import FIGURES
from sanic_app.store.transition import Limits
from sanic_app.task import SECOND, Retention, State, Task, seconds_left

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT = 1_000
"""Milliseconds that a statement waits for another program's lock on the database."""
PAGE_BYTES = 4_096
CHECKPOINT_PAGES = 1_000
"""About so many pages written to the WAL are copied into the database between commits."""
WAL_SHARE = 8
"""Sooner, when they take this part of a small file system: the database needs room to grow too."""
WAL_KEPT_BYTES = 16 * 2**20
"""To this size the WAL is cut when it starts again from its beginning."""
SLICE_ROWS = 250
"""Rows in one slice of a whole list: a quarter of a millisecond of a reader's time.

Longer slices make a list come faster and all other answers later: with 5,000 rows adds took up to
4 times as long at their 99th percentile while a list was sent, with 250 rows twice as long.
"""

log = logging.getLogger(__name__)

# Dates and timeouts as DESIGN.md, section 5, wants them, written outside the interpreter's lock.
_QUEUE_ITEM = """
    json_object(
        'history_num', history_num,
        'date_created', strftime('%Y-%m-%dT%H:%M:%S', created_at / 1000000, 'unixepoch')
                        || printf('.%06dZ', created_at % 1000000),
        'num', num,
        'timeout', iif(timeout % 1000000 = 0, timeout / 1000000, timeout / 1000000.0)
    )
"""
_QUEUE_TASK = """
    SELECT history_num, num, timeout, created_at,
           iif(history_num = head, 'waiting', 'queued'),
           iif(history_num = head, head_started_at, NULL), NULL
    FROM queue, state
"""
_HISTORY_TASK = """
    SELECT history_num, num, timeout, created_at, outcome, started_at, finished_at FROM history
"""
_FIGURES = ", ".join(f"state.{name}" for name in Figures._fields)
# Skipped tasks stand behind the first of the queue: the lower end needs no mention.
_PLACE = f"""
    SELECT mine.num, mine.timeout, mine.created_at, {_FIGURES},
           first.history_num, first.timeout, mine.wait_sum - first.wait_sum,
           skipped.tasks, skipped.seconds, skipped.micros
    FROM state, queue AS mine, queue AS first, (
        SELECT count(*) AS tasks, coalesce(sum(timeout / {SECOND}), 0) AS seconds,
               coalesce(sum(timeout % {SECOND}), 0) AS micros
        FROM skipped WHERE history_num < ?
    ) AS skipped
    WHERE mine.history_num = ? AND first.history_num = (SELECT min(history_num) FROM queue)
"""


class _Connection(aiosqlite.Connection):
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


class SqliteStore:
    """One queue in one SQLite database."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        idempotency_keep: int,
        queue_max: int = 2**62,
        *,
        lease: FileLease | None = None,
        history_keep: Retention | None = None,
    ) -> None:
        """Take a path (links are followed), the life of keys in microseconds, and the limit.

        ``lease`` is the owner's lock where the caller holds it already; ``history_keep`` is
        how much of the history stays, None for all of it.
        """
        self._path = Path(os.path.realpath(path))
        self._clock = clock
        self._limits = Limits(idempotency_keep, queue_max, history_keep)
        self._lease = lease
        self._writer: _Connection | None = None
        self._reader: _Connection | None = None
        # Whole lists have a reader of their own, so that no other read waits behind a slice.
        self._lister: _Connection | None = None
        # Those that read a closed database where there was no room to open it. They are kept to
        # the end: closing one would drop the locks of all connections of this process.
        self._stills: list[_Connection] = []
        self._recovered = False
        self._pages = 0
        self._pages_max = CHECKPOINT_PAGES

    @property
    def engine(self) -> str:
        """The engine with its version."""
        return f"sqlite {sqlite3.sqlite_version}"

    @property
    def prunes(self) -> bool:
        """Whether something of the history is removed one day."""
        return self._limits.retention is not None

    async def own(self) -> FileLease:
        """Take the owner's lock beside the real path of the database."""
        if self._lease is None or self._lease.released:
            self._lease = FileLease(self._path)
        return self._lease

    async def open(self, lease: Lease) -> None:
        """Check, create or migrate, open, and recover."""
        self._verify(lease)
        prepare(self._path)
        self._pages_max = _checkpoint_pages(self._path.parent)
        try:
            await self._connect_all()
            await self._recover()
        except DiskFull:
            log.warning("the disk is full: serving reads, adding nothing")
        except (sqlite3.Error, ServiceError) as error:
            # Left as it is: an orderly close would write.
            raise StartError(f"cannot open the database {self._path}: {reason(error)}") from None

    async def close(self) -> None:
        """Close the readers first, so that the writer's close finds itself alone."""
        for name in ("_lister", "_reader", "_writer"):
            connection: _Connection | None = getattr(self, name)
            if connection is None or connection in self._stills:
                setattr(self, name, None)
                continue
            if name == "_writer":
                # The close would do this too, but swallow an I/O error.
                with suppress(DiskFull, StoreBusy):
                    await self._checkpoint("PASSIVE")
            setattr(self, name, None)
            await connection.close()
        while self._stills:
            await self._stills.pop().close()

    async def commit(self, lease: Lease, writes: Sequence[Write]) -> Commit:
        """Apply the writes in one transaction; one that fails alone is applied alone."""
        self._verify(lease)
        if self._writer is None and self._stills:
            await self._connect_late()
        await self._recover()
        return await commit_isolated(writes, self._write, self.figures)

    async def maintain(self, lease: Lease) -> None:
        """Copy a long WAL into the database.

        SQLite's own automatic checkpoint is off, because it swallows I/O errors.
        """
        self._verify(lease)
        if self._pages >= self._pages_max:
            self._pages = 0
            await self._checkpoint("PASSIVE")

    async def figures(self) -> Figures:
        """Return the state row."""
        rows = await self._read(FIGURES)
        return Figures(*rows[0])

    async def started(self) -> Started | None:
        """Return the head and what is left of its wait."""
        figures, head = await self.overview()
        if head is None or head.started_at is None:
            return None
        now = max(self._clock.wall(), figures.last_stamp)
        return Started(head, seconds_left(head.started_at, head.timeout, now))

    async def overview(self) -> tuple[Figures, Task | None]:
        """Return the state row and the head, read by one statement."""
        rows = await self._read(
            f"SELECT {_FIGURES}, num, timeout, created_at FROM state"
            " LEFT JOIN queue ON history_num = head"
        )
        figures = Figures(*rows[0][: len(Figures._fields)])
        if figures.head is None:
            return figures, None
        num, timeout, created_at = rows[0][len(Figures._fields) :]
        head = Task(figures.head, num, timeout, created_at, State.WAITING, figures.head_started_at)
        return figures, head

    async def task(self, history_num: int) -> tuple[Task, Place | None] | None:
        """Return the task from the table that holds it; it may move from the first to the second.

        A sum of timeouts goes beyond 64 bits where enough tasks were cancelled: hence its parts.
        """
        rows = await self._read(_PLACE, history_num, history_num)
        if not rows:
            tasks = await self._tasks(f"{_HISTORY_TASK} WHERE history_num = ?", history_num)
            return (tasks[0], None) if tasks else None
        num, timeout, created_at, *values = rows[0]
        *state, first, first_timeout, waits, skipped, seconds, micros = values
        figures = Figures(*state)
        started = history_num == figures.head
        task = Task(
            *(history_num, num, timeout, created_at),
            State.WAITING if started else State.QUEUED,
            figures.head_started_at if started else None,
        )
        wait = (waits - seconds * SECOND - micros) % WAIT_SUM_MODULUS + first_timeout
        return task, Place(figures, history_num - first - skipped, wait, first_timeout)

    async def queue_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the queue."""
        return await self._tasks(
            f"{_QUEUE_TASK} WHERE history_num > ? ORDER BY history_num LIMIT ?", after, limit
        )

    async def results_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the done tasks: they finish in the order of the history number."""
        return await self._tasks(
            f"{_HISTORY_TASK} WHERE history_num > ? AND outcome = 'done'"
            " ORDER BY history_num LIMIT ?",
            after,
            limit,
        )

    async def added(self, after: int, until: int) -> list[Task]:
        """Return tasks by history number from both tables: one statement, one snapshot."""
        return await self._tasks(
            f"SELECT * FROM ({_HISTORY_TASK} WHERE history_num > ? AND history_num <= ?)"
            f" UNION ALL SELECT * FROM ({_QUEUE_TASK} WHERE history_num > ? AND history_num <= ?)"
            " ORDER BY history_num",
            *(after, until, after, until),
        )

    async def finished(self, after: int, until: int) -> list[Task]:
        """Return tasks by finish number."""
        return await self._tasks(
            f"{_HISTORY_TASK} WHERE finish_num > ? AND finish_num <= ? ORDER BY finish_num",
            *(after, until),
        )

    async def queue_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the queue."""
        return await self._slice(_QUEUE_ITEM, "queue WHERE true", after, until)

    async def results_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the result list."""
        return await self._slice("num", "history WHERE outcome = 'done'", after, until)

    def sizes(self) -> Sizes:
        """Return the bytes of the two files."""
        return Sizes(size_of(self._path), size_of(Path(f"{self._path}-wal")))

    # Below: the connections.

    def _verify(self, lease: Lease) -> None:
        if lease is not self._lease:
            raise RuntimeError("this lease is not the owner's")

    async def _connect_all(self) -> None:
        """Open the connections; where there is no room for the writer's, open what can read.

        Raises:
            DiskFull: there is no room; what the database held at the last stop can be read.
        """
        if await asyncio.to_thread(has_room, self._path):
            self._writer = await self._connect(_configure_writer)
            self._reader = await self._connect(_configure_reader)
            self._lister = await self._connect(_configure_reader)
            return
        if not self._stills:
            for name in ("_reader", "_lister"):
                still = await self._connect(_configure_reader, "?immutable=1")
                self._stills.append(still)
                setattr(self, name, still)
        raise DiskFull

    async def _connect_late(self) -> None:
        try:
            await self._connect_all()
        except sqlite3.Error as error:
            raise _failure(error) from error

    async def _connect(
        self, configure: Callable[[sqlite3.Connection], None], how: str = ""
    ) -> _Connection:
        uri = f"file:{quote(os.fsencode(self._path))}{how}"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=256)
            configure(connection)
            return connection

        opened = _Connection(connect, iter_chunk_size=64)
        try:
            await opened
        except BaseException:
            # The thread reports its end to this loop, which must be there to hear it.
            opened.join()
            raise
        return opened

    async def _recover(self) -> None:
        """Put what an earlier process left in the WAL into the database, once, before any write.

        A WAL of which an earlier commit never reached the disk ends there after a power cut,
        whatever was synced behind it: so nothing is written behind an earlier process's frames.
        """
        if not self._recovered:
            await self._checkpoint("TRUNCATE")
            self._recovered = True

    async def _checkpoint(self, mode: str) -> None:
        writer = _open(self._writer)
        try:
            ((busy, _, _),) = await writer.execute_fetchall(f"PRAGMA wal_checkpoint({mode})")
        except sqlite3.Error as error:
            raise _failure(error) from error
        if busy and mode == "TRUNCATE":
            raise StoreBusy("another program is using the database")

    async def _write(self, writes: Sequence[Write]) -> Commit:
        try:
            return await self._write_once(writes)
        except DiskFull:
            # What fills the disk may be the WAL itself. Copied into the database, it starts again
            # from its beginning, and there is room: nobody need be refused.
            await self._checkpoint("PASSIVE")
            return await self._write_once(writes)

    async def _write_once(self, writes: Sequence[Write]) -> Commit:
        writer = _open(self._writer)
        apply = partial(sqlite_rows.apply, writer.raw, writes, self._clock.wall(), self._limits)
        commit = await writer.run(_or_nothing, apply, writer.raw)
        # SQLite tells nobody how long the WAL is, and the file's length says only how long it
        # was at most: so this estimates. The state row, the ends of the tables, and the rows.
        self._pages += 4 + sum(map(_rows, commit.results)) // 32
        return commit

    async def _read(self, sql: str, *values: object) -> list[Any]:
        return list(await _open(self._reader).execute_fetchall(sql, values))

    async def _tasks(self, sql: str, *values: object) -> list[Task]:
        return [
            Task(number, num, timeout, created_at, State(state), started_at, finished_at)
            for number, num, timeout, created_at, state, started_at, finished_at
            in await self._read(sql, *values)
        ]  # fmt: skip

    async def _slice(self, item: str, table: str, after: int, until: int) -> Slice:
        ((text, rows, last),) = await _open(self._lister).execute_fetchall(
            f"SELECT group_concat(item), count(*), max(history_num) FROM"
            f" (SELECT {item} AS item, history_num FROM {table}"
            "  AND history_num > ? AND history_num <= ? ORDER BY history_num LIMIT ?)",
            (after, until, SLICE_ROWS),
        )
        return Slice(text or "", last if rows == SLICE_ROWS else None)


def _or_nothing(apply: Callable[[], Commit], connection: sqlite3.Connection) -> Commit:
    """Run a transaction; when it fails, roll it back and say what kind of failure it was."""
    try:
        return apply()
    except Exception as error:
        failure = _failure(error)
        if not isinstance(failure, StoreFailed) and connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as second:
                failure = StoreFailed("io", str(second))
        raise failure from error


def _failure(error: Exception) -> Exception:
    """Sort what SQLite reports by what follows from it (the primary result code decides)."""
    if isinstance(error, StoreFailed):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return DiskFull()
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreBusy()
        case None | sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH | sqlite3.SQLITE_TOOBIG:
            return WriteFailed()
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreFailed("corrupt", str(error))
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return StoreFailed("io", str(error))
        case _:
            return StoreFailed("other", str(error))


def _checkpoint_pages(folder: Path) -> int:
    share = shutil.disk_usage(folder).total // PAGE_BYTES // WAL_SHARE
    # Some file systems do not say how large they are.
    return min(share, CHECKPOINT_PAGES) or CHECKPOINT_PAGES


def _rows(result: Result | ServiceError) -> int:
    match result:
        case Added():
            return result.last - result.first + 1
        case Done() | Cancelled():
            return 3 * len(result.tasks)
        case _:
            return 0


def _open(connection: _Connection | None) -> _Connection:
    if connection is None:
        raise RuntimeError("the store is not open")
    return connection


def _configure_writer(connection: sqlite3.Connection) -> None:
    """Make commits durable, and read back that they are."""
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = FULL")
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    if journal != "wal" or synchronous != 2:  # noqa: PLR2004 - SQLite's number for FULL
        raise StartError(
            f"journal_mode is {journal} and synchronous {synchronous}, not WAL and FULL"
        )
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")


def _configure_reader(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
