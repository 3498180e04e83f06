"""The feed of events: who listens, and how fast they are told.

One loop reads what lies between a cursor and what the store holds, whether a listener follows live
or catches up after a break, and whichever process did the commits. ``started``, ``paused`` and
``resumed`` follow from the figures, and are not replayed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

from sanic_app.http.journal import (
    TASKS_MAX,
    Cursor,
    Journal,
    Lost,
    Source,
    message,
    reset,
    tasks_data,
)
from sanic_app.http.listeners import Listener, Listeners
from sanic_app.queue.writer import Committed
from sanic_app.store import Figures
from sanic_app.task import Task

RATE = 20
"""Messages a second to a listener; what is beyond waits and is summarised."""
TOTAL_RATE = 4_000
"""Messages a second to all listeners together."""
RETRY_MS = 1_000
"""A listener that lost its connection should come back after so many milliseconds."""

log = logging.getLogger(__name__)


class Told(NamedTuple):
    """What those who follow live were told."""

    cursor: Cursor
    head: tuple[int | None, int | None]
    """The head's history number and its start."""
    paused: int

    @classmethod
    def all_of(cls, figures: Figures) -> Told:
        """Return it for a listener that knows everything up to these figures."""
        return cls(
            Cursor(figures.last_history_num, figures.last_finish_num),
            (figures.head, figures.head_started_at),
            figures.paused,
        )

    def knows(self, figures: Figures) -> bool:
        """Return whether there is nothing to tell; that there is no head is not told."""
        now = Told.all_of(figures)
        return self == (now if figures.head is not None else now._replace(head=self.head))


class Pace:
    """So many messages at once, and so many a second."""

    def __init__(self, now: Callable[[], float], rate: int = RATE) -> None:
        """Take the clock, in seconds."""
        self._now = now
        self._rate = rate
        self._left = float(rate)
        self._at = now()

    def take(self, cost: float = 1.0) -> float:
        """Return 0 and count a message, or the seconds until one may go.

        A message may cost as much as several.
        """
        now = self._now()
        self._left = min(self._left + (now - self._at) * self._rate, self._rate)
        self._at = now
        cost = min(cost, self._rate)
        if self._left < cost:
            # Not the very moment: timers may fire a little early.
            return (cost - self._left) / self._rate + 0.001
        self._left -= cost
        return 0.0


