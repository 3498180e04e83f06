"""What every store promises about cancelling, pausing, places in the queue, and retention."""

from __future__ import annotations

import pytest

from sanic_app.errors import AlreadyFinished, Gone, NotFound, NotHead, ServiceError
from sanic_app.store import (
    CANCEL_MAX,
    PRUNE_MAX,
    Cancel,
    CancelRange,
    Finish,
    SetPaused,
)
from sanic_app.task import HISTORY_NUM_MAX, SECOND, Retention, State
from tests.fake_clock import FakeClock
from tests.parts import Engine, Opened, opened

pytestmark = pytest.mark.anyio


async def numbers(store: Opened) -> list[int]:
    return [task.history_num for task in await store.queue()]


async def results(store: Opened) -> list[int]:
    return [task.history_num for task in await store.done()]


# Cancelling one.


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
        assert await numbers(store) == [1, 3]
        figures = await store.store.figures()
        assert (figures.depth, figures.backlog, figures.last_finish_num) == (2, 4 * SECOND, 1)
        assert figures.head == 1
        clock.advance(9)
        await store.finish(1)
        await store.finish(3)
        assert await results(store) == [1, 3]
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
        assert await results(store) == [1]
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
        assert await store.store.figures() == before


async def test_a_cancel_behind_its_own_add_in_one_commit(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        await store.add(2)
        clock.advance(1)
        commit = await store.commit(Finish(1), Cancel(2))
        assert commit.started is None
        assert await numbers(store) == []


# Cancelling a range.


async def test_a_range_goes_from_its_end_in_slices(engine: Engine, clock: FakeClock) -> None:
    count = CANCEL_MAX + 20
    async with opened(engine, clock) as store:
        await store.add(*[1] * count)
        first = await store.cancel(11, HISTORY_NUM_MAX)
        assert [task.history_num for task in first] == list(range(21, count + 1))
        assert await numbers(store) == list(range(1, 21))
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
        assert await numbers(store) == [4]


# Idempotency keys.


async def test_a_key_goes_when_its_last_task_is_out_of_the_queue_in_any_order(
    engine: Engine, clock: FakeClock
) -> None:
    """The task with the greatest number may be cancelled long before the others are done."""
    async with opened(engine, clock, keep=10 * SECOND) as store:
        await store.add(5)
        await store.add(1, 1, 1, key="a", request="r")
        await store.cancel(4)
        clock.advance(60)
        assert (await store.add(1, 1, 1, key="a", request="r")).replayed
        await store.finish(1)
        clock.advance(1)
        await store.cancel(3)
        assert (await store.add(1, 1, 1, key="a", request="r")).replayed
        await store.finish(2)
        clock.advance(9)
        assert (await store.add(1, 1, 1, key="a", request="r")).replayed
        clock.advance(1)
        assert (await store.add(1, 1, 1, key="a", request="r")).first == 5


async def test_a_finish_ends_the_key_whose_other_tasks_were_cancelled(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock, keep=10 * SECOND) as store:
        await store.add(1, 1, key="a", request="r")
        await store.add(1, key="b", request="r")
        await store.cancel(2)
        clock.advance(1)
        await store.finish(1)
        clock.advance(10)
        assert (await store.add(1, key="b", request="r")).replayed
        assert not (await store.add(1, 1, key="a", request="r")).replayed


# Pausing.


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


# Places.


async def test_a_place_counts_neither_the_finished_nor_the_cancelled(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 2, 4, 8, 16, 32)
        assert [await store.place(n) for n in (1, 2, 6)] == [(0, 1.0), (1, 3.0), (5, 63.0)]
        await store.cancel(3)
        await store.cancel(5)
        assert [await store.place(n) for n in (2, 4, 6)] == [(1, 3.0), (2, 11.0), (3, 43.0)]
        clock.advance(1)
        await store.finish(1)
        assert [await store.place(n) for n in (2, 4, 6)] == [(0, 2.0), (1, 10.0), (2, 42.0)]
        clock.advance(2)
        await store.finish(2)
        assert [await store.place(n) for n in (4, 6)] == [(0, 8.0), (1, 40.0)]
        await store.cancel(4)
        assert await store.place(6) == (0, 32.0)
        assert (await store.store.task(4) or ())[1:] == (None,)


async def test_a_run_passes_the_cancelled_between(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, 0, 0, 5, 6)
        await store.cancel(2)
        assert [task.history_num for task in await store.finish(1)] == [1, 3]
        assert [await store.place(n) for n in (4, 5)] == [(0, 5.0), (1, 11.0)]
        await store.add(7, 8)
        await store.cancel(5)
        await store.cancel(4, 6)
        assert await store.place(7) == (0, 8.0)


async def test_a_place_is_right_when_sums_go_beyond_64_bits(
    engine: Engine, clock: FakeClock
) -> None:
    year = 31_536_000
    async with opened(engine, clock) as store:
        await store.add(1, *[float(year)] * 20)
        for _ in range(3):
            # Each round adds and cancels 100,000 years behind the head.
            added = await store.add(*[float(year) * 1_000] * 100)
            await store.cancel(added.first, added.last)
        last = await store.add(3)
        assert await store.place(last.first) == (21, 20.0 * year + 4)


# Retention.


async def test_so_many_finished_tasks_are_kept(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, history_keep=Retention(tasks=2)) as store:
        await store.add(1, 1, 1, 1, 1)
        await store.cancel(5)
        for number in (1, 2, 3):
            clock.advance(1)
            await store.finish(number)
        assert await results(store) == [2, 3]
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
        assert await results(store) == [2, 3]


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
        assert len(await results(store)) == 5


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
        assert await results(store) == [2]
        assert (await store.commit()).prune_in == 4.0
