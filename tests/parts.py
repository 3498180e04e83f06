"""The parts below HTTP on a real store, opened and closed for a test."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from sanic_app.errors import ServiceError, StoreFailed
from sanic_app.metrics import Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.worker import Worker
from sanic_app.store import (
    Add,
    Added,
    Cancel,
    Cancelled,
    CancelRange,
    Commit,
    Done,
    Finish,
    Lease,
    PauseState,
    Result,
    SetPaused,
    Store,
    Write,
)
from sanic_app.store.postgres.schema import prepare as prepare_schema
from sanic_app.store.postgres.servers import Servers
from sanic_app.store.postgres.store import PostgresStore
from sanic_app.store.reads import Reads
from sanic_app.store.sqlite.file import prepare
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.store.transition import Limits
from sanic_app.task import SECOND, NewTask, Retention, Task
from tests import postgres
from tests.fake_clock import PATIENCE, FakeClock

KEEP = 1_000 * SECOND
"""How long idempotency keys live in tests, in microseconds."""
NO_LIMIT = 2**62


class Engine(Protocol):
    """One place where a store keeps its tables, empty at first; the stores made of it share it."""

    def store(
        self,
        clock: FakeClock,
        keep: int = KEEP,
        queue_max: int = NO_LIMIT,
        history_keep: Retention | None = None,
    ) -> Store:
        """Return a store on this place, not open."""

    def begin_behind(self, history_num: int) -> None:
        """Make it a place whose first tasks, up to this one, are finished and removed."""


class SqliteEngine:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "queue.db"

    def store(
        self,
        clock: FakeClock,
        keep: int = KEEP,
        queue_max: int = NO_LIMIT,
        history_keep: Retention | None = None,
    ) -> SqliteStore:
        return SqliteStore(self.path, clock, keep, queue_max, history_keep=history_keep)

    def begin_behind(self, history_num: int) -> None:
        prepare(self.path)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(
                "UPDATE state SET last_history_num = ?, last_finish_num = ?, pruned = ?",
                [history_num] * 3,
            )


class PostgresEngine:
    def __init__(self, folder: Path) -> None:
        self.cluster = postgres.shared()
        self.name = postgres.fresh_name()

    def store(
        self,
        clock: FakeClock,
        keep: int = KEEP,
        queue_max: int = NO_LIMIT,
        history_keep: Retention | None = None,
    ) -> PostgresStore:
        return PostgresStore(
            self.cluster.url(),
            clock,
            keep,
            queue_max,
            name=self.name,
            history_keep=history_keep,
            now=lambda: f"{clock.wall()}::bigint",
        )

    def begin_behind(self, history_num: int) -> None:
        with Servers(self.cluster.url(), self.name).connect() as connection:
            prepare_schema(connection, self.name, uuid4(), Limits(KEEP, NO_LIMIT))
            connection.execute(
                "UPDATE state SET last_history_num = %s, last_finish_num = %s, pruned = %s,"
                " first_history_num = %s",
                [*[history_num] * 3, history_num + 1],
            )


ENGINES: dict[str, type[SqliteEngine | PostgresEngine]] = {
    "sqlite": SqliteEngine,
    "postgres": PostgresEngine,
}
"""Every engine that has to keep the promises of the protocol."""

only_sqlite = pytest.mark.parametrize("engine", [SqliteEngine], indirect=True, ids=["sqlite"])
"""For a test about what only SQLite has: one owner, files, a full disk that a test can make."""


def new(*timeouts: float, num: int = 0) -> list[NewTask]:
    """Return one new task for each timeout in seconds, their numbers counting up from num."""
    return [NewTask(num + i, round(t * SECOND)) for i, t in enumerate(timeouts)]


@dataclass
class Opened:
    """A store that is open, and its owner's lease."""

    store: Store
    lease: Lease

    async def commit(self, *writes: Write) -> Commit:
        return await self.store.commit(self.lease, writes)

    async def one(self, write: Write) -> Result:
        """Commit one write and return its result; a refusal is raised."""
        (result,) = (await self.commit(write)).results
        if isinstance(result, ServiceError):
            raise result
        return result

    async def add(
        self, *timeouts: float, num: int = 0, key: str | None = None, request: str = ""
    ) -> Added:
        result = await self.one(Add(new(*timeouts, num=num), key, request))
        assert isinstance(result, Added)
        return result

    async def finish(self, history_num: int) -> Sequence[Task]:
        result = await self.one(Finish(history_num))
        assert isinstance(result, Done)
        return result.tasks

    async def finish_head(self) -> Sequence[Task]:
        head = (await self.store.figures()).head
        assert head is not None
        return await self.finish(head)

    async def cancel(self, first: int, last: int | None = None) -> Sequence[Task]:
        """Cancel one task, or a slice of a range."""
        result = await self.one(Cancel(first) if last is None else CancelRange(first, last))
        assert isinstance(result, Cancelled)
        return result.tasks

    async def switch(self, *, paused: bool) -> bool:
        """Pause or resume; return whether that changed anything."""
        result = await self.one(SetPaused(paused))
        assert isinstance(result, PauseState)
        assert result.paused is paused
        return result.changed

    async def task(self, history_num: int) -> Task | None:
        found = await self.store.task(history_num)
        return found and found[0]

    async def place(self, history_num: int) -> tuple[int, float]:
        """Return the position of a task of the queue, and its wait with those ahead in seconds."""
        found = await self.store.task(history_num)
        assert found is not None
        assert found[1] is not None
        return found[1].position, found[1].wait / SECOND

    async def queue(self) -> list[Task]:
        return await self.store.queue_page(0, 2**31)

    async def done(self) -> list[Task]:
        return await self.store.results_page(0, 2**31)


