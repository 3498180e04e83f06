"""The queue: limits, start and stop, the head, figures, and what clients change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
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
    QueueFull,
    ServiceError,
    StartError,
    Stopping,
    StoreFailed,
    StoreUnavailable,
)
from sanic_app.metrics import Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.view import SECOND_LOOKS
from sanic_app.queue.waiting import COMMIT_WEIGHT
from sanic_app.store import CANCEL_MAX, Commit, Lease, Overview, Place, Write
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import HISTORY_NUM_MAX, SECOND, NewTask, State, Task
from tests.fake_clock import PATIENCE, START, FakeClock
from tests.parts import (
    BareService,
    Engine,
    SqliteEngine,
    commits,
    limit_pages,
    new,
    only_sqlite,
    opened,
    outcome,
    service,
    shut,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def running(engine: Engine, clock: FakeClock) -> AsyncIterator[BareService]:
    """Return a queue without a worker."""
    async with service(engine, clock) as made:
        yield made


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


async def test_a_queue_that_cannot_be_read_does_not_start(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = engine.store(clock)
    open_whole = store.open

    async def damaged() -> Overview:
        raise StoreFailed("corrupt", "a page is damaged")

    async def open_damaged(lease: Lease) -> None:
        await open_whole(lease)
        monkeypatch.setattr(store, "overview", damaged)

    monkeypatch.setattr(store, "open", open_damaged)
    queue = TaskQueue(store, clock, Metrics("x"), 9, lambda: None)
    with pytest.raises(StartError, match="the queue cannot be read: a page is damaged"):
        await queue.start()
    await shut(store)


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
        (build,) = running.metrics.registry.restricted_registry(["sanic_app_build_info"]).collect()
        assert build.samples[0].labels["store"] == running.queue.engine
        assert running.queue.condition.reason == "ok"
        with pytest.raises(NotFound):
            await running.queue.view.task(3)


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


async def test_nobody_waits_for_a_task_while_the_queue_stops(running: BareService) -> None:
    await running.queue.add(new(3))
    running.queue.refuse_writes()
    async with asyncio.timeout(PATIENCE):
        found = await running.queue.view.task(1, wait=60)
    assert found.task.state is State.WAITING


async def test_behind_a_crowd_of_looks_nobody_asks_a_store_that_is_away(
    running: BareService, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, look, more = running.queue, running.store.task, 3
    await queue.add(new(3))
    crowd = [asyncio.create_task(queue.view.task(1, wait=60)) for _ in range(SECOND_LOOKS + more)]
    await until(lambda: len(running.clock._sleepers) >= len(crowd))
    looked, go_on = 0, asyncio.Event()

    async def slow(history_num: int) -> tuple[Task, Place | None] | None:
        nonlocal looked
        looked += 1
        await go_on.wait()
        return await look(history_num)

    monkeypatch.setattr(running.store, "task", slow)
    await queue.finish(1)
    await until(lambda: looked == SECOND_LOOKS)
    monkeypatch.setattr(type(running.store), "up", property(lambda _: False))
    go_on.set()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert sum(isinstance(each, StoreUnavailable) for each in found) == more
    assert looked == SECOND_LOOKS
    # A store that answers is asked by all, and a lone client always asks.
    assert (await queue.view.task(1, wait=60)).task.state is State.DONE


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
    # The finish, two seconds early by hand, took the stamp with it.
    assert await measured() == (3, 2.5)
    clock.advance(1)
    assert queue.timer.seconds_left(1, head.started_at, head.timeout, now) == 2


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
    assert refused.value.detail.startswith("The service is stopping; it is not known whether")
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
    part = "A part of the range is cancelled: cancel it again."
    assert refused.value.detail == (part if slices else kind.text)
    assert queue.figures.depth == 2_500 - 1_000 * slices


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
