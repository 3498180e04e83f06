"""The writer: which writes share a commit, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from sanic_app.errors import (
    DiskFull,
    Internal,
    KeyReused,
    ServiceError,
    StoreBusy,
    StoreUnavailable,
)
from sanic_app.queue.waiting import COMMIT_WEIGHT, KEY_WEIGHT
from sanic_app.queue.writer import Writer
from sanic_app.store import Commit, Lease, Write
from sanic_app.task import SECOND, NewTask, Retention
from tests.fake_clock import FakeClock
from tests.parts import (
    BareService,
    Engine,
    commits,
    new,
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


async def test_only_adds_take_places_while_they_wait(running: BareService) -> None:
    added = running.queue.add(new(1, 1))
    cancelled = asyncio.create_task(running.queue.cancel(1))
    await until(lambda: running.metric("writes_waiting") == 1)
    assert running.queue._writer.uncommitted == 2
    assert ((await added).last, (await cancelled).history_num) == (2, 1)


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


# Another time the store may be there again.


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

        async def no_commit(lease: Lease, writes: Sequence[Write]) -> Commit:
            raise AssertionError("nothing is to be written")

        monkeypatch.setattr(running.store, "watch", count)
        monkeypatch.setattr(running.store, "commit", no_commit)
        await until(lambda: watched == 3)
        await running.queue.stop()
        assert not running.queue.failed
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


async def test_retention_begins_at_the_start_without_any_write(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(0, 0, 0))
        await running.queue.finish(1)
    async with service(engine, clock, history_keep=Retention(tasks=1)) as running:
        await until(lambda: running.queue.figures.pruned == 2)


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