@asynccontextmanager
async def opened(
    engine: Engine,
    clock: FakeClock,
    keep: int = KEEP,
    queue_max: int = NO_LIMIT,
    history_keep: Retention | None = None,
) -> AsyncIterator[Opened]:
    """Own and open a store, and close it in the end, whatever happens."""
    store = engine.store(clock, keep, queue_max, history_keep)
    lease = await store.own()
    try:
        await store.open(lease)
        yield Opened(store, lease)
    finally:
        await shut(store)
        lease.release()


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail when it takes too long."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - for conditions that nothing announces
            await asyncio.sleep(0)


async def shut(store: Store) -> None:
    """Close a store even if it failed: its threads would keep the interpreter from ending."""
    try:
        await store.close()
    except StoreFailed:
        assert isinstance(store, SqliteStore)
        await store._connections.close_writer()


@dataclass
class BareService:
    """Queue and worker on one store, without HTTP."""

    queue: TaskQueue
    worker: Worker
    metrics: Metrics
    store: Store
    clock: FakeClock
    failures: list[bool] = field(default_factory=list)
    deaths: list[BaseException] = field(default_factory=list)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"sanic_app_{name}", labels)

    async def done(self) -> list[int]:
        return [task.num for task in await self.store.results_page(0, 2**31)]


@asynccontextmanager
async def service(
    engine: Engine,
    clock: FakeClock,
    queue_max: int = NO_LIMIT,
    *,
    working: bool = False,
    history_keep: Retention | None = None,
) -> AsyncIterator[BareService]:
    """Start a queue, and with ``working`` its worker; stop and close all in the end."""
    store = engine.store(clock, queue_max=queue_max, history_keep=history_keep)
    metrics = Metrics(store.engine)
    failures: list[bool] = []
    deaths: list[BaseException] = []
    queue = TaskQueue(store, clock, metrics, queue_max, lambda: failures.append(True))
    worker = Worker(queue, clock, deaths.append)
    await queue.start()
    try:
        if working:
            worker.start()
        yield BareService(queue, worker, metrics, store, clock, failures, deaths)
    finally:
        await worker.stop()
        await queue.stop()
        await queue.close()
        # After a failure the queue leaves the store open on purpose.
        await shut(store)


async def count_rows(store: Store, table: str) -> int:
    """Count what no read of the store shows."""
    assert isinstance(store, Reads)
    ((rows,),) = await store._read(f"SELECT count(*) FROM {table}")
    return int(rows)


# Faults.


async def limit_pages(store: SqliteStore, pages: int) -> None:
    """Let the database be full at so many pages; 0 means where it is now."""
    writer = store._connections.writer
    if pages == 0:
        ((pages,),) = await writer.execute_fetchall("PRAGMA page_count")
    await writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")


def damage_page_of(path: Path, name: str) -> None:
    """Overwrite the first page of a table or index with noise."""
    with closing(sqlite3.connect(path)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(b"\xa5" * page_size)


def damage_rows_of(path: Path, place: str, value: str) -> None:
    """Put into each row, at a place (``queue.num``), what its table does not allow."""
    table, _, field = place.partition(".")
    rows = f"UPDATE {table} SET {field} = {value}"
    schema = "UPDATE sqlite_schema SET sql = {} WHERE name = '" + table + "'"
    loose = "replace(replace(sql, 'INTEGER NOT NULL', 'INTEGER'), 'STRICT', '')"
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT quote(sql) FROM sqlite_schema WHERE name = '{table}'"
        (sound,) = connection.execute(query).fetchone()
    # Each on a connection of its own: it reads the schema once.
    for sql in (schema.format(loose), rows, schema.format(sound)):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(sql)


def commits(running: BareService) -> float:
    return running.metric("commit_seconds_count") or 0


async def outcome(future: asyncio.Future[Any]) -> object:
    """Return the future's result, or its exception's type."""
    try:
        result: object = await future
    except ServiceError as error:
        return type(error)
    return result
