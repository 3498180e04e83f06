"""What every store promises about time: stamps never go back, and a restart waits only the rest."""

from __future__ import annotations

import pytest

from sanic_app.store import Cancel, Cancelled
from sanic_app.task import SECOND, Retention, State, Task
from tests.fake_clock import START, FakeClock
from tests.parts import Engine, Opened, opened

pytestmark = pytest.mark.anyio


async def test_created_at_never_decreases_whatever_the_wall_clock_does(
    engine: Engine, clock: FakeClock
) -> None:
    latest = 0
    async with opened(engine, clock) as store:
        for step in (0.0, 5.0, -3_600.0, 0.000001, 3_599.0, 10.0, -86_400.0, 0.5):
            clock.step_wall(step)
            latest = max(latest, clock.wall())
            assert (await store.add(1)).created_at == latest
        created = [task.created_at for task in await store.queue()]
    assert created == sorted(created)
    assert len(set(created)) == 3


async def test_stamps_survive_a_restart_with_the_clock_back(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(0)
        await store.finish_head()
    clock.step_wall(-1_000)
    async with opened(engine, clock) as store:
        assert (await store.add(1)).created_at == START


@pytest.mark.parametrize(
    ("down", "left"),
    [(0, 3.0), (1, 2.0), (2.999999, 0.000001), (3, 0.0), (9_999, 0.0), (-9_999, 3.0)],
)
async def test_after_a_restart_only_the_rest_of_the_wait_is_left(
    engine: Engine, clock: FakeClock, down: float, left: float
) -> None:
    async with opened(engine, clock) as store:
        await store.add(3, 8, num=5)
    clock.step_wall(down)
    async with opened(engine, clock) as store:
        overview = await store.store.overview()
        assert overview.head == Task(1, 5, 3 * SECOND, START, State.WAITING, START)
        assert overview.seconds_left == left


async def rest_of_wait(store: Opened) -> float:
    left = (await store.store.overview()).seconds_left
    assert left is not None
    return left


async def test_a_restart_does_not_start_the_head_again(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(3)
    for _ in range(3):
        clock.advance(0.5)
        async with opened(engine, clock) as store:
            assert (await store.queue())[0].started_at == START
    async with opened(engine, clock) as store:
        assert await rest_of_wait(store) == 1.5


async def test_the_rest_is_counted_by_stamps(engine: Engine, clock: FakeClock) -> None:
    """A finish may push the stamp ahead of the wall clock: the next wait starts there."""
    async with opened(engine, clock) as store:
        await store.add(0.5, 3)
        await store.finish(1)
        assert await rest_of_wait(store) == 3.0
        clock.advance(1.5)
        assert await rest_of_wait(store) == 2.0


@pytest.mark.parametrize("back", [0.5, 3, 9_999])
async def test_while_the_clock_is_behind_the_last_stamp_that_is_the_time(
    engine: Engine, clock: FakeClock, back: float
) -> None:
    async with opened(engine, clock) as store:
        await store.add(10)
        clock.advance(4)
        last = (await store.add(1)).created_at
        clock.step_wall(-back)
        for _ in range(2):
            assert await rest_of_wait(store) == 6.0
            assert (await store.store.overview()).now == last
            _, place = await store.store.task(2) or (None, None)
            assert place is not None
            assert place.now == last
    async with opened(engine, clock) as store:
        assert await rest_of_wait(store) == 6.0
        (cancelled,) = (await store.commit(Cancel(1))).results
        assert isinstance(cancelled, Cancelled)
        assert cancelled.tasks[0].finished_at == last


async def test_stamps_go_on_while_they_are_ahead_of_the_clock(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    years = 73 * 365 * 86_400
    async with opened(engine, clock, history_keep=Retention(age=60 * SECOND)) as store:
        clock.step_wall(years)
        await store.add(0, key="key", request="r")
        await store.finish_head()
        clock.step_wall(-years)
        await store.add(5, num=9)
        clock.advance(30)
        last = (await store.add(6)).created_at
        assert last == START + (years + 30) * SECOND
        clock.advance(5)
        assert (await store.store.overview()).now == last + 5 * SECOND
        assert store.store.ahead(last) == years * SECOND
    caplog.clear()
    async with opened(
        engine, clock, keep=90 * SECOND, history_keep=Retention(age=60 * SECOND)
    ) as store:
        assert (await store.store.overview()).now == last
        assert f"the last stamp is {years - 5} s ahead of the clock" in caplog.text
        clock.advance(31)
        assert (await store.commit()).figures.pruned == 1
        clock.advance(60)
        # The key has expired.
        assert not (await store.add(0, key="key", request="r")).replayed
    clock.step_wall(2 * years)
    async with opened(engine, clock) as store:
        assert (await store.add(1)).created_at == clock.wall()
