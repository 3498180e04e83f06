"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from sanic_app.task import SECOND

START = 1_795_000_000 * SECOND
"""The wall clock's first moment, in microseconds: in November 2026."""

PATIENCE = 10.0
"""Real seconds after which a test that waits for a sleeper has failed."""


class _Sleeper(NamedTuple):
    due: int | None
    event: asyncio.Event
    over: asyncio.Event

    @property
    def asleep(self) -> bool:
        return not self.event.is_set() and not self.over.is_set()


class FakeClock:
    """Wall and monotonic time, both in whole microseconds inside, moved by hand."""

    def __init__(self, wall: int = START) -> None:
        self._wall = wall
        self._monotonic = 0
        self._sleepers: list[_Sleeper] = []
        self._lay_down = asyncio.Event()

    def wall(self) -> int:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic / SECOND

    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        if event.is_set():
            return
        if seconds is not None and seconds * SECOND < 1:
            # What is left of a sum of binary fractions. A real clock would not stand still.
            self._monotonic += 1
            await asyncio.sleep(0)
            return
        due = None if seconds is None else self._monotonic + round(seconds * SECOND)
        sleeper = _Sleeper(due, event, asyncio.Event())
        self._sleepers.append(sleeper)
        self._lay_down.set()
        waits = [asyncio.create_task(each.wait()) for each in (event, sleeper.over)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.remove(sleeper)
            for each in waits:
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each

    # What tests do with it.

    def advance(self, seconds: float) -> None:
        """Let time go by on both clocks; who sleeps no longer than that wakes up."""
        self._wall += round(seconds * SECOND)
        self._monotonic += round(seconds * SECOND)
        for sleeper in self._sleepers:
            if sleeper.due is not None and sleeper.due <= self._monotonic:
                sleeper.over.set()

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does."""
        self._wall += round(seconds * SECOND)

    def wake_all(self) -> None:
        """Wake everybody although nothing happened and no time is over."""
        for sleeper in self._sleepers:
            sleeper.over.set()

    async def until_asleep(self, seconds: float | None) -> None:
        """Return when somebody sleeps with so long to go from now (None: without limit)."""
        async with asyncio.timeout(PATIENCE):
            while not self._is_asleep(seconds):
                self._lay_down.clear()
                await self._lay_down.wait()

    def _is_asleep(self, seconds: float | None) -> bool:
        due = None if seconds is None else self._monotonic + round(seconds * SECOND)
        return any(sleeper.due == due and sleeper.asleep for sleeper in self._sleepers)
