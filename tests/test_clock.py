"""The machine's own clocks, and the one that stands still."""

from __future__ import annotations

import asyncio
import time

import pytest

from sanic_app.clock import SystemClock
from tests.fake_clock import FakeClock

pytestmark = pytest.mark.anyio


def test_the_wall_clock_counts_microseconds_and_the_monotonic_one_seconds() -> None:
    clock = SystemClock()
    assert abs(clock.wall() - time.time() * 1_000_000) < 5_000_000
    assert abs(clock.monotonic() - time.monotonic()) < 5
    assert clock.monotonic() <= clock.monotonic()


async def test_a_wait_ends_with_its_time_or_its_event() -> None:
    clock, event = SystemClock(), asyncio.Event()
    begun = clock.monotonic()
    await clock.wait(event, 0.01)
    assert clock.monotonic() - begun >= 0.008
    event.set()
    await clock.wait(event, 3_600)
    await clock.wait(event, None)


@pytest.mark.parametrize("seconds", [0.0, 0.000_01, 0.001, 0.001_7, 0.004_3])
async def test_an_exact_wait_is_never_early_and_lets_others_run(seconds: float) -> None:
    clock, turns = SystemClock(), 0

    async def run() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(run())
    begun = clock.monotonic()
    await clock.wait(asyncio.Event(), seconds, exact=True)
    assert clock.monotonic() - begun >= seconds
    other.cancel()
    assert turns > 0


async def test_the_exact_part_of_a_wait_ends_with_the_event_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sanic_app.clock.EXACT_SECONDS", 3_600)
    clock, event = SystemClock(), asyncio.Event()
    waiter = asyncio.create_task(clock.wait(event, 3_600, exact=True))
    await asyncio.sleep(0.01)
    assert not waiter.done()
    event.set()
    await asyncio.wait_for(waiter, 10)


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()])
@pytest.mark.parametrize("seconds", [None, 3_600])
async def test_a_wait_is_over_as_soon_as_the_event_is_set(
    clock: SystemClock | FakeClock, seconds: float | None
) -> None:
    event = asyncio.Event()
    waiter = asyncio.create_task(clock.wait(event, seconds))
    await asyncio.sleep(0)
    assert not waiter.done()
    event.set()
    await waiter


async def test_the_fake_clock_wakes_who_is_due_and_nobody_else() -> None:
    clock, event = FakeClock(), asyncio.Event()
    short = asyncio.create_task(clock.wait(event, 1))
    long = asyncio.create_task(clock.wait(event, 2))
    await clock.until_asleep(2)
    clock.step_wall(10)
    clock.advance(1)
    await short
    assert not long.done()
    long.cancel()
    await asyncio.wait([long])
    assert clock._sleepers == []
