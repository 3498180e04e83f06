"""What every store promises about pausing and resuming."""

from __future__ import annotations

import pytest

from sanic_app.errors import (
    NotHead,
)
from sanic_app.store import (
    SetPaused,
)
from sanic_app.task import State
from tests.fake_clock import FakeClock
from tests.parts import Engine, opened

pytestmark = pytest.mark.anyio


async def test_in_a_pause_the_head_goes_on_and_nothing_else_starts(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1)
        assert await store.switch(paused=True)
        assert not await store.switch(paused=True)
        assert (await store.store.figures()).head == 1
        clock.advance(1)
        await store.finish(1)
        figures = await store.store.figures()
        assert (figures.head, figures.paused, figures.depth) == (None, 1, 1)
        assert [task.state for task in await store.queue()] == [State.QUEUED]
        with pytest.raises(NotHead):
            await store.finish(2)
    async with opened(engine, clock) as store:
        assert (await store.store.overview()).head is None
        clock.advance(5)
        commit = await store.commit(SetPaused(paused=False))
        assert commit.started is not None
        assert (commit.started.history_num, commit.started.started_at) == (2, clock.wall())
        assert not await store.switch(paused=False)


async def test_an_add_in_a_pause_starts_nothing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.switch(paused=True)
        assert not (await store.add(0, 0)).started
        assert (await store.store.figures()).oldest_created_at == clock.wall()
        await store.cancel(1)
        assert (await store.store.figures()).head is None
        await store.cancel(2)
        assert (await store.store.figures()).oldest_created_at is None
        await store.switch(paused=False)
        assert (await store.add(0)).started


async def test_a_pause_ends_a_run_of_zero_timeouts(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, 0, 0, num=5)
        await store.switch(paused=True)
        assert [task.num for task in await store.finish_head()] == [5]
        assert [(task.num, task.state) for task in await store.queue()] == [
            (6, State.QUEUED),
            (7, State.QUEUED),
        ]
        await store.switch(paused=False)
        assert [task.num for task in await store.finish_head()] == [6, 7]
