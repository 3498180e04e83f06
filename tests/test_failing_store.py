"""A queue whose store is full, busy, away or damaged."""

from __future__ import annotations

import asyncio
import gc
import resource
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import pytest

from sanic_app.errors import (
    DiskFull,
    NotOwner,
    OutcomeUnknown,
    ServiceError,
    Stopping,
    StoreFailed,
    StoreUnavailable,
)
from sanic_app.queue.view import QueueView
from sanic_app.queue.waiting import COMMIT_WEIGHT
from sanic_app.queue.writer import PRUNE_PAUSE
from sanic_app.store import Add, Commit, Lease, Write
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND, Retention
from tests.fake_clock import FakeClock
from tests.parts import (
    NO_LIMIT,
    BareService,
    Engine,
    SqliteEngine,
    damage_page_of,
    damage_rows_of,
    limit_pages,
    new,
    only_sqlite,
    opened,
    outcome,
    service,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def running(engine: Engine, clock: FakeClock) -> AsyncIterator[BareService]:
    """Return a queue without a worker."""
    async with service(engine, clock) as made:
        yield made


# A full disk.


@only_sqlite
async def test_a_full_disk_refuses_recovers_and_fails_nothing(
    running: BareService, clock: FakeClock
) -> None:
    store = cast("SqliteStore", running.store)
    await running.queue.add(new(1))
    await limit_pages(store, 0)

    def is_short_of_disk() -> bool:
        return running.queue.condition.reason == "the disk is full"

    much = [running.queue.add(new(*[1] * 2_000)) for _ in range(2)]
    assert [await outcome(each) for each in much] == [DiskFull, DiskFull]
    assert is_short_of_disk()
    assert not running.queue.failed
    assert running.metric("store_errors_total", kind="full") == 1
    assert len(await store.queue_page(0, 9)) == 1
    # A commit that changes nothing needs no room, so it says nothing about the disk.
    await running.queue.set_paused(paused=False)
    assert is_short_of_disk()
    await limit_pages(store, 2**30)
    await running.queue.add(new(*[1] * 2_000))
    assert running.queue.figures.depth == 2_001
    assert not is_short_of_disk()
    assert running.failures == []


async def test_retention_on_a_full_disk_is_tried_again_once_a_minute(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Retention(age=10 * SECOND)
    async with service(engine, clock, history_keep=keep) as running:
        await running.queue.add(new(1))
        await running.queue.finish(1)
        await clock.until_asleep(10)
        commit, tries = running.store.commit, 0

        async def full(lease: Lease, writes: Sequence[Write]) -> Commit:
            nonlocal tries
            tries += 1
            assert tries < 9, "it tries all the time"
            await asyncio.sleep(0)
            raise DiskFull

        monkeypatch.setattr(running.store, "commit", full)
        clock.advance(10)
        await clock.until_asleep(PRUNE_PAUSE)
        assert tries == 1
        clock.advance(PRUNE_PAUSE)
        await until(lambda: tries == 2)
        await clock.until_asleep(PRUNE_PAUSE)
        monkeypatch.setattr(running.store, "commit", commit)
        clock.advance(PRUNE_PAUSE)
        await until(lambda: running.queue.figures.pruned)
        assert tries == 2


@only_sqlite
async def test_a_refusal_to_a_caller_that_went_away_hurts_nobody(running: BareService) -> None:
    store = cast("SqliteStore", running.store)
    await running.queue.add(new(1))
    await limit_pages(store, 0)
    gone, there = (running.queue.add(new(*[1] * 2_000)) for _ in range(2))
    gone.cancel()
    assert await outcome(there) is DiskFull
    assert gone.cancelled()
    assert not running.queue.failed


@only_sqlite
async def test_a_full_disk_gives_the_places_back(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, queue_max=3_000) as running:
        store = cast("SqliteStore", running.store)
        await running.queue.add(new(1))
        await limit_pages(store, 0)
        for _ in range(3):
            assert await outcome(running.queue.add(new(*[1] * 2_000))) is DiskFull
        await limit_pages(store, 2**30)
        await running.queue.add(new(*[1] * 2_999))


# Another program.


async def test_another_programs_lock_is_waited_for(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("sanic_app.store.sqlite.connections.BUSY_TIMEOUT", 10)
    monkeypatch.setattr("sanic_app.queue.writer.BUSY_PAUSE", 0.001)
    place = SqliteEngine(tmp_path)
    async with service(place, clock) as running:
        with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            adds = [running.queue.add(new(1, num=n)) for n in range(3)]
            await until(lambda: not running.metric("writes_waiting"))
            # While the first three are refused the lock: this one must not get before them.
            adds.append(running.queue.add(new(1, num=3)))
            await until(lambda: running.metric("store_errors_total", kind="busy"))
            assert not any(each.done() for each in adds)
            assert "another program holds the database's lock: trying again" in caplog.messages
            other.execute("ROLLBACK")
        assert [(await each).first for each in adds] == [1, 2, 3, 4]
        assert [task.num for task in await running.store.queue_page(0, 9)] == [0, 1, 2, 3]
        assert not running.queue.failed


# A failed store.


async def test_a_failed_store_leaves_every_outcome_unknown_and_is_not_closed(
    tmp_path: Path, clock: FakeClock
) -> None:
    place = SqliteEngine(tmp_path)
    async with opened(place, clock) as closed:
        await closed.add(1, num=7)
    damage_page_of(place.path, "idempotency")
    async with service(place, clock) as running:
        queue = running.queue
        batch = [queue.add(new(1)), queue.add(new(1), "key", "r")]
        behind = [queue.add(new(*[1] * COMMIT_WEIGHT)), queue.add(new(1))]
        assert [await outcome(each) for each in (*batch, *behind)] == [OutcomeUnknown] * 4
        assert running.failures == [True]
        assert queue.failed
        assert running.metric("store_errors_total", kind="corrupt") == 1
        assert running.metric("writes_waiting") == 0
        # Nothing is written any more.
        with pytest.raises(Stopping):
            queue.add(new(1))
        with pytest.raises(OutcomeUnknown):
            await queue.finish(1)
        await queue.stop()
        await queue.close()
        # Neither closed, which would write, nor given to another owner.
        assert cast("SqliteStore", running.store)._connections.writable
        with pytest.raises(NotOwner):
            await place.store(clock).own()
        # Reading goes on until the process ends.
        assert [task.num for task in await running.store.queue_page(0, 9)] == [7]
        assert running.failures == [True]
    gc.collect()


async def test_a_store_that_fails_at_its_close_is_a_failed_store(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanic_app.store.sqlite.disk._refused_as_full", lambda *_: False)
    place = SqliteEngine(tmp_path)
    async with service(place, clock) as running:
        await running.queue.add(new(*[1] * 3_000))
        await running.queue.stop()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, hard))
        try:
            await running.queue.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert running.failures == [True]
        with pytest.raises(NotOwner):
            await place.store(clock).own()


@only_sqlite
async def test_whatever_else_goes_wrong_while_writing_fails_the_store_loudly(
    running: BareService, caplog: pytest.LogCaptureFixture
) -> None:
    await running.store.close()
    assert await outcome(running.queue.add(new(1))) is OutcomeUnknown
    assert running.failures == [True]
    assert running.metric("store_errors_total", kind="other") == 1
    assert any("RuntimeError" in each and "not open" in each for each in caplog.messages)
    with pytest.raises(RuntimeError, match="not open"):
        await running.queue.stop()
    running.queue._writer._task = None


@only_sqlite
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE history SET outcome = 'lost'",
        "DELETE FROM state",
        "DROP TABLE history",
    ],
)
async def test_what_a_reader_cannot_read_fails_the_store_once(
    engine: Engine, clock: FakeClock, damage: str
) -> None:
    assert isinstance(engine, SqliteEngine)
    async with service(engine, clock) as running:
        await running.queue.add(new(0, 1))
        await running.queue.finish(1)
        with closing(sqlite3.connect(engine.path, isolation_level=None)) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute("PRAGMA foreign_keys = OFF")
            other.execute(damage)
        view = running.queue.view
        for read in (
            view.results_page(0, 9),
            view.outlook(),
            view.task(1),
            view.results_page(0, 9),
        ):
            with suppress(StoreFailed):
                await read
        assert running.queue.failed
        assert running.failures == [True]
        errors = [
            running.metric("store_errors_total", kind=kind) or 0 for kind in ("corrupt", "other")
        ]
        assert sum(errors) == 1
        with pytest.raises(Stopping):
            running.queue.add(new(1))
        # The writer has ended too: nothing is written any more.
        await running.queue.stop()


