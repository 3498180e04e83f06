"""What every store promises about idempotency keys."""

from __future__ import annotations

import pytest

from sanic_app.errors import (
    KeyReused,
    QueueFull,
)
from sanic_app.store import (
    Add,
    Added,
)
from sanic_app.store.keys import SWEEP
from sanic_app.task import SECOND
from tests.fake_clock import START, FakeClock
from tests.parts import KEEP, Engine, count_rows, new, opened
from tests.store.state import figures_agree_with_the_tables

pytestmark = pytest.mark.anyio


async def test_the_same_key_with_an_equal_request_answers_the_same(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        first = await store.add(2, 3, key="key", request="r")
        assert first == Added(1, 2, START, started=True, replayed=False)
        clock.advance(1)
        assert await store.add(2, 3, key="key", request="r") == first._replace(replayed=True)
        behind = await store.add(2, key="other", request="r")
        assert behind == Added(3, 3, START + SECOND, started=False)
        await store.finish(1)
        await store.finish(2)
        # As it was answered the first time, whatever has become of the tasks.
        assert await store.add(2, 3, key="key", request="r") == first._replace(replayed=True)
        assert await store.add(2, key="other", request="r") == behind._replace(replayed=True)
        assert len(await store.queue()) == 1


async def test_the_same_key_with_another_request_is_refused(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(2, key="key", request="r")
        with pytest.raises(KeyReused):
            await store.add(2, key="key", request="R")
        assert len(await store.queue()) == 1


async def test_keys_differ_by_every_character(engine: Engine, clock: FakeClock) -> None:
    keys = ["key", "Key", "key ", "key0", "k%", "k_", "~" * 255, "0", "00", "0.0", "é"]
    async with opened(engine, clock) as store:
        for number, key in enumerate(keys, 1):
            assert (await store.add(1, key=key, request="r")).first == number


async def test_a_key_works_for_its_neighbour_in_the_same_commit(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        first, same, other = (
            await store.commit(
                Add(new(1), "key", "r"), Add(new(1), "key", "r"), Add(new(1), "key", "other")
            )
        ).results
        assert first == Added(1, 1, START, started=True)
        assert same == Added(1, 1, START, started=True, replayed=True)
        assert isinstance(other, KeyReused)
        await figures_agree_with_the_tables(store)


async def test_a_refusal_stores_no_key(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, queue_max=1) as store:
        await store.add(1)
        with pytest.raises(QueueFull):
            await store.add(1, key="key", request="r")
        await store.finish(1)
        assert not (await store.add(1, key="key", request="other")).replayed


async def test_a_full_queue_still_answers_a_retry(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, queue_max=1) as store:
        await store.add(1, key="key", request="r")
        assert (await store.add(1, key="key", request="r")).replayed
        with pytest.raises(KeyReused):
            await store.add(1, key="key", request="other")


async def test_a_key_lives_until_its_time_after_the_last_of_its_tasks_is_over(
    engine: Engine, clock: FakeClock
) -> None:
    keep = KEEP / SECOND
    async with opened(engine, clock) as store:
        await store.add(0.5, 0.5, key="key", request="r")
        clock.advance(2 * keep)
        assert (await store.add(0.5, 0.5, key="key", request="r")).replayed
        await store.finish(1)
        clock.advance(2 * keep)
        assert (await store.add(0.5, 0.5, key="key", request="r")).replayed
        await store.finish(2)
        clock.advance(keep - 0.000001)
        assert (await store.add(0.5, 0.5, key="key", request="r")).replayed
        clock.advance(0.000001)
        # Over to the microsecond: the key is free, for another request too.
        again = await store.add(1, key="key", request="other")
        assert again == Added(3, 3, clock.wall(), started=True)
        assert (await store.add(1, key="key", request="other")).replayed


async def test_a_key_expires_by_the_clock_of_the_store(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, key="key", request="r")
        await store.finish(1)
        clock.step_wall(-10 * KEEP / SECOND)
        assert (await store.add(0, key="key", request="r")).replayed


async def test_many_keys_expire_and_are_free_again(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        for n in range(30):
            await store.add(0, key=f"key{n}", request="r")
        await store.finish_head()
        clock.advance(KEEP / SECOND)
        for n in range(30):
            assert not (await store.add(1, key=f"key{n}", request="new")).replayed
        for n in range(30):
            assert (await store.add(1, key=f"key{n}", request="new")).replayed


async def test_expired_keys_are_removed_some_with_each_new_key(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        for n in range(2 * SWEEP + 5):
            await store.add(0, key=f"key{n}", request="r")
        await store.finish_head()
        clock.advance(KEEP / SECOND)
        for kept in (SWEEP + 6, 7, 3, 4):
            await store.add(1, key=f"new{kept}", request="r")
            assert await count_rows(store.store, "idempotency") == kept


async def test_a_new_key_drives_out_none_that_still_lives(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, key="key", request="r")
        await store.finish(1)
        clock.advance(KEEP / SECOND / 2)
        await store.add(1, key="other", request="r")
        assert (await store.add(0, key="key", request="r")).replayed


async def test_keys_survive_a_restart(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        first = await store.add(1, key="key", request="r")
    async with opened(engine, clock) as store:
        assert await store.add(1, key="key", request="r") == first._replace(replayed=True)


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
