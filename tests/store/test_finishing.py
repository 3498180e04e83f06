"""What every store promises about finishing: one at a time, in order; runs of zero timeouts."""

from __future__ import annotations

import pytest

from sanic_app.errors import (
    NotHead,
)
from sanic_app.store import (
    RUN_MAX,
    Add,
    Added,
    Done,
    Finish,
)
from sanic_app.task import SECOND, State, Task
from tests.fake_clock import START, FakeClock
from tests.parts import Engine, new, opened
from tests.store.state import figures_agree_with_the_tables

pytestmark = pytest.mark.anyio


async def test_a_finish_appends_removes_and_starts_the_next_in_one_commit(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(3, 2, num=5)
        clock.advance(3.5)
        commit = await store.commit(Finish(1))
        now = START + 3_500_000
        done = Task(1, 5, 3 * SECOND, START, State.DONE, START, now)
        head = Task(2, 6, 2 * SECOND, START, State.WAITING, now)
        assert commit.results == [Done([done])]
        assert commit.started == head
        assert await store.done() == [done]
        assert await store.queue() == [head]
        assert (await store.store.overview())[1] == head
        await figures_agree_with_the_tables(store)
        assert commit.figures == await store.store.figures()


async def test_the_finish_of_the_last_leaves_no_head(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        commit = await store.commit(Finish(1))
        assert commit.started is None
        assert commit.figures.head is None
        assert (await store.store.overview()).head is None
        await figures_agree_with_the_tables(store)
        # And the queue starts again with what comes next.
        assert (await store.add(1)).started


async def test_results_come_in_the_order_of_finishing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[1] * 20, num=100)
        for _ in range(20):
            clock.advance(1)
            await store.finish_head()
        assert [task.num for task in await store.done()] == list(range(100, 120))
        finished = [task.finished_at or 0 for task in await store.done()]
        assert finished == sorted(set(finished))
        started = [task.started_at for task in await store.done()]
        assert started[1:] == finished[:-1]


@pytest.mark.parametrize("clock_step", [0.0, -0.5, -3_600.0, 2.999999, 3.0, 10.0])
async def test_no_task_is_finished_early_even_when_the_clock_goes_back(
    engine: Engine, clock: FakeClock, clock_step: float
) -> None:
    async with opened(engine, clock) as store:
        await store.add(3, 1)
        clock.step_wall(clock_step)
        (done,) = await store.finish(1)
        assert done.finished_at == START + max(round(clock_step * SECOND), 3 * SECOND)
        # The store's time went on with it: the next one starts no earlier.
        assert (await store.store.overview())[1] == (await store.queue())[0]
        assert (await store.queue())[0].started_at == done.finished_at
        (second,) = await store.finish(2)
        assert second.finished_at is not None
        assert second.finished_at >= done.finished_at + SECOND
        await figures_agree_with_the_tables(store)


@pytest.mark.parametrize("number", [2, 3, 4, 0, -1, 10**6])
async def test_only_the_head_can_be_finished(engine: Engine, clock: FakeClock, number: int) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1, 1)
        await store.finish(1)
        before = await store.store.figures()
        with pytest.raises(NotHead):
            await store.finish(1 if number == 2 else number)
        assert await store.store.figures() == before
        assert len(await store.done()) == 1


async def test_nothing_can_be_finished_in_an_empty_queue(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        with pytest.raises(NotHead):
            await store.finish(1)
        with pytest.raises(NotHead):
            await store.finish(0)


async def test_a_second_finish_of_the_same_task_is_refused(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1)
        once, again = (await store.commit(Finish(1), Finish(1))).results
        assert isinstance(once, Done)
        assert isinstance(again, NotHead)
        with pytest.raises(NotHead):
            await store.finish(1)
        assert [task.history_num for task in await store.done()] == [1]


async def test_a_finish_that_means_another_start_is_refused(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        figures = await store.store.figures()
        assert figures.head_started_at is not None
        for start in (figures.head_started_at - 1, figures.head_started_at + 1, 0):
            with pytest.raises(NotHead):
                await store.one(Finish(1, start))
        assert await store.store.figures() == figures
        await store.one(Finish(1, figures.head_started_at))
        assert [task.history_num for task in await store.done()] == [1]


async def test_what_one_commit_adds_it_can_finish(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(1, num=5)), Finish(1), Add(new(2, num=6)))
        assert [type(each) for each in commit.results] == [Added, Done, Added]
        assert commit.started is not None
        assert (commit.started.history_num, commit.started.num) == (2, 6)
        # Never early, although the finish came at once: a commit is where time is taken.
        (done,) = await store.done()
        assert done.finished_at == START + SECOND
        await figures_agree_with_the_tables(store)


@pytest.mark.parametrize(
    ("timeouts", "finished"),
    [
        ([0], 1),
        ([0, 0, 0], 3),
        ([0, 0, 1, 0], 2),
        ([0, 1], 1),
        ([1, 0, 0], 1),
        ([0.000001, 0], 1),
        ([0, 0.000001], 1),
    ],
)
async def test_a_run_of_zero_timeouts_finishes_together_and_nothing_else_does(
    engine: Engine, clock: FakeClock, timeouts: list[float], finished: int
) -> None:
    async with opened(engine, clock) as store:
        await store.add(*timeouts)
        clock.advance(5)
        tasks = await store.finish(1)
        assert [task.history_num for task in tasks] == list(range(1, finished + 1))
        assert await store.done() == tasks
        now = START + 5 * SECOND
        assert [task.finished_at for task in tasks] == [now] * finished
        # The first was started before; those behind it start and end in this commit.
        assert [task.started_at for task in tasks] == [START] + [now] * (finished - 1)
        queue = await store.queue()
        assert [task.state for task in queue[:1]] == [State.WAITING] * bool(queue)
        await figures_agree_with_the_tables(store)


@pytest.mark.parametrize("zeros", [RUN_MAX - 1, RUN_MAX, RUN_MAX + 1, 2 * RUN_MAX + 1])
@pytest.mark.parametrize("last", [0, 1])
async def test_a_run_has_at_most_a_thousand_tasks(
    engine: Engine, clock: FakeClock, zeros: int, last: int
) -> None:
    assert RUN_MAX == 1_000
    async with opened(engine, clock) as store:
        await store.add(*[0] * zeros, last)
        left = zeros + (last == 0)
        while left:
            tasks = await store.finish_head()
            assert len(tasks) == min(left, RUN_MAX)
            left -= len(tasks)
        assert len(await store.done()) == zeros + (last == 0)
        await figures_agree_with_the_tables(store)


async def test_a_run_takes_what_its_own_commit_added(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(0)), Add(new(0)), Finish(1), Add(new(0)), Finish(3))
        lengths = [len(each.tasks) for each in commit.results if isinstance(each, Done)]
        assert lengths == [2, 1]
        assert commit.started is None
        await figures_agree_with_the_tables(store)