class EventFeed:
    """Tells the listeners of one queue what its tables hold."""

    _figures: Figures
    """The state row as far as it is known."""
    _told: Told

    def __init__(self, source: Source, listeners_max: int) -> None:
        """Take the tables, and how many may listen."""
        self._source = source
        self._journal = Journal(source)
        self._listeners = Listeners(listeners_max)
        # All who catch up take turns, and share one pace.
        self._catching_up = asyncio.Lock()
        self._catch_up_pace = Pace(time.monotonic)
        # Since the last message of a kind, this many commits had something for it.
        self._commits = {"added": 0, "finished": 0}
        # The last start that was not told yet, behind all that its commit added and finished.
        self._start: tuple[Cursor, Task] | None = None
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """How many follow live."""
        return len(self._listeners)

    def start(self, figures: Figures) -> None:
        """Begin behind what the store holds; may be called twice."""
        if self._task is None:
            self._figures = figures
            self._told = Told.all_of(figures)
            self._task = asyncio.create_task(self._loop(), name="feed")

    async def stop(self) -> None:
        """Tell what waits, and end every stream. May be called twice."""
        self._stopping.set()
        self._moved.set()
        if self._task is not None:
            await self._task
        self._ended.set()
        self._listeners.end()

    def follow(self, committed: Committed) -> None:
        """Note how far the store is."""
        before, self._figures = self._figures, committed.commit.figures
        if not self._listeners:
            self._skip()
            return
        if (started := committed.commit.started) is not None:
            self._start = Told.all_of(self._figures).cursor, started
        self._commits["added"] += before.last_history_num < self._figures.last_history_num
        self._commits["finished"] += before.last_finish_num < self._figures.last_finish_num
        self._moved.set()

    def seat(self) -> AbstractContextManager[None]:
        """Return the place of one stream, to be held while it lasts.

        Raises:
            TooBusy: on entering; there are as many streams as there may be.
        """
        return self._listeners.seat()

    async def listen(
        self, cursor: Cursor | None, cut: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        """Return what a listener is to be sent, from the cursor on or from now, until the stop.

        ``cut`` ends the connection of one that is too slow. What is yielded are whole messages.
        """
        listener = Listener(cut)
        if cursor is None:
            # Before the first message is on its way: nothing falls between that and the next.
            self._listeners.add(listener)
        try:
            yield f"retry: {RETRY_MS}\nid: {cursor or self._told.cursor}\n\n".encode()
            if cursor is not None:
                async for text in self._missed(cursor, listener):
                    yield text
            while not self._ended.is_set():
                await listener.arrived.wait()
                for text in listener.take():
                    yield text
            for text in listener.take():
                yield text
        finally:
            self._listeners.discard(listener)

    async def _missed(self, cursor: Cursor, listener: Listener) -> AsyncGenerator[bytes, None]:
        """Return what the tables hold behind the cursor, page by page; then let it follow live."""
        while cursor != self._told.cursor and not self._stopping.is_set():
            try:
                async with self._catching_up:
                    await self._wait(self._catch_up_pace)
                    if self._stopping.is_set():
                        break
                    kind, data, cursor = await self._journal.next(
                        cursor, self._told.cursor, self._figures.pruned
                    )
            except Lost:
                break
            yield message(kind, data, cursor)
        # No turn of the loop between the last look and this: nothing is missed or told twice.
        self._listeners.add(listener)
        if cursor != self._told.cursor:
            yield reset(self._told.cursor)

    # Those who follow live are told the same bytes.

    async def _loop(self) -> None:
        pace = Pace(time.monotonic)
        while not self._stopping.is_set() or self._behind():
            await self._moved.wait()
            self._moved.clear()
            while self._behind():
                await self._wait(pace, len(self._listeners) * RATE / TOTAL_RATE)
                try:
                    await self._tell_next()
                except Exception:
                    log.exception("the events could not be read: listeners have to come back")
                    self._listeners.cut_all()
                    self._skip()

    async def _wait(self, pace: Pace, cost: float = 1.0) -> None:
        """Return when the pace lets a message through, or a stop begins."""
        while not self._stopping.is_set() and (seconds := pace.take(max(cost, 1.0))) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    def _behind(self) -> bool:
        return self._start is not None or not self._told.knows(self._figures)

    def _skip(self) -> None:
        """Tell nobody: nobody listens."""
        self._told = Told.all_of(self._figures)
        self._commits = dict.fromkeys(self._commits, 0)
        self._start = None

    async def _tell_next(self) -> None:
        """Tell one kind: adds before finishes, so that the cursor says what was told."""
        told, start = self._told, self._start
        until = Told.all_of(self._figures).cursor if start is None else start[0]
        if told.cursor == until:
            if start is None:
                await self._tell_figures(told)
            else:
                self._start = None
                await self._tell_start(start[1])
            return
        kind = "added" if told.cursor.added < until.added else "finished"
        count = until.added - told.cursor.added or until.finished - told.cursor.finished
        several, self._commits[kind] = self._commits[kind] > 1, 0
        try:
            _, data, cursor = await self._journal.next(
                told.cursor, until, self._figures.pruned, summarise=several or count > TASKS_MAX
            )
            text = message(kind, data, cursor)
        except Lost:
            cursor = until
            text = reset(cursor)
        # Meanwhile the last listener may have left, and others have come, who know more.
        if self._told is told:
            self._told = told._replace(cursor=cursor)
            await self._listeners.send(text)

    async def _tell_start(self, head: Task) -> None:
        self._told = self._told._replace(head=(head.history_num, head.started_at))
        await self._listeners.send(message("started", tasks_data([head]), self._told.cursor))

    async def _tell_figures(self, told: Told) -> None:
        """Tell a pause, or the start of a head by another process."""
        known = self._figures
        figures, head, _ = await self._source.overview()
        if self._figures is not known or self._told is not told:
            return
        # Perhaps of a younger commit already, whose adds and finishes go first.
        self._figures = figures
        now = Told.all_of(figures)
        if now.cursor != told.cursor:
            return
        if head is not None and now.head != told.head:
            await self._tell_start(head)
        elif now.paused != told.paused:
            self._told = told._replace(paused=now.paused)
            await self._listeners.send(
                message("paused" if now.paused else "resumed", tasks_data(()), told.cursor)
            )