NOT_UTF_8 = "CAST(x'646f6eff' AS TEXT)"
TOO_LATE = "253402300800000000"
READS: Sequence[tuple[Callable[[QueueView], Awaitable[object]], str, str]] = [
    (lambda view: view.queue_page(0, 9), "queue.num", "NULL"),
    (lambda view: view.queue_page(0, 9), "queue.created_at", TOO_LATE),
    (lambda view: anext(view.whole_queue()), "queue.num", "'x'"),
    (lambda view: anext(view.whole_queue()), "queue.created_at", TOO_LATE),
    (lambda view: view.task(2), "queue.timeout", "NULL"),
    (lambda view: view.task(2), "queue.wait_sum", "NULL"),
    (lambda view: view.outlook(), "queue.timeout", "1.5"),
    (lambda view: view.task(1), "history.outcome", NOT_UTF_8),
    (lambda view: view.results_page(0, 9), "history.finished_at", "NULL"),
    (lambda view: anext(view.whole_result()), "history.num", "NULL"),
    (lambda view: anext(view.whole_result()), "history.num", "'x'"),
    (lambda view: view.task(1), "history.created_at", "-1"),
]


@pytest.mark.parametrize(("read", "place", "value"), READS)
async def test_a_row_that_cannot_be_a_task_fails_the_store(
    tmp_path: Path,
    clock: FakeClock,
    read: Callable[[QueueView], Awaitable[object]],
    place: str,
    value: str,
) -> None:
    """Of a damaged page, SQLite returns whatever lies in the place of a number."""
    async with service(SqliteEngine(tmp_path), clock) as running:
        await running.queue.add(new(0, 1))
        await running.queue.finish(1)
        damage_rows_of(tmp_path / "queue.db", place, value)
        with pytest.raises(StoreFailed):
            await read(running.queue.view)
        assert running.failures == [True]
        assert running.metric("store_errors_total", kind="corrupt") == 1


