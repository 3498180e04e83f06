"""What every store promises about the place of a task in the queue."""

from __future__ import annotations

import pytest

from tests.fake_clock import FakeClock
from tests.parts import Engine, opened

pytestmark = pytest.mark.anyio


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
