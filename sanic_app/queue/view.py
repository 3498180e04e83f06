"""What is read of the queue: as a whole, one task, pages, and whole lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from sanic_app.clock import Clock
from sanic_app.errors import Gone, NotFound, StoreUnavailable
from sanic_app.queue.head import HeadTimer
from sanic_app.queue.outlook import Outlook, PlacedTask, backlog, oldest_task_age, placed
from sanic_app.queue.waiters import Waiters
from sanic_app.queue.writer import Committed
from sanic_app.store import Overview, Slice, Store
from sanic_app.task import Task

SECOND_LOOKS: Final = 100
"""How many who have waited for a task look at it at once. Thousands may be woken together."""


class QueueView:
    """Reads the store, and adds what only this process knows: the head's deadline."""

    def __init__(self, store: Store, clock: Clock, timer: HeadTimer) -> None:
        """Take the store, not open yet."""
        self._store = store
        self._clock = clock
        self._timer = timer
        self._waiters = Waiters()
        self._second_looks = asyncio.Semaphore(SECOND_LOOKS)
        self._last_history_num = 0
        self._ending = False

    def begin(self, overview: Overview) -> None:
        """Take over the store as it was opened."""
        self._last_history_num = overview.figures.last_history_num
        self._ending = False

    def follow(self, committed: Committed) -> None:
        """Take over a commit: wake those whose task it finished."""
        self._last_history_num = committed.commit.figures.last_history_num
        self._waiters.follow(committed)
        if committed.missing:
            # Theirs may be among them.
            self._waiters.wake_all()

    def end_waits(self) -> None:
        """Let nobody wait from now on."""
        self._ending = True
        self._waiters.wake_all()

    async def outlook(self) -> Outlook:
        """Return what the queue is doing."""
        figures, head, now = await self._store.overview()
        left = 0.0
        if head is not None:
            left = self._timer.seconds_left(head.history_num, head.started_at, head.timeout, now)
        return Outlook(
            figures.depth,
            oldest_task_age(figures, now),
            backlog(figures, head, left),
            bool(figures.paused),
            head,
            figures.pruned,
        )

    async def is_head(self, head: Task) -> bool:
        """Look, without a lock, whether this is still the head; if not, it is soon learned of.

        Raises:
            StoreUnavailable: that cannot be told now.
        """
        if (await self._store.overview()).head == head:
            return True
        self._store.look()
        return False

    async def task(self, history_num: int, wait: float = 0.0) -> PlacedTask:
        """Look at a task: now, or once it is finished or the seconds are over.

        Nobody waits while the service stops.

        Raises:
            NotFound: no task has this number yet.
            Gone: retention has removed it.
            StoreUnavailable: that cannot be told now.
        """
        if not wait:
            return await self._look(history_num)
        end = self._clock.monotonic() + wait
        with self._waiters.waiting_for(history_num) as woken:
            found = await self._look(history_num)
            over = False
            while found.position is not None and not self._ending and not over:
                await self._clock.wait(woken, end - self._clock.monotonic())
                over = not woken.is_set()
                woken.clear()
                found = await self._look_again(history_num)
        return found

    async def _look_again(self, history_num: int) -> PlacedTask:
        behind_others = self._second_looks.locked()
        async with self._second_looks:
            if behind_others and not self._store.up:
                # Theirs got no answer, and each of those takes a read's whole time.
                raise StoreUnavailable
            return await self._look(history_num)

    async def _look(self, history_num: int) -> PlacedTask:
        # Before the look: a task that is added meanwhile is not gone.
        last = self._last_history_num
        found = await self._store.task(history_num)
        if found is None and history_num > last and self._store.shared:
            # Another node may have added it, and this one has not learned of that yet.
            last = (await self._store.figures()).last_history_num
            found = await self._store.task(history_num)
        if found is None:
            raise Gone if history_num <= last else NotFound(NotFound.no_task)
        task, place = found
        if place is None:
            return PlacedTask(task)
        figures = place.figures
        left = self._timer.seconds_left(
            figures.head, figures.head_started_at, place.first_timeout, place.now
        )
        return placed(task, place, left)

    async def queue_page(self, after: int, limit: int) -> Sequence[Task]:
        """Return tasks of the queue with a greater history number, in order."""
        return await self._store.queue_page(after, limit)

    async def results_page(self, after: int, limit: int) -> Sequence[Task]:
        """Return done tasks with a greater history number, in order."""
        return await self._store.results_page(after, limit)

    def whole_queue(self) -> AsyncGenerator[Slice, None]:
        """Return the queue as of now, slice by slice."""
        return self._slices(self._store.queue_slice)

    def whole_result(self) -> AsyncGenerator[Slice, None]:
        """Return the result list as of now, slice by slice."""
        return self._slices(self._store.results_slice)

    async def _slices(
        self, read: Callable[[int, int], Awaitable[Slice]]
    ) -> AsyncGenerator[Slice, None]:
        """Read up to the last history number as of the first read."""
        until = self._last_history_num
        if self._store.shared:
            # Another node may have answered an add of which this one has not learned yet.
            until = (await self._store.figures()).last_history_num
        after: int | None = 0
        while after is not None:
            part = await read(after, until)
            yield part
            after = part.last
