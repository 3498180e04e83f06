"""What every store promises about the place of a task in the queue."""

from __future__ import annotations

import asyncio
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sanic_app.store import Add, Cancel, CancelRange, Finish
from sanic_app.store.skipped import LEVELS
from sanic_app.task import SECOND, NewTask
from tests.fake_clock import FakeClock
from tests.parts import ENGINES, Engine, Opened, opened

TIMEOUTS = (0, SECOND, 1, 0, SECOND - 1, 30_000_000 * SECOND)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 5), st.integers(1, 70)),
    st.tuples(st.just("cancel"), st.floats(0, 1), st.floats(0, 0.7)),
    st.tuples(st.just("cancel"), st.floats(0, 1), st.just(0.0)),
    st.tuples(st.just("finish"), st.integers(1, 30)),
    st.tuples(st.just("pause"), st.sampled_from([True, False, False])),
)
BORDERS = st.tuples(
    st.sampled_from([width for _, width, _ in LEVELS]), st.integers(1, 70), st.integers(0, 100)
)


EXAMPLES = {"sqlite": 60, "postgres": 8}
"""A server takes some ten times as long for each, and the rules are the same."""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_place_is_right_whatever_was_cancelled_finished_and_paused(engine: str) -> None:
    # Without a search for the shortest example: it takes minutes.
    @settings(max_examples=EXAMPLES[engine], deadline=None, phases=[Phase.reuse, Phase.generate])
    @given(border=BORDERS, steps=st.lists(STEPS, min_size=10, max_size=20))
    def check(border: tuple[int, int, int], steps: list[tuple[Any, ...]]) -> None:
        asyncio.run(_go_through(engine, border, steps))

    check()


async def _go_through(
    engine: str, border: tuple[int, int, int], steps: list[tuple[Any, ...]]
) -> None:
    width, block, before = border
    with TemporaryDirectory() as folder:
        place = ENGINES[engine](Path(folder))
        place.begin_behind(max(width * block - before, 0))
        clock = FakeClock()
        async with opened(place, clock) as store:
            await _take(store, clock, "add", 0, 70)
            for step in steps:
                await _take(store, clock, *step)
                await _check_places(store, every=11)
            await _check_places(store, every=1)


async def _take(store: Opened, clock: FakeClock, step: str, *values: Any) -> None:
    queue = await store.queue()
    match step, values:
        case "add", [first, count]:
            timeouts = islice(cycle(TIMEOUTS), first, first + count)
            await store.one(Add([NewTask(0, timeout) for timeout in timeouts]))
        case "cancel", [start, part] if queue:
            at = round(start * (len(queue) - 1))
            last = min(at + round(part * len(queue)), len(queue) - 1)
            await store.one(CancelRange(queue[at].history_num, queue[last].history_num))
        case "finish", [times]:
            for _ in range(times):
                head = (await store.store.overview()).head
                if head is not None:
                    clock.advance(head.timeout / SECOND)
                    await store.finish(head.history_num)
        case "pause", [paused]:
            await store.switch(paused=paused)


async def _check_places(store: Opened, every: int) -> None:
    wait = 0
    for position, task in enumerate(await store.queue()):
        wait += task.timeout
        if position % every == 0:
            assert await store.place(task.history_num) == (position, wait / SECOND)


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_a_place_is_right_when_several_were_cancelled_in_one_commit(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 2, 4, 8, 16, 32, 64)
        await store.commit(Cancel(5), Cancel(3), Finish(1), CancelRange(6, 6))
        assert [await store.place(n) for n in (2, 4, 7)] == [(0, 2.0), (1, 10.0), (2, 74.0)]


@pytest.mark.anyio
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


@pytest.mark.anyio
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
