"""What every store promises about keeping finished tasks."""

from __future__ import annotations

import pytest

from sanic_app.errors import Gone
from sanic_app.store import PRUNE_MAX, Add
from sanic_app.task import SECOND, NewTask, Retention
from tests.fake_clock import FakeClock
from tests.parts import Engine, opened
from tests.store.state import done_numbers

pytestmark = pytest.mark.anyio


async def test_a_write_that_fails_does_not_put_retention_to_sleep(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock, history_keep=Retention(age=10 * SECOND)) as store:
        await store.add(0)
        await store.finish(1)
        assert (await store.commit()).prune_in == 10
        assert (await store.commit(Add([NewTask(2**63, 0)]))).prune_in == 0
        assert (await store.commit()).prune_in == 10


async def test_so_many_finished_tasks_are_kept(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, history_keep=Retention(tasks=2)) as store:
        await store.add(1, 1, 1, 1, 1)
        await store.cancel(5)
        for number in (1, 2, 3):
            clock.advance(1)
            await store.finish(number)
        assert await done_numbers(store) == [2, 3]
        assert (await store.store.figures()).pruned == 2
        assert await store.task(1) is None
        with pytest.raises(Gone):
            await store.cancel(1)
        with pytest.raises(Gone):
            await store.cancel(5)
        # What is gone from the history still counts in nobody's place.
        await store.add(7)
        assert await store.place(6) == (1, 8.0)
    async with opened(engine, clock, history_keep=Retention(tasks=2)) as store:
        assert await done_numbers(store) == [2, 3]


async def test_a_commit_removes_a_thousand_at_most(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[0] * (2 * PRUNE_MAX + 10))
        while (await store.store.figures()).depth:
            await store.finish_head()
    async with opened(engine, clock, history_keep=Retention(tasks=5)) as store:
        for pruned, prune_in in ((PRUNE_MAX, 0.0), (2 * PRUNE_MAX, 0.0), (2 * PRUNE_MAX + 5, None)):
            commit = await store.commit()
            assert commit.results == []
            assert (commit.figures.pruned, commit.prune_in) == (pruned, prune_in)
        assert len(await done_numbers(store)) == 5


async def test_those_of_an_age_are_kept(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, history_keep=Retention(age=10 * SECOND)) as store:
        await store.add(1, 1, 1)
        clock.advance(1)
        await store.finish(1)
        clock.advance(4)
        await store.finish(2)
        assert (await store.commit()).prune_in == 6.0
        clock.advance(5.999999)
        assert (await store.commit()).figures.pruned == 0
        clock.advance(0.000001)
        assert (await store.commit()).figures.pruned == 1
        assert await done_numbers(store) == [2]
        assert (await store.commit()).prune_in == 4.0
