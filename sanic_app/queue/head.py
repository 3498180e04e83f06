"""The head as of the last commit, and the end of its wait."""

from __future__ import annotations

import asyncio
import random

from sanic_app.clock import Clock
from sanic_app.queue.writer import Committed
from sanic_app.store import Overview
from sanic_app.task import SECOND, Head, Task, seconds_left

TAKEOVER_SECONDS = 0.25
"""How long after its deadline a head is left to the node that started it."""
TAKEOVER_SHARE = 0.001
"""In addition, this share of its timeout: clocks do not run equally fast."""
TAKEOVER_JITTER = 0.1
"""In addition, up to so many random seconds, so that not all nodes come at once."""


class HeadTimer:
    """Reckons the head's deadline once, on the monotonic clock, when the head is started."""

    head: Head | None = None
    _before: Head | None = None

    def __init__(self, clock: Clock, *, shared: bool = False) -> None:
        """Take the clock of the deadlines, and whether other nodes reckon deadlines too."""
        self._clock = clock
        self._shared = shared
        self._changed = asyncio.Event()

    def begin(self, overview: Overview) -> None:
        """Take over the head of an earlier process: only the rest of its wait is left."""
        self.head = None
        if overview.head is not None:
            left = overview.seconds_left or 0.0
            patience = takeover(overview.head.timeout) if self._shared else 0.0
            self.head = Head(overview.head, self._clock.monotonic() + left, patience)

    def follow(self, committed: Committed) -> None:
        """Take over what a commit started; its wait runs from the end of the commit.

        A start by another node is reckoned once, in full from the moment it was learned of.
        """
        started = committed.commit.started
        if started is not None and self.head is not None and self.head.task == started:
            # Learned of before: by looking, while the answer to the own commit was on its way.
            if not committed.foreign:
                self.head = self.head._replace(patience=0.0)
                self._changed.set()
        elif started is not None:
            patience = takeover(started.timeout) if committed.foreign else 0.0
            self._before = self.head
            self.head = Head(started, committed.ended + started.timeout / SECOND, patience)
            self._changed.set()
        elif committed.commit.figures.head is None and self.head is not None:
            self._before, self.head = self.head, None
            self._changed.set()

    async def changed(self, seconds: float | None) -> None:
        """Return when the head may have changed, or the seconds (None: no limit) are over."""
        await self._clock.wait(self._changed, seconds, exact=True)
        self._changed.clear()

    def wake(self) -> None:
        """Wake whoever waits for a change, to look again."""
        self._changed.set()

    def remaining(self) -> float:
        """Return the seconds until the head's deadline, 0 without a head or past it."""
        return max(self.head.deadline - self._clock.monotonic(), 0.0) if self.head else 0.0

    def overdue(self) -> float:
        """Return how many seconds the head is past its deadline, else 0."""
        return max(self._clock.monotonic() - self.head.deadline, 0.0) if self.head else 0.0

    def lateness(self, task: Task, moment: float) -> float:
        """Return how many seconds a head had been past its deadline, 0 if that is not known.

        It may have been learned by looking that it is finished, while the answer to the own commit
        was on its way.
        """
        for head in (self.head, self._before):
            if head is not None and head.task.history_num == task.history_num:
                return max(moment - head.deadline, 0.0)
        return 0.0

    def seconds_left(
        self, history_num: int | None, started_at: int | None, timeout: int, now: int
    ) -> float:
        """Return what is left of the wait of a head just read from the store, 0 without one.

        ``now`` is the store's own time of that read.
        """
        if history_num is None or started_at is None:
            return 0.0
        if self.head is not None and self.head.task.history_num == history_num:
            return self.remaining()
        return seconds_left(started_at, timeout, now)


def takeover(timeout: int) -> float:
    """Return the seconds for which a node leaves the finish to another one."""
    jitter = random.uniform(0, TAKEOVER_JITTER)  # noqa: S311 - no secret
    return TAKEOVER_SECONDS + TAKEOVER_SHARE * timeout / SECOND + jitter