@only_sqlite
async def test_a_read_that_fails_for_its_own_sake_ends_nothing(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running:
        with pytest.raises(OverflowError):
            await running.queue.view.results_page(2**70, 9)
        assert not running.queue.failed


# Another time the store may be there again.


@pytest.mark.parametrize("error", [StoreUnavailable, OutcomeUnknown])
async def test_a_store_that_is_away_fails_a_commit_and_not_the_queue(
    running: BareService, monkeypatch: pytest.MonkeyPatch, error: type[ServiceError]
) -> None:
    queue, commit = running.queue, running.store.commit

    async def away(lease: Lease, writes: Sequence[Write]) -> Commit:
        raise error

    monkeypatch.setattr(running.store, "commit", away)
    adds = [queue.add(new(1)) for _ in range(2)]
    assert [await outcome(each) for each in adds] == [error] * 2
    assert adds[0].exception() is not adds[1].exception()
    assert running.metric("store_errors_total", kind="unavailable") == 1
    monkeypatch.setattr(running.store, "commit", commit)
    assert queue.condition.problem is None
    # Nothing is tried again by itself, and no place is lost.
    assert running.clock._sleepers == []
    assert running.queue.condition.has_room(NO_LIMIT)
    assert (await queue.add(new(1))).first == 1
    assert not queue.failed


async def test_a_retry_whose_key_cannot_be_looked_up_may_have_been_applied(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(lease: Lease, writes: Sequence[Write]) -> Commit:
        raise DiskFull

    async def away(_: Add) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(running.store, "commit", full)
    monkeypatch.setattr(running.store, "replay", away)
    with pytest.raises(DiskFull) as refused:
        await running.queue.add(new(1), "key", "r")
    assert refused.value.applied is None
    assert refused.value.detail.startswith("The disk is full; it is not known whether")


async def test_a_store_that_is_away_is_a_problem(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(running.store), "up", property(lambda _: False))
    assert running.queue.condition.problem == "the store is unavailable"
    assert running.metric("store_up") == 0


@only_sqlite
async def test_a_failure_is_told_in_the_log_with_its_cause(
    running: BareService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = OSError("EIO")

    async def fail(lease: Lease, writes: Sequence[Write]) -> Commit:
        raise StoreFailed("io", "the disk is broken") from cause

    monkeypatch.setattr(running.store, "commit", fail)
    assert await outcome(running.queue.add(new(1))) is OutcomeUnknown
    (record,) = [each for each in caplog.records if each.name == "sanic_app.queue.writer"]
    assert record.getMessage() == "the store failed: the disk is broken"
    assert record.levelname == "CRITICAL"
    assert record.exc_info is not None
    assert record.exc_info[1] is cause
    assert running.metric("store_errors_total", kind="io") == 1
