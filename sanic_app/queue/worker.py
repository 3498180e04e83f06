"""The one background task: waits for the head's deadline, then finishes it.

It decides by a pure function and writes through the queue. It never polls: it sleeps until the
deadline or until something changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sanic_app.clock import Clock
from sanic_app.errors import DiskFull, NotHead, OutcomeUnknown, StoreFailed, StoreUnavailable
from sanic_app.queue import TaskQueue
from sanic_app.task import Head

FULL_PAUSE = 0.5
"""Seconds until a finish is tried again that met a full disk, or no store."""
LEARN_SECONDS = 1.0
"""How long a node waits to learn what another one made of the head, before it looks again."""

log = logging.getLogger(__name__)


def seconds_to_sleep(head: Head | None, now: float) -> float | None:
    """Decide: None, nothing to wait for; 0, the head is due; else the seconds to sleep."""
    if head is None:
        return None
    return max(head.deadline + head.patience - now, 0.0)


class Worker:
    """Runs from ``start`` to ``stop``; ends early only by an error, which it never hides."""

    def __init__(
        self, queue: TaskQueue, clock: Clock, on_death: Callable[[BaseException], None]
    ) -> None:
        """Take the queue, started; ``on_death`` is called when the loop raised."""
        self._queue = queue
        self._clock = clock
        self._on_death = on_death
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether the background task is alive."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the loop; may be called twice."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.create_task(self._loop(), name="worker")
            self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Return when the loop is over: a finish under way is not cut. May be called twice.

        The head's wait is simply left; it goes on at the next start.
        """
        self._stopping = True
        self._queue.timer.wake()
        if self._task is not None:
            await asyncio.wait([self._task])
            self._task = None

    async def _loop(self) -> None:
        while not self._stopping:
            head = self._queue.timer.head
            seconds = seconds_to_sleep(head, self._clock.monotonic())
            if head is None or seconds != 0.0:
                await self._queue.timer.changed(seconds)
                continue
            task, takeover = head.task, head.patience > 0
            try:
                if takeover and not await self._queue.view.is_head(task):
                    await self._queue.timer.changed(LEARN_SECONDS)
                    continue
                await self._queue.finish(task.history_num, task.started_at, takeover=takeover)
            except NotHead:
                if self._queue.shared:
                    await self._queue.timer.changed(LEARN_SECONDS)
                elif self._queue.timer.head is head:
                    # No commit of ours took it away. To try again would be to try for ever.
                    raise StoreFailed(
                        "other", "the head is not the one that the last commit left"
                    ) from None
                log.debug("the head changed before it was finished")
            except (DiskFull, OutcomeUnknown, StoreFailed, StoreUnavailable) as error:
                if self._queue.failed:
                    # The queue has the process ended; until then there is nothing to do.
                    return
                if isinstance(error, DiskFull):
                    log.warning("the disk is full: the head is finished when there is room")
                await self._clock.wait(asyncio.Event(), FULL_PAUSE)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_death(error)
