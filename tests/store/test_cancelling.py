"""What every store promises about cancelling one task or a range."""

from __future__ import annotations

import pytest

from sanic_app.errors import (
    AlreadyFinished,
    NotFound,
    NotHead,
    ServiceError,
)
from sanic_app.store import (
    CANCEL_MAX,
    Add,
    Cancel,
    Cancelled,
    CancelRange,
    Finish,
)
from sanic_app.task import HISTORY_NUM_MAX, SECOND, State
from tests.fake_clock import FakeClock
from tests.parts import Engine, new, opened
from tests.store.state import done_numbers, queued_numbers

pytestmark = pytest.mark.anyio


async def test_a_cancelled_task_is_in_the_history_and_never_in_the_result_list(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 2, 3)
        clock.advance(0.5)
        (task,) = await store.cancel(2)
        assert (task.history_num, task.state) == (2, State.CANCELLED)
        assert (task.started_at, task.finished_at) == (None, clock.wall())
        assert await store.task(2) == task
        assert await queued_numbers(store) == [1, 3]
        figures = await store.store.figures()
        assert (figures.depth, figures.backlog, figures.last_finish_num) == (2, 4 * SECOND, 1)
        assert figures.head == 1
        clock.advance(9)
        await store.finish(1)
        await store.finish(3)
        assert await done_numbers(store) == [1, 3]
        part = await store.store.results_slice(0, 9)
        assert part.text == "0,2"


async def test_the_next_starts_in_the_commit_that_cancels_the_head(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(100, 2)
        started_at = clock.wall()
        clock.advance(1)
        commit = await store.commit(Cancel(1), Finish(1))
        cancelled, refused = commit.results
        assert not isinstance(cancelled, ServiceError)
        assert isinstance(refused, NotHead)
        assert commit.started is not None
        assert (commit.started.history_num, commit.started.started_at) == (2, clock.wall())
        (task,) = [await store.task(1)]
        assert task is not None
        assert (task.started_at, task.finished_at) == (started_at, clock.wall())
        assert (await store.store.figures()).oldest_created_at == started_at


async def test_of_a_finish_and_a_cancel_the_first_wins(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        clock.advance(1)
        commit = await store.commit(Finish(1), Cancel(1))
        assert isinstance(commit.results[1], AlreadyFinished)
        assert await done_numbers(store) == [1]
        figures = await store.store.figures()
        assert (figures.depth, figures.head, figures.oldest_created_at) == (0, None, None)


async def test_what_is_not_in_the_queue_cannot_be_cancelled(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1)
        await store.cancel(2)
        before = await store.store.figures()
        for number, error in ((2, AlreadyFinished), (3, NotFound), (HISTORY_NUM_MAX, NotFound)):
            with pytest.raises(error):
                await store.cancel(number)
        with pytest.raises(NotFound, match=NotFound.no_task):
            await store.cancel(3)
        assert await store.store.figures() == before


async def test_a_cancel_behind_its_own_add_in_one_commit(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        await store.add(2)
        clock.advance(1)
        commit = await store.commit(Finish(1), Cancel(2))
        assert commit.started is None
        assert await queued_numbers(store) == []


@pytest.mark.parametrize("cancel", [Cancel(3), CancelRange(3, 9)])
async def test_a_cancel_finds_what_its_own_commit_added(
    engine: Engine, clock: FakeClock, cancel: Cancel | CancelRange
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        commit = await store.commit(Add(new(2, 3)), cancel, Add(new(4)))
        _, cancelled, _ = commit.results
        assert isinstance(cancelled, Cancelled)
        assert [task.history_num for task in cancelled.tasks] == [3]
        assert await queued_numbers(store) == [1, 2, 4]


@pytest.mark.parametrize("cancel", [Cancel(1), CancelRange(1, 1)])
async def test_what_the_commit_of_a_cancelled_head_adds_starts_in_it(
    engine: Engine, clock: FakeClock, cancel: Cancel | CancelRange
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        clock.advance(0.5)
        commit = await store.commit(Add(new(2, 3)), cancel)
        assert commit.started is not None
        assert (commit.started.history_num, commit.started.started_at) == (2, clock.wall())
        figures = commit.figures
        assert (figures.head, figures.oldest_created_at) == (2, clock.wall())
        assert await queued_numbers(store) == [2, 3]


async def test_a_range_goes_from_its_end_in_slices(engine: Engine, clock: FakeClock) -> None:
    count = CANCEL_MAX + 20
    async with opened(engine, clock) as store:
        await store.add(*[1] * count)
        first = await store.cancel(11, HISTORY_NUM_MAX)
        assert [task.history_num for task in first] == list(range(21, count + 1))
        assert await queued_numbers(store) == list(range(1, 21))
        second = await store.cancel(11, 20)
        assert [task.history_num for task in second] == list(range(11, 21))
        assert await store.cancel(11, 20) == ()
        # The head's own wait is not disturbed by what is cancelled behind it.
        assert (await store.store.figures()).head == 1


async def test_a_range_with_the_head_starts_the_next(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 2, 3, 4)
        await store.cancel(3)
        commit = await store.commit(CancelRange(1, 3))
        assert commit.started is not None
        assert commit.started.history_num == 4
        assert await store.place(4) == (0, 4.0)
        assert await queued_numbers(store) == [4]
