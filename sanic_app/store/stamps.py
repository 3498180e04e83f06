"""The clock that stamps are taken from, also while they are ahead of the wall clock."""

from __future__ import annotations

import logging
import threading

from sanic_app.clock import Clock
from sanic_app.task import SECOND

AHEAD = SECOND
"""Microseconds from which on stamps count as ahead."""

log = logging.getLogger(__name__)


class Stamps:
    """The wall clock or, while the last stamp is ahead of it, that stamp and the time since then.

    A commit under a clock far ahead leaves a stamp that the right clock may not reach for years,
    and a server may be replaced by one whose clock is behind. Until the clock has caught up, ages
    go on by the monotonic clock, and with them retention and the expiry of keys.
    """

    def __init__(self, clock: Clock) -> None:
        """Take the machine's clocks."""
        self._clock = clock
        # A server's clock less the machine's wall clock, in microseconds.
        self._skew = 0
        # A time that was ahead, less the monotonic clock at that moment, in microseconds.
        self._offset: int | None = None
        self._lock = threading.Lock()

    def wall(self) -> int:
        """Return microseconds since 1970."""
        return self._gone_on(self._shown())

    def ahead(self, stamp: int) -> int:
        """Return by how many microseconds time is ahead of the clock, with this last stamp."""
        shown = self._shown()
        return max(stamp, self._gone_on(shown)) - shown

    def follow(self, stamp: int) -> int:
        """Take over the last stamp; return by how many microseconds time is ahead, else 0."""
        ahead = self.ahead(stamp)
        if ahead < AHEAD:
            self._offset = None
            return 0
        # A stamp in the past does not set the time back.
        self._offset = max(stamp, self.wall()) - round(self._clock.monotonic() * SECOND)
        return ahead

    def wall_after(self, stamp: int) -> int:
        """Take over the last stamp; return microseconds since 1970."""
        shown = self._shown()
        if self._offset is None and stamp - shown < AHEAD:
            # So it nearly always is.
            return shown
        self.follow(stamp)
        return self.wall()

    def asking(self) -> int:
        """Return the moment at which a server is asked for its clock: see ``follow_server``."""
        return self._clock.wall()

    def follow_server(self, shown: int, stamp: int, asked: int) -> int:
        """Take over what a server's clock showed together with the last stamp.

        Returns what it showed, or what goes on in its place. Any thread may call it.
        """
        with self._lock:
            went_on = self._offset is not None
            # The clock was read between the question and now, and the answer may be old.
            least, most = shown - self._clock.wall(), shown - asked
            if least <= most:
                self._skew = min(max(self._skew, least), most)
            ahead = self.follow(stamp)
            if ahead and not went_on:
                log.warning(
                    "the last stamp is %.0f s ahead of the clock of PostgreSQL: until that has"
                    " caught up, a restart of all nodes waits the head's whole timeout anew",
                    ahead / SECOND,
                )
            return shown if self._offset is None else max(shown, self.wall())

    def _shown(self) -> int:
        """Return what the clock shows, the server's where there is one."""
        return self._clock.wall() + self._skew

    def _gone_on(self, shown: int) -> int:
        """Return what the clock shows or, while time is ahead of it, what has gone on."""
        if (offset := self._offset) is None:
            return shown
        return max(shown, offset + round(self._clock.monotonic() * SECOND))
