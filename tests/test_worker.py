"""The one background task, on the real queue and store, by a clock that stands still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from sanic_app.errors import NotHead, StoreFailed
from sanic_app.queue.worker import FULL_PAUSE, seconds_to_sleep
from sanic_app.store import Commit, Finish, Lease, Write
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND, Head, NewTask, State, Task
from tests.fake_clock import PATIENCE, START, FakeClock
from tests.parts import (
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


def head(deadline: float) -> Head:
    return Head(Task(1, 5, SECOND, START, State.WAITING, START), deadline)


@pytest.mark.parametrize(
    ("deadline", "now", "seconds"),
    [(10, 7, 3), (10, 9.75, 0.25), (10, 10, 0), (10, 10.5, 0), (10, 9_999, 0)],
)
def test_the_decision_is_to_sleep_for_the_rest_or_to_finish(
    deadline: float, now: float, seconds: float
) -> None:
    assert seconds_to_sleep(head(deadline), now) == seconds


def test_without_a_head_there_is_nothing_to_wait_for() -> None:
    assert seconds_to_sleep(None, 5) is None


# Waiting.


async def test_a_task_is_done_when_its_wait_is_over_and_not_before(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3, num=7))
        await clock.until_asleep(3)
        clock.advance(2.999999)
        await clock.until_asleep(0.000001)
        assert await running.done() == []
        clock.advance(0.000001)
        await clock.until_asleep(None)
        assert await running.done() == [7]
        (task,) = await running.store.results_page(0, 9)
        assert (task.started_at, task.finished_at) == (START, START + 3 * SECOND)


async def test_whoever_wakes_it_early_it_looks_again(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3))
        await clock.until_asleep(3)
        for passed, left in ((0, 3), (1, 2), (1.999, 0.001)):
            clock.advance(passed)
            clock.wake_all()
            await clock.until_asleep(left)
            running.queue.timer.wake()
            await clock.until_asleep(left)
            assert await running.done() == []
        clock.advance(0.001)
        await clock.until_asleep(None)
        assert len(await running.done()) == 1


async def test_waits_add_up_and_results_keep_the_order(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        for num, timeout in ((1, 2), (2, 0), (3, 1)):
            await running.queue.add([NewTask(num, timeout * SECOND)])
        await clock.until_asleep(2)
        clock.advance(2)
        await clock.until_asleep(1)
        assert await running.done() == [1, 2]
        clock.advance(0.5)
        assert await running.done() == [1, 2]
        clock.advance(0.5)
        await clock.until_asleep(None)
        assert await running.done() == [1, 2, 3]
        finished = [task.finished_at for task in await running.store.results_page(0, 9)]
        assert finished == [START + 2 * SECOND, START + 2 * SECOND, START + 3 * SECOND]


async def test_a_fraction_of_a_second_is_waited_for_exactly(
    engine: Engine, clock: FakeClock
) -> None:
    """Binary fractions do not add up to decimal ones: that must neither hang nor be early."""
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(*[0.1] * 30))
        for n in range(30):
            await clock.until_asleep(0.1)
            assert len(await running.done()) == n
            clock.advance(0.1)
        await clock.until_asleep(None)
        assert len(await running.done()) == 30


async def test_the_wall_clock_does_not_move_a_wait(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3, 3))
        await clock.until_asleep(3)
        clock.step_wall(86_400)
        clock.wake_all()
        await clock.until_asleep(3)
        clock.step_wall(-2 * 86_400)
        clock.advance(3)
        await clock.until_asleep(3)
        assert len(await running.done()) == 1
        clock.step_wall(-3_600)
        clock.advance(3)
        await clock.until_asleep(None)
        assert len(await running.done()) == 2


async def test_a_long_sleep_of_the_machine_is_no_reason_to_hurry(
    engine: Engine, clock: FakeClock
) -> None:
    """However late the head is, the next wait is as long as it was asked for."""
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(1, 5))
        await clock.until_asleep(1)
        clock.advance(1_000)
        await clock.until_asleep(5)
        assert len(await running.done()) == 1


# Waking.


async def test_a_task_added_to_an_idle_queue_starts_at_once(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock, working=True) as running:
        for num in range(5):
            await clock.until_asleep(None)
            await running.queue.add(new(0, num=num))
            await clock.until_asleep(None)
            assert await running.done() == list(range(num + 1))


async def test_adding_behind_the_head_disturbs_no_sleep(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3))
        await clock.until_asleep(3)
        sleeper = clock._sleepers[0]
        await running.queue.add(new(0, 0))
        assert clock._sleepers == [sleeper]


class Interrupted(FakeClock):
    """Does something between the worker's look at the queue and its sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.between: Callable[[], Awaitable[object]] | None = None

    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        between, self.between = self.between, None
        if between is not None:
            await between()
        await super().wait(event, seconds, exact=exact)


