"""What every store promises about adding: numbers, order, the head, the limit."""

from __future__ import annotations

import pytest

from sanic_app.errors import (
    QueueFull,
)
from sanic_app.store import (
    Add,
    Added,
    Done,
    Finish,
)
from sanic_app.task import SECOND, NewTask, State, Task
from tests.fake_clock import START, FakeClock
from tests.parts import Engine, new, opened
from tests.store.state import figures_agree_with_the_tables

pytestmark = pytest.mark.anyio


async def test_an_empty_store_has_nothing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        assert await store.queue() == await store.done() == []
        assert (await store.store.overview()).head is None
        assert (await store.store.overview())[1] is None
        assert await store.task(1) is None
        await figures_agree_with_the_tables(store)


async def test_numbers_are_gapless_from_one_and_in_the_order_of_commits(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        assert (await store.add(3, num=7)).first == 1
        batch = await store.add(1, 2, 0, num=8)
        assert (batch.first, batch.last) == (2, 4)
        commit = await store.commit(Add(new(1, num=11)), Finish(9), Add(new(2, 3, num=12)))
        results = [result for result in commit.results if isinstance(result, Added)]
        assert [(each.first, each.last) for each in results] == [(5, 5), (6, 7)]
        assert [(task.history_num, task.num) for task in await store.queue()] == [
            (n, n + 6) for n in range(1, 8)
        ]


async def test_what_was_added_is_there_as_it_was_sent(engine: Engine, clock: FakeClock) -> None:
    tasks = [NewTask(2**63 - 1, 1), NewTask(-(2**63), 0), NewTask(0, 31_536_000 * SECOND)]
    async with opened(engine, clock) as store:
        await store.one(Add(tasks))
        assert [(task.num, task.timeout) for task in await store.queue()] == tasks
        assert {task.created_at for task in await store.queue()} == {START}


async def test_an_add_to_an_idle_queue_starts_its_first_task(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(3, 1, num=5)), Add(new(1)))
        first, second = commit.results
        assert first == Added(1, 2, START, started=True)
        assert second == Added(3, 3, START, started=False)
        assert commit.started == Task(1, 5, 3 * SECOND, START, State.WAITING, START)
        assert commit.figures == await store.store.figures()
        states = [(task.state, task.started_at) for task in await store.queue()]
        assert states == [(State.WAITING, START), (State.QUEUED, None), (State.QUEUED, None)]


async def test_adding_never_changes_the_head(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(3)
        before = await store.store.overview()
        for step in (1.0, -5_000.0, 1.0):
            clock.step_wall(step)
            commit = await store.commit(Add(new(0, 0)))
            assert commit.started is None
            assert (await store.store.overview())[1] == before[1]
        await figures_agree_with_the_tables(store)


async def test_beyond_the_limit_an_add_is_refused_whole(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, queue_max=3) as store:
        await store.add(1, 1)
        refused, fits, full = (await store.commit(Add(new(1, 1)), Add(new(1)), Add(new(1)))).results
        assert isinstance(refused, QueueFull)
        assert fits == Added(3, 3, START, started=False)
        assert isinstance(full, QueueFull)
        await figures_agree_with_the_tables(store)
        # A finish in the same commit makes room for what comes behind it.
        commit = await store.commit(Finish(1), Add(new(1)))
        assert [type(each) for each in commit.results] == [Done, Added]


async def test_all_waits_together_fit_into_the_state_row(engine: Engine, clock: FakeClock) -> None:
    """However many tasks and how long waits the settings allowed when they were added."""
    async with opened(engine, clock) as store:
        await store.one(Add([NewTask(1, 2**62), NewTask(2, 2**62 - 1)]))
        refused, fits = (await store.commit(Add([NewTask(3, 1)]), Add(new(0)))).results
        assert isinstance(refused, QueueFull)
        assert fits == Added(3, 3, START, started=False)
        await figures_agree_with_the_tables(store)
