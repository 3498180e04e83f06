"""The clock that stamps are taken from, also while they are ahead of the wall clock."""

from __future__ import annotations

from sanic_app.clock import Clock
from sanic_app.task import SECOND

AHEAD = SECOND
"""Microseconds from which on stamps count as ahead."""


class Stamps:
    """The wall clock or, while the last stamp is ahead of it, that stamp and the time since then.

    A commit under a clock far ahead leaves a stamp that the right clock may not reach for years.
    Until then ages go on by the monotonic clock, and with them retention and the expiry of keys.
    """

    def __init__(self, clock: Clock) -> None:
        """Take the machine's clocks."""
        self._clock = clock
        # A stamp that was ahead, less the monotonic clock at that moment, in microseconds.
        self._offset: int | None = None

    def wall(self) -> int:
        """Return microseconds since 1970."""
        wall, offset = self._clock.wall(), self._offset
        if offset is None:
            return wall
        return max(wall, offset + round(self._clock.monotonic() * SECOND))

    def follow(self, stamp: int) -> int:
        """Take over the last stamp; return by how many microseconds it is ahead, else 0."""
        ahead = stamp - self._clock.wall()
        if ahead < AHEAD:
            self._offset = None
            return 0
        # A stamp that this clock has passed already does not set it back.
        self._offset = max(stamp, self.wall()) - round(self._clock.monotonic() * SECOND)
        return ahead