async def test_no_change_is_lost_between_a_look_and_a_sleep(engine: Engine) -> None:
    clock = Interrupted()
    async with service(engine, clock) as running:
        clock.between = lambda: running.queue.add(new(2, num=7))
        running.worker.start()
        await clock.until_asleep(2)
        clock.between = lambda: running.queue.finish(1)
        clock.wake_all()
        await clock.until_asleep(None)
        assert await running.done() == [7]


async def test_a_head_that_somebody_else_finished_is_left_alone(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(1, 5))
        await clock.until_asleep(1)
        clock.advance(1)
        # This waits in the same commit, before the worker's own.
        await running.queue.finish(1)
        await clock.until_asleep(5)
        assert len(await running.done()) == 1
        assert running.worker.running
        with pytest.raises(NotHead):
            await running.queue.finish(1)


async def test_a_finish_says_which_start_it_means(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(engine, clock, working=True) as running:
        seen: list[Write] = []
        commit = running.store.commit

        async def note(lease: Lease, writes: Sequence[Write]) -> Commit:
            seen.extend(writes)
            return await commit(lease, writes)

        monkeypatch.setattr(running.store, "commit", note)
        await running.queue.add(new(1))
        await clock.until_asleep(1)
        started_at = running.queue.figures.head_started_at
        clock.advance(1)
        await clock.until_asleep(None)
        assert seen[1:] == [Finish(1, started_at)]


async def test_zero_timeouts_drain_in_runs_and_let_others_in_between(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(*[0] * 2_500))
        running.worker.start()
        added = await running.queue.add(new(0))
        await clock.until_asleep(None)
        assert added.first == 2_501
        assert len(await running.done()) == 2_501
        assert running.metric("tasks_finished_total", outcome="done") == 2_501
        assert 4 <= (running.metric("commit_seconds_count") or 0) <= 6


# Stopping and starting.


@only_sqlite
@pytest.mark.parametrize(("down", "left"), [(0, 2), (0.5, 1.5), (-9_999, 3)])
async def test_a_restart_waits_only_the_rest(
    engine: Engine, clock: FakeClock, down: float, left: float
) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3, 1))
        await clock.until_asleep(3)
        clock.advance(1)
    clock.step_wall(down)
    async with service(engine, clock, working=True) as running:
        await clock.until_asleep(left)
        assert await running.done() == []
        clock.advance(left)
        await clock.until_asleep(1)
        assert await running.done() == [0]


@only_sqlite
async def test_what_became_due_while_it_was_down_is_finished_at_once_and_alone(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3, 3, 3))
        await clock.until_asleep(3)
    clock.step_wall(86_400)
    async with service(engine, clock, working=True) as running:
        await clock.until_asleep(3)
        assert len(await running.done()) == 1


async def test_a_stop_leaves_the_wait(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3))
        await clock.until_asleep(3)
        async with asyncio.timeout(PATIENCE):
            await running.worker.stop()
            await running.worker.stop()
        assert not running.worker.running
        assert running.queue.timer.head is not None
        clock.advance(9)
        assert await running.done() == []
        assert running.deaths == []


