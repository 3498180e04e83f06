"""Wall and monotonic time, as one object that tests can replace."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

EXACT_SECONDS = 0.0015
"""The last part of an exact wait. The event loop's timers count whole milliseconds."""


class WallClock(Protocol):
    """What stamps are taken from."""

    def wall(self) -> int:
        """Return microseconds since 1970 in UTC; may jump either way."""


class Clock(WallClock, Protocol):
    """What the time is, and how to wait."""

    def monotonic(self) -> float:
        """Return seconds that never go back and no wall clock moves."""

    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        """Return when the event is set or the seconds (None: no limit) are over.

        It may return up to a millisecond early or late, as event loops do: the caller looks again.
        When ``exact`` it is never early, and late only by what the loop has to do: it lets the loop
        turn without sleep at the end, so it is for a few callers, not for thousands.
        """


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> int:
        """Return microseconds since 1970 in UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return the seconds of the monotonic clock."""
        return time.monotonic()

    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        """Wait for the event, or for the seconds to be over."""
        if seconds is None:
            await event.wait()
            return
        due = self.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds - EXACT_SECONDS if exact else seconds):
                await event.wait()
        except TimeoutError:
            while exact and not event.is_set() and self.monotonic() < due:  # noqa: ASYNC110 - an event has the timers that this makes up for
                await asyncio.sleep(0)
