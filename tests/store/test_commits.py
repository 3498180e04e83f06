"""What every store promises about the writes of one commit: none harms its neighbour."""

from __future__ import annotations

import pytest

from sanic_app.errors import (
    Internal,
    NotHead,
)
from sanic_app.store import (
    Add,
    Added,
    Done,
    Finish,
)
from sanic_app.task import NewTask
from tests.fake_clock import FakeClock
from tests.parts import Engine, new, opened
from tests.store.state import figures_agree_with_the_tables

pytestmark = pytest.mark.anyio

TOO_LARGE = Add([NewTask(2**63, 0)])
"""An add that no engine can apply: its number does not fit."""


async def test_a_write_that_fails_on_its_own_account_fails_alone(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(5)
        commit = await store.commit(
            Add(new(1, num=1)), TOO_LARGE, Finish(1), Finish(9), Add(new(2, num=2), "key", "r")
        )
        kinds = [type(each) for each in commit.results]
        assert kinds == [Added, Internal, Done, NotHead, Added]
        assert [task.num for task in await store.queue()] == [1, 2]
        assert commit.started is not None
        assert commit.started.history_num == 2
        assert commit.figures == await store.store.figures()
        await figures_agree_with_the_tables(store)
        assert (await store.add(2, num=2, key="key", request="r")).replayed


async def test_one_bad_task_takes_its_whole_add_and_no_number(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        before = await store.store.figures()
        for bad in (NewTask(2**63, 0), NewTask(0, -1)):
            commit = await store.commit(Add([NewTask(1, 0), bad, NewTask(2, 0)], "key", "r"))
            assert [type(each) for each in commit.results] == [Internal]
        assert await store.store.figures() == before
        assert (await store.add(1)).first == 2
        assert not (await store.add(1, key="key", request="other")).replayed


async def test_a_head_that_was_started_and_finished_apart_is_not_reported(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(1)), TOO_LARGE, Finish(1))
        assert commit.started is None
        assert commit.figures.head is None


async def test_refusals_alone_change_nothing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, key="key", request="r")
        before = await store.store.figures()
        clock.advance(9)
        writes = (Finish(2), Add(new(1), "key", "r"), Add(new(1), "key", "other"))
        commit = await store.commit(*writes)
        assert commit.figures == before
        assert await store.store.figures() == before
        assert commit.started is None
