"""What every store promises about its owner, about opening and closing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sanic_app.errors import (
    NotOwner,
)
from sanic_app.store import (
    Add,
)
from tests.fake_clock import FakeClock
from tests.parts import Engine, new, only_sqlite, opened
from tests.store.state import figures_agree_with_the_tables

pytestmark = pytest.mark.anyio


async def test_everything_is_there_after_reopening(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 0, 2, num=5)
        await store.finish(1)
        before = (await store.store.figures(), await store.queue(), await store.done())
    clock.advance(1)
    async with opened(engine, clock) as store:
        assert (await store.store.figures(), await store.queue(), await store.done()) == before
        await store.finish_head()
        assert (await store.add(1)).first == 4
        await figures_agree_with_the_tables(store)


@only_sqlite
async def test_there_is_one_owner(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        with pytest.raises(NotOwner):
            await engine.store(clock).own()
        await store.add(1)
        store.lease.release()
        store.lease.release()
    (await engine.store(clock).own()).release()


@only_sqlite
async def test_writing_takes_the_lease_of_this_store(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        lease = store.lease

        class Other:
            def release(self) -> None: ...

        for call in (
            store.store.commit(Other(), [Add(new(1))]),
            store.store.open(Other()),
            store.store.maintain(Other()),
        ):
            with pytest.raises(RuntimeError):
                await call
        assert await store.queue() == []
        await store.store.commit(lease, [Add(new(1))])


@only_sqlite
async def test_a_store_that_is_not_open_says_so(engine: Engine, clock: FakeClock) -> None:
    store = engine.store(clock)
    with pytest.raises(RuntimeError):
        await store.figures()
    await store.close()
    await store.close()


@only_sqlite
async def test_maintenance_changes_nothing_that_can_be_read(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        for _ in range(3):
            await store.add(*[1] * 12_000)
            before = (await store.store.figures(), await store.queue())
            await store.store.maintain(store.lease)
            assert (await store.store.figures(), await store.queue()) == before


@only_sqlite
async def test_a_store_says_what_it_is_and_how_large(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        name, version = store.store.engine.split(" ")
        assert name.islower()
        assert version[0].isdigit()
        await store.add(1)
        sizes: Sequence[float] = store.store.sizes()
        assert all(size > 0 for size in sizes)
    store_again = engine.store(clock)
    assert store_again.sizes().database > 0
