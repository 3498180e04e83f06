"""The wall clock and the monotonic clock, as one object that tests can replace."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

EXACT_SECONDS = 0.0015
"""An exact wait does not sleep at its end, because timers of the event loop count milliseconds."""


class WallClock(Protocol):
    """The clock that stamps are taken from."""

    def wall(self) -> int:
        """Return microseconds since 1970 in UTC. May jump forward or back."""


class Clock(WallClock, Protocol):
    """Tells the time, and waits."""

    def monotonic(self) -> float:
        """Return seconds that never go back, whatever the wall clock does."""

    async def wait(
        self, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        """Return when the event is set or the seconds (None: no limit) are over.

        It may return up to a millisecond early or late, as timers of event loops do, so the caller
        must check again. An ``exact`` wait is never early. It keeps the loop busy at its end, so it
        is for a few callers, not for thousands.
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
            while exact and not event.is_set() and self.monotonic() < due:  # noqa: ASYNC110 - see EXACT_SECONDS
                await asyncio.sleep(0)
