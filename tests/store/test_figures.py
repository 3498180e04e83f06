"""What every store promises about the state row: it is what the tables hold."""

from __future__ import annotations

import pytest

from tests.fake_clock import FakeClock
from tests.parts import Engine, opened
from tests.store.state import figures_agree_with_the_tables

pytestmark = pytest.mark.anyio


async def test_the_figures_are_what_the_tables_hold(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        for step in range(12):
            clock.advance(0.7)
            if step == 5:
                clock.step_wall(-100)
            await store.add(*[0, 1.5, 0, 0.000001][: step % 4 + 1], num=step)
            await figures_agree_with_the_tables(store)
            await store.finish_head()
            await figures_agree_with_the_tables(store)
        while (await store.store.figures()).head is not None:
            await store.finish_head()
            await figures_agree_with_the_tables(store)


async def test_the_state_row_and_the_head_are_of_one_moment(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 2)
        clock.advance(1)
        await store.finish(1)
        figures, head, _ = await store.store.overview()
        assert figures == await store.store.figures()
        assert head == await store.task(2)