async def test_a_stop_does_not_cut_a_finish(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(1, 0))
        await clock.until_asleep(1)
        clock.advance(1)
        await until(lambda: running.metric("writes_waiting"))
        await running.worker.stop()
        assert await running.done() == [0]


async def test_it_can_be_started_again_and_twice(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, working=True) as running:
        running.worker.start()
        await running.worker.stop()
        running.worker.start()
        await running.queue.add(new(0))
        await clock.until_asleep(None)
        assert await running.done() == [0]
        assert len(clock._sleepers) == 1


class Watched(FakeClock):
    """Notes which waits were exact, by their seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.exact: dict[float | None, bool] = {}

    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        self.exact[seconds] = exact
        await super().wait(event, seconds, exact=exact)


async def test_the_wait_of_the_head_is_exact_and_that_of_a_client_is_not(engine: Engine) -> None:
    clock = Watched()
    async with service(engine, clock, working=True) as running:
        await running.queue.add(new(3))
        await clock.until_asleep(3)
        client = asyncio.create_task(running.queue.view.task(1, wait=60))
        await clock.until_asleep(60)
        assert clock.exact[3] is True
        assert clock.exact[60] is False
        client.cancel()
        await asyncio.wait([client])


# Failing.


class Broken(FakeClock):
    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        raise RuntimeError("the clock is broken")


async def test_its_death_is_loud(engine: Engine) -> None:
    async with service(engine, Broken()) as running:
        running.worker.start()

        def is_running() -> bool:
            return running.worker.running

        assert is_running()
        await until(lambda: running.deaths)
        assert is_running() is False
        (error,) = running.deaths
        assert str(error) == "the clock is broken"
        await running.worker.stop()


@only_sqlite
async def test_a_finish_that_met_a_full_disk_is_tried_again(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(engine, clock) as running:
        store = cast("SqliteStore", running.store)
        await running.queue.add(new(*[0] * 1_000))
        await limit_pages(store, 0)
        running.worker.start()
        for tries in (1, 2, 3):
            await clock.until_asleep(FULL_PAUSE)
            assert running.metric("store_errors_total", kind="full") == tries
            assert await running.done() == []
            assert running.queue.condition.reason == "the disk is full"
            clock.advance(FULL_PAUSE)
        await clock.until_asleep(FULL_PAUSE)
        await limit_pages(store, 2**30)
        clock.advance(FULL_PAUSE)
        await clock.until_asleep(None)
        assert len(await running.done()) == 1_000
        assert running.queue.condition.reason == "ok"
        assert running.deaths == []
    told = {
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name == "sanic_app.queue.worker"
    }
    text = "the disk is full: the head is finished when there is room"
    assert told == {(logging.WARNING, text)}


async def test_after_a_failure_of_the_store_it_finishes_nothing_more(
    tmp_path: Path, clock: FakeClock
) -> None:
    place = SqliteEngine(tmp_path)
    async with opened(place, clock) as closed:
        await closed.add(1, key="key", request="r")
    damage_page_of(place.path, "idempotency")
    async with service(place, clock, working=True) as running:
        await clock.until_asleep(1)
        clock.advance(1)
        await until(lambda: not running.worker.running)
        assert running.failures == [True]
        assert running.deaths == []
        assert await running.done() == []


@only_sqlite
async def test_a_head_that_nobody_took_away_and_that_is_none_ends_the_worker(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(engine, clock, working=True) as served:
        await served.queue.add(new(5))
        commit = served.store.commit

        async def disagree(lease: Lease, writes: Sequence[Write]) -> Commit:
            done = await commit(lease, [])
            return done._replace(results=[NotHead() for _ in writes])

        monkeypatch.setattr(served.store, "commit", disagree)
        await clock.until_asleep(5)
        clock.advance(5)
        await until(lambda: served.deaths)
        (death,) = served.deaths
        assert isinstance(death, StoreFailed)
        assert death.kind == "other"
        assert death.detail == "the head is not the one that the last commit left"
