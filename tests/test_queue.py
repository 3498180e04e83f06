"""The queue: group commit, limits, and what becomes of those who wait."""

from __future__ import annotations

import asyncio
import gc
import resource
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from sanic_app.errors import (
    AlreadyFinished,
    DiskFull,
    Internal,
    KeyReused,
    NotFound,
    NotHead,
    NotOwner,
    OutcomeUnknown,
    QueueFull,
    ServiceError,
    StartError,
    Stopping,
    StoreBusy,
    StoreFailed,
    StoreUnavailable,
)
from sanic_app.metrics import Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.waiting import COMMIT_WEIGHT, KEY_WEIGHT
from sanic_app.queue.writer import PRUNE_PAUSE, Writer
from sanic_app.store import CANCEL_MAX, Add, Commit, Lease, Place, Write
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import HISTORY_NUM_MAX, SECOND, NewTask, Retention, State, Task
from tests.fake_clock import PATIENCE, START, FakeClock
from tests.parts import (
    NO_LIMIT,
    BareService,
    Engine,
    SqliteEngine,
    damage_page_of,
    limit_pages,
    new,
    only_sqlite,
    opened,
    service,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def running(engine: Engine, clock: FakeClock) -> AsyncIterator[BareService]:
    """Return a queue without a worker."""
    async with service(engine, clock) as made:
        yield made


def commits(running: BareService) -> float:
    return running.metric("commit_seconds_count") or 0


async def outcome(future: asyncio.Future[Any]) -> object:
    """Return the future's result, or its exception's type."""
    try:
        result: object = await future
    except ServiceError as error:
        return type(error)
    return result


# Group commit.


async def test_adds_that_wait_together_share_one_commit(running: BareService) -> None:
    added = await asyncio.gather(*(running.queue.add(new(1, num=n)) for n in range(200)))
    assert [each.first for each in added] == list(range(1, 201))
    assert commits(running) == 1
    assert running.metric("commit_writes_sum") == 200
    assert [task.num for task in await running.store.queue_page(0, 999)] == list(range(200))


async def test_adds_that_come_during_a_commit_share_the_next(running: BareService) -> None:
    first = running.queue.add(new(1))
    await until(lambda: not running.metric("writes_waiting"))
    others = [running.queue.add(new(1)) for _ in range(99)]
    assert running.metric("writes_waiting") == 99
    await asyncio.gather(first, *others)
    assert commits(running) == 2


async def test_writes_that_come_one_after_the_other_share_a_commit_like_the_last(
    running: BareService,
) -> None:
    """Clients answered together write again together: the writer waits for them, not for more."""
    await asyncio.gather(*(running.queue.add(new(1)) for _ in range(4)))
    futures = []
    for _ in range(4):
        futures.append(running.queue.add(new(1)))
        await asyncio.sleep(0)
    await asyncio.gather(*futures)
    assert commits(running) == 2
    # A turn without another write ends the wait: a lone client's add does not hang on others.
    await asyncio.wait_for(running.queue.add(new(1)), 5)
    assert commits(running) == 3


async def test_adds_and_finishes_share_a_commit(running: BareService) -> None:
    await running.queue.add(new(0, 1))
    finish = asyncio.create_task(running.queue.finish(1))
    await asyncio.sleep(0)
    added = await running.queue.add(new(2))
    await finish
    assert added.first == 3
    assert commits(running) == 2
    assert running.queue.figures.depth == 2


@pytest.mark.parametrize(
    ("tasks", "keys", "expected"),
    [
        ([1] * COMMIT_WEIGHT, False, 1),
        ([1] * (COMMIT_WEIGHT + 1), False, 2),
        ([COMMIT_WEIGHT, 1, 1], False, 2),
        ([1, COMMIT_WEIGHT, 1], False, 3),
        ([3 * COMMIT_WEIGHT], False, 1),
        ([3 * COMMIT_WEIGHT] * 2, False, 2),
        ([1] * (COMMIT_WEIGHT // (KEY_WEIGHT + 1)), True, 1),
        ([1] * (COMMIT_WEIGHT // (KEY_WEIGHT + 1) + 1), True, 2),
    ],
)
async def test_a_commit_takes_what_fits_into_its_time(
    running: BareService, tasks: list[int], keys: bool, expected: int
) -> None:
    adds = [
        running.queue.add([NewTask(0, 0)] * count, f"key{n}" if keys else None, "r")
        for n, count in enumerate(tasks)
    ]
    await asyncio.gather(*adds)
    assert commits(running) == expected
    assert running.queue.figures.depth == sum(tasks)


async def test_finishes_count_for_the_run_that_they_may_be(running: BareService) -> None:
    await running.queue.add(new(*[1] * 9))
    finishes = [asyncio.create_task(running.queue.finish(n)) for n in range(1, 10)]
    await asyncio.gather(*finishes)
    assert commits(running) == 1 + 3


async def test_what_was_answered_before_comes_first(running: BareService) -> None:
    last = 0
    for _ in range(20):
        added = await running.queue.add(new(1))
        assert added.first == last + 1
        last = added.last


async def test_a_caller_that_goes_away_takes_nothing_back(running: BareService) -> None:
    async def add() -> None:
        await running.queue.add(new(1, num=5))

    early = asyncio.create_task(add())
    await asyncio.sleep(0)
    assert running.metric("writes_waiting") == 1
    early.cancel()
    late = asyncio.create_task(add())
    await asyncio.sleep(0)
    await until(lambda: not running.metric("writes_waiting"))
    # Its commit is under way.
    late.cancel()
    await running.queue.add(new(1, num=6))
    assert [task.num for task in await running.store.queue_page(0, 9)] == [5, 5, 6]
    assert early.cancelled()
    assert late.cancelled()


async def test_each_refusal_goes_to_its_own_caller(running: BareService) -> None:
    outcomes = [
        running.queue.add(new(1), "key", "r"),
        running.queue.add([NewTask(2**63, 0)]),
        running.queue.add(new(1), "key", "other"),
        running.queue.add(new(1), "key", "r"),
        running.queue.add(new(1)),
    ]
    first, refused, reused, replayed, last = [await outcome(each) for each in outcomes]
    assert cast("Any", first).first == 1
    assert refused is Internal
    assert reused is KeyReused
    assert cast("Any", replayed).replayed
    assert cast("Any", last).first == 2


# The limit.


def is_full(running: BareService) -> bool:
    return running.queue.condition.reason == "the queue is full"


@only_sqlite
async def test_waiting_tasks_count_for_the_limit(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, queue_max=5) as running:
        await running.queue.add(new(1, 1))
        waiting = [running.queue.add(new(1)), running.queue.add(new(1))]
        assert not is_full(running)
        with pytest.raises(QueueFull):
            running.queue.add(new(1, 1))
        waiting.append(running.queue.add(new(1)))
        assert is_full(running)
        with pytest.raises(QueueFull):
            running.queue.add(new(1))
        await asyncio.gather(*waiting)
        assert is_full(running)
        with pytest.raises(QueueFull):
            running.queue.add(new(1))
        await running.queue.finish(1)
        assert not is_full(running)
        await running.queue.add(new(1))


async def test_what_was_not_added_leaves_its_place(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, queue_max=2) as running:
        await running.queue.add(new(1), "key", "r")
        for _ in range(3):
            assert await outcome(running.queue.add([NewTask(2**63, 0)])) is Internal
            assert await outcome(running.queue.add(new(1), "key", "other")) is KeyReused
            assert cast("Any", await running.queue.add(new(1), "key", "r")).replayed
        await running.queue.add(new(1))
        assert is_full(running)


async def test_a_retry_with_its_key_is_answered_when_the_queue_is_full(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock, queue_max=1) as running:
        await running.queue.add(new(1), "key", "r")
        assert (await running.queue.add(new(1), "key", "r")).replayed
        assert await outcome(running.queue.add(new(1), "new", "r")) is QueueFull
        assert running.queue.figures.depth == 1


# Starting and stopping.


async def test_a_stop_commits_what_waits_and_refuses_what_comes(running: BareService) -> None:
    waiting = [running.queue.add(new(1)) for _ in range(2)]
    big = [running.queue.add(new(*[1] * COMMIT_WEIGHT)) for _ in range(2)]
    stopping = asyncio.create_task(running.queue.stop())
    await asyncio.sleep(0)
    with pytest.raises(Stopping):
        running.queue.add(new(1))
    await stopping
    assert all(each.done() and each.exception() is None for each in (*waiting, *big))
    assert (await running.store.figures()).depth == 2 + 2 * COMMIT_WEIGHT
    await running.queue.stop()


async def test_adds_are_refused_before_the_stop_when_told_so(running: BareService) -> None:
    await running.queue.add(new(1))
    running.queue.refuse_writes()
    with pytest.raises(Stopping):
        running.queue.add(new(1))
    with pytest.raises(Stopping):
        await running.queue.add(new(1), "key", "r")
    # The worker may still finish what is due.
    await running.queue.finish(1)


async def test_start_and_close_may_be_called_twice(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock) as running:
        await running.queue.start()
        await running.queue.add(new(1))
        await running.queue.stop()
        await running.queue.close()
        await running.queue.close()
        # Closed means that another process may own it.
        async with opened(engine, clock) as store:
            assert len(await store.queue()) == 1


async def test_a_queue_that_cannot_start_gives_its_lease_back(
    tmp_path: Path, clock: FakeClock
) -> None:
    place = SqliteEngine(tmp_path)
    place.path.write_text("no database")
    queue = TaskQueue(place.store(clock), clock, Metrics("x"), 9, lambda: None)
    for _ in range(2):
        with pytest.raises(StartError):
            await queue.start()
    place.path.unlink()
    (await place.store(clock).own()).release()


@only_sqlite
async def test_a_second_queue_on_the_same_store_does_not_start(
    running: BareService, engine: Engine
) -> None:
    queue = TaskQueue(engine.store(running.clock), running.clock, Metrics("x"), 9, lambda: None)
    with pytest.raises(NotOwner):
        await queue.start()


async def test_a_queue_goes_on_where_it_was(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(5, 2))
        before = running.queue.figures
    clock.advance(1.5)
    async with service(engine, clock) as running:
        assert running.queue.figures == before
        assert running.queue.timer.head is not None
        assert running.queue.timer.head.deadline == clock.monotonic() + 3.5
        assert running.metric("queue_depth") == 2


# The head and its deadline.


async def test_the_wait_runs_from_the_commit_that_started_it(running: BareService) -> None:
    clock, queue = running.clock, running.queue
    assert [queue.timer.head] == [None]
    await queue.add(new(3, 2))
    assert queue.timer.head is not None
    assert (queue.timer.head.task.history_num, queue.timer.head.deadline) == (
        1,
        clock.monotonic() + 3,
    )
    clock.advance(3.25)
    # The wall clock has nothing to do with it.
    clock.step_wall(-3_600)
    await queue.finish(1)
    assert (queue.timer.head.task.history_num, queue.timer.head.deadline) == (
        2,
        clock.monotonic() + 2,
    )
    await queue.finish(2)
    assert [queue.timer.head] == [None]


async def test_the_wait_runs_from_the_end_of_a_commit_that_took_long(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, queue, commit = running.clock, running.queue, running.store.commit

    async def slow(lease: Lease, writes: Sequence[Write]) -> Commit:
        done = await commit(lease, writes)
        clock.advance(0.75)
        return done

    monkeypatch.setattr(running.store, "commit", slow)
    await queue.add(new(3))
    assert queue.timer.head is not None
    assert queue.timer.head.deadline == clock.monotonic() + 3


async def test_who_waits_for_a_task_misses_no_finish_during_the_look(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, look = running.queue, running.store.task
    await queue.add(new(3))

    async def slow(history_num: int) -> tuple[Task, Place | None] | None:
        found = await look(history_num)
        if found is not None and found[1] is not None:
            await queue.finish(history_num)
        return found

    monkeypatch.setattr(running.store, "task", slow)
    async with asyncio.timeout(PATIENCE):
        found = await queue.view.task(1, wait=60)
    assert found.task.state is State.DONE


async def test_writes_that_do_not_move_the_head_leave_it(running: BareService) -> None:
    queue = running.queue
    await queue.add(new(3), "key", "r")
    head = queue.timer.head
    running.clock.advance(1)
    await queue.add(new(1))
    await queue.add(new(3), "key", "r")
    for wrong in (2, 3):
        with pytest.raises(NotHead):
            await queue.finish(wrong)
    assert queue.timer.head is head


async def test_a_change_is_seen_whether_it_came_before_or_while_waiting(
    running: BareService,
) -> None:
    queue, clock = running.queue, running.clock
    await queue.add(new(1))
    await queue.timer.changed(None)
    waiter = asyncio.create_task(queue.timer.changed(None))
    await clock.until_asleep(None)
    await queue.add(new(1))
    await clock.until_asleep(None)
    assert not waiter.done()
    await queue.finish(1)
    await waiter
    timed = asyncio.create_task(queue.timer.changed(2))
    await clock.until_asleep(2)
    clock.advance(2)
    await timed
    queue.timer.wake()
    await queue.timer.changed(None)


# Figures.


def measures(running: BareService) -> tuple[float | None, ...]:
    names = ("queue_oldest_task_age_seconds", "queue_backlog_seconds", "head_overdue_seconds")
    return tuple(running.metric(name) for name in names)


async def test_age_and_backlog_are_of_now_and_never_negative(running: BareService) -> None:
    clock, queue = running.clock, running.queue
    assert measures(running) == (0, 0, 0)
    await queue.add(new(3, 2.5))
    assert measures(running) == (0, 5.5, 0)
    clock.advance(2)
    assert measures(running) == (2, 3.5, 0)
    clock.advance(2)
    assert measures(running) == (4, 2.5, 1)
    clock.step_wall(-86_400)
    assert measures(running) == (0, 2.5, 1)
    await queue.finish(1)
    assert measures(running) == (3, 2.5, 0)
    await queue.finish(2)
    assert measures(running) == (0, 0, 0)


async def test_the_outlook_is_that_of_the_figures_that_were_read(running: BareService) -> None:
    clock, queue, store = running.clock, running.queue, running.store

    async def measured() -> tuple[float, float]:
        outlook = await queue.view.outlook()
        return outlook.oldest_task_age, outlook.backlog

    assert await measured() == (0, 0)
    await queue.add(new(3, 2.5))
    clock.advance(1)
    assert await measured() == (1, 4.5)
    # A head that was finished after it was read: by its stored start.
    _, head, now = await store.overview()
    assert head is not None
    await queue.finish(1)
    clock.advance(1)
    assert queue.timer.seconds_left(1, head.started_at, head.timeout, now) == 2
    # The finish, two seconds early by hand, took the stamp with it.
    assert await measured() == (3, 1.5)


# A retry with a key.


@only_sqlite
async def test_a_retry_is_answered_from_the_table_on_a_full_disk_and_while_stopping(
    running: BareService,
) -> None:
    queue, store = running.queue, cast("SqliteStore", running.store)
    first = await queue.add(new(60, 60), "key", "r")
    await limit_pages(store, 0)
    much = [queue.add(new(*[1] * 2_000)) for _ in range(3)]
    retries = [queue.add(new(60, 60), "key", "r") for _ in range(3)]
    others = [queue.add(new(*[60] * 2_000), "other", "r"), queue.add(new(60), "key", "s")]
    assert [await outcome(each) for each in much] == [DiskFull] * 3
    assert [await each for each in retries] == [first._replace(replayed=True)] * 3
    assert [await outcome(each) for each in others] == [DiskFull, KeyReused]
    await limit_pages(store, 2**30)
    queue.refuse_writes()
    assert await queue.add(new(60, 60), "key", "r") == first._replace(replayed=True)
    for key, request, kind in (("key", "s", KeyReused), ("new", "r", Stopping)):
        with pytest.raises(kind) as refused:
            await queue.add(new(60), key, request)
        assert refused.value.applied is False


async def test_while_the_first_add_waits_for_its_commit_its_retry_is_not_told_that_it_is_not_there(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, commit, go_on = running.queue, running.store.commit, asyncio.Event()

    async def hold(lease: Lease, writes: Sequence[Write]) -> Commit:
        await go_on.wait()
        return await commit(lease, writes)

    monkeypatch.setattr(running.store, "commit", hold)
    first = queue.add(new(60), "key", "r")
    queue.refuse_writes()
    with pytest.raises(Stopping) as refused:
        await queue.add(new(60), "key", "r")
    assert refused.value.applied is None
    go_on.set()
    assert (await first).first == 1


# A range of more than one slice.


async def test_a_range_ends_where_the_queue_ends_in_its_first_commit(
    running: BareService,
) -> None:
    queue = running.queue
    await queue.add(new(*[9] * (CANCEL_MAX + 2)))
    # One task was asked for before it, and waits for its commit. One comes between two slices.
    pending = queue.add(new(8))
    cancelling = asyncio.create_task(queue.cancel_range(2, HISTORY_NUM_MAX))
    await until(lambda: queue.figures.last_finish_num)
    between = await queue.add(new(7))
    assert await cancelling == CANCEL_MAX + 2
    left = [task.history_num for task in await queue.view.queue_page(0, 9)]
    assert left == [1, between.first]
    assert (await queue.view.task((await pending).first)).task.state is State.CANCELLED


@pytest.mark.parametrize("slices", [0, 1])
@pytest.mark.parametrize("kind", [Stopping, DiskFull])
async def test_a_range_that_is_cut_short_does_not_claim_that_nothing_was_cancelled(
    running: BareService, monkeypatch: pytest.MonkeyPatch, slices: int, kind: type[ServiceError]
) -> None:
    queue, commit, committed = running.queue, running.store.commit, 0
    await queue.add(new(*[1] * 2_500))

    async def refuse(lease: Lease, writes: Sequence[Write]) -> Commit:
        nonlocal committed
        if committed == slices:
            raise DiskFull
        committed += 1
        if committed == slices and kind is Stopping:
            queue.refuse_writes()
        return await commit(lease, writes)

    monkeypatch.setattr(running.store, "commit", refuse)
    if slices == 0 and kind is Stopping:
        queue.refuse_writes()
    with pytest.raises(kind) as refused:
        await queue.cancel_range(1, 2_500)
    assert refused.value.applied is (None if slices else False)
    assert queue.figures.depth == 2_500 - 1_000 * slices


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
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
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
    running: BareService,
) -> None:
    await running.store.close()
    assert await outcome(running.queue.add(new(1))) is OutcomeUnknown
    assert running.failures == [True]
    assert running.metric("store_errors_total", kind="other") == 1
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


@pytest.mark.parametrize(("error", "kind"), [(DiskFull, "full"), (StoreBusy, "busy")])
async def test_what_has_no_time_between_commits_comes_behind_a_later_one(
    running: BareService, monkeypatch: pytest.MonkeyPatch, error: type[ServiceError], kind: str
) -> None:
    async def refuse(_: Lease) -> None:
        raise error

    with monkeypatch.context() as refusing:
        refusing.setattr(running.store, "maintain", refuse)
        await running.queue.add(new(1))
        await until(lambda: running.metric("store_errors_total", kind=kind))
    assert running.metric("store_errors_total", kind=kind) == 1
    assert (running.queue.condition.reason == "ok") is (kind == "busy")
    await running.queue.add(new(1))
    assert running.queue.condition.reason == "ok"
    assert not running.queue.failed


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


async def test_a_queue_is_stuck_when_no_commit_returns_and_only_then(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, clock, commit, go_on = (
        running.queue,
        running.clock,
        running.store.commit,
        asyncio.Event(),
    )

    async def hold(lease: Lease, writes: Sequence[Write]) -> Commit:
        await go_on.wait()
        return await commit(lease, writes)

    def is_stuck() -> bool:
        return queue.condition.problem == "no commit has returned for 10 s"

    monkeypatch.setattr(running.store, "commit", hold)
    clock.advance(60)
    assert queue.condition.problem is None
    add = queue.add(new(1))
    await until(lambda: not running.metric("writes_waiting"))
    clock.advance(10)
    assert not is_stuck()
    clock.advance(0.000001)
    assert is_stuck()
    go_on.set()
    await add
    await until(lambda: not is_stuck())
    assert queue.condition.problem is None


async def test_a_queue_whose_commits_are_refused_again_and_again_is_stuck(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on PostgreSQL, where each gives up after some time: while somebody holds the lock."""
    queue, clock, commit = running.queue, running.clock, running.store.commit

    async def refuse(lease: Lease, writes: Sequence[Write]) -> Commit:
        clock.advance(4)
        raise StoreUnavailable

    async def add() -> None:
        with pytest.raises(StoreUnavailable):
            await queue.add(new(1))

    def is_stuck() -> bool:
        return queue.condition.problem == "no commit has returned for 10 s"

    monkeypatch.setattr(running.store, "commit", refuse)
    await add()
    await add()
    assert not is_stuck()
    await add()
    assert is_stuck()
    clock.advance(0.6)
    await add()
    assert is_stuck()
    # When nobody tries any more, nobody knows.
    clock.advance(2)
    assert not is_stuck()
    await add()
    assert not is_stuck()
    for _ in range(2):
        await add()
    assert is_stuck()
    monkeypatch.setattr(running.store, "commit", commit)
    await queue.add(new(1))
    assert queue.condition.problem is None


async def test_a_store_that_is_away_is_a_problem(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(running.store), "up", property(lambda _: False))
    assert running.queue.condition.problem == "the store is unavailable"
    assert running.metric("store_up") == 0


async def test_while_it_runs_the_store_is_watched_again_and_again(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanic_app.queue.writer.WATCH_SECONDS", 0.001)
    ask, asked = Writer._ask_to_watch, 0

    def note(self: Writer) -> None:
        nonlocal asked
        asked += 1
        ask(self)

    monkeypatch.setattr(Writer, "_ask_to_watch", note)
    async with service(engine, clock) as running:
        watch, watched = running.store.watch, 0

        async def count(lease: Lease) -> None:
            nonlocal watched
            watched += 1
            await watch(lease)

        monkeypatch.setattr(running.store, "watch", count)
        await until(lambda: watched == 3)
        await running.queue.stop()
        seen = asked, watched
        await asyncio.sleep(0.01)
        assert (asked, watched) == seen


async def test_a_lone_write_behind_a_large_commit_waits_for_no_time(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.gather(*(running.queue.add(new(1)) for _ in range(3)))
    sleep, slept = asyncio.sleep, []

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    await running.queue.add(new(1))
    assert slept
    assert not any(slept)


async def test_retention_that_is_due_in_less_than_a_second_is_waited_for(
    engine: Engine, clock: FakeClock
) -> None:
    keep = Retention(age=10 * SECOND)
    async with service(engine, clock, history_keep=keep) as running:
        await running.queue.add(new(0))
        await running.queue.finish(1)
        clock.advance(9.5)
        await running.queue.add(new(1))
        await clock.until_asleep(0.5)
        clock.advance(0.5)
        await until(lambda: running.queue.figures.pruned == 1)


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


# Cancelling and pausing.


async def test_a_cancel_returns_the_task_as_it_is_then(running: BareService) -> None:
    queue, clock = running.queue, running.clock
    await queue.add(new(1, 2, num=5))
    clock.advance(1)
    cancelled = await queue.cancel(2)
    assert cancelled == Task(2, 6, 2 * SECOND, START, State.CANCELLED, None, START + SECOND)
    for number, error in ((2, AlreadyFinished), (3, NotFound)):
        with pytest.raises(error):
            await queue.cancel(number)
    assert running.metric("tasks_finished_total", outcome="cancelled") == 1


async def test_a_pause_is_shown_and_taken_back(running: BareService) -> None:
    queue = running.queue
    await queue.add(new(1, 1))
    for paused in (True, True, False):
        await queue.set_paused(paused=paused)
        assert queue.figures.paused == running.metric("queue_paused") == paused
        assert queue.condition.reason == ("paused" if paused else "ok")


async def test_a_range_takes_no_more_commits_than_it_has_slices(running: BareService) -> None:
    queue = running.queue
    await queue.add(new(*[1] * (2 * CANCEL_MAX + 1)))
    assert await queue.cancel_range(2, 1) == 0
    assert commits(running) == 1
    assert await queue.cancel_range(2 * CANCEL_MAX + 1, 2 * CANCEL_MAX + 1) == 1
    assert commits(running) == 2
    assert await queue.cancel_range(1, 2 * CANCEL_MAX) == 2 * CANCEL_MAX
    assert commits(running) == 4
    assert running.metric("tasks_finished_total", outcome="cancelled") == 2 * CANCEL_MAX + 1


async def test_how_far_stamps_are_ahead_of_the_clock_is_shown(running: BareService) -> None:
    await running.queue.add(new(1))
    for step, ahead in ((5.0, 0.0), (-8.0, 3.0), (3.5, 0.0)):
        running.clock.step_wall(step)
        assert running.metric("stamp_ahead_seconds") == ahead
