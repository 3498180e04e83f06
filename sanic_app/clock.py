"""Wall and monotonic time, as one object that tests can replace."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the time is, and how to wait."""

    def wall(self) -> int:
        """Return microseconds since 1970 in UTC; may jump either way."""

    def monotonic(self) -> float:
        """Return seconds that never go back and no wall clock moves."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when the event is set or the seconds (None: no limit) are over.

        It may return up to a millisecond early, as event loops do: the caller looks again.
        """


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> int:
        """Return microseconds since 1970 in UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return the seconds of the monotonic clock."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for the event, or for the seconds to be over."""
        if seconds is None:
            await event.wait()
            return
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
