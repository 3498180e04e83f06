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
from contextlib import AbstractContextManager, aclosing, suppress

from sanic_app.errors import StoreUnavailable
from sanic_app.http.journal import (
    BEGINNING,
    TASKS_MAX,
    Cursor,
    Journal,
    Lost,
    Source,
    message,
    reset,
)
from sanic_app.http.listeners import Listener, Listeners
from sanic_app.http.news import News
from sanic_app.http.untold import Untold
from sanic_app.queue.writer import Committed
from sanic_app.store import Figures

RATE = 20
"""Messages a second to a listener; further ones wait and are summarised."""
TOTAL_RATE = 4_000
"""Messages a second to all listeners together."""
TURN_PAGES = 4
"""Pages that a listener which catches up reads in one turn."""
TURN_COST = 0.1
"""What a turn costs beside its pages, in messages."""
LEARN_SECONDS = 1.0
"""How long a listener from another node waits until the store is asked whether it is so far."""
LEARN_PAUSE = 0.02
"""The pause before the store looks again."""
RETRY_MS = 1_000
"""A listener that lost its connection should come back after so many milliseconds."""

log = logging.getLogger(__name__)


class Pace:
    """``RATE`` messages at once, and as many a second."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now`` returns seconds that never go back."""
        self._now = now
        self._left = float(RATE)
        self._at = now()

    def take(self, cost: float = 1.0) -> float:
        """Return 0 and count a message, or the seconds until one may go.

        A message may cost as much as several.
        """
        now = self._now()
        self._left = min(self._left + (now - self._at) * RATE, RATE)
        self._at = now
        cost = min(cost, RATE)
        if self._left < cost:
            # Not the very moment: timers may fire a little early.
            return (cost - self._left) / RATE + 0.001
        self._left -= cost
        return 0.0

    def charge(self, cost: float) -> None:
        """Count what a message has cost beyond what was taken."""
        self._left -= cost


class EventFeed:
    """Tells the listeners of one queue what its tables hold."""

    _figures: Figures
    """The state row as of the last commit that is known."""
    _told: Cursor
    """What those who follow live were told, if there are any."""
    _news: News
    """Since the first of them came."""

    def __init__(
        self, source: Source, listeners_max: int, on_death: Callable[[BaseException], None]
    ) -> None:
        """Take the store, and how many may listen; ``on_death`` is called when the loop failed."""
        self._on_death = on_death
        self._source = source
        self._journal = Journal(source)
        self._listeners = Listeners(listeners_max)
        # All who catch up take turns, and share one pace.
        self._catching_up = asyncio.Lock()
        self._catch_up_pace = Pace(time.monotonic)
        self._untold = Untold()
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """How many follow live."""
        return len(self._listeners)

    def start(self, figures: Figures) -> None:
        """Begin behind what the store holds; may be called twice."""
        if self._task is None:
            self._figures = figures
            self._task = asyncio.create_task(self._loop(), name="feed")
            self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Tell what waits, and end every stream. May be called twice."""
        self._stopping.set()
        self._moved.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._listeners.end()

    def follow(self, committed: Committed) -> None:
        """Note a commit."""
        before, self._figures = self._figures, committed.commit.figures
        if self._listeners:
            self._untold.note(before, committed)
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
        if cursor == BEGINNING:
            cursor = cursor._replace(lineage=self._source.lineage)
        if cursor is None:
            # Before the first message is on its way: nothing falls between that and the next.
            self._admit(listener)
        try:
            yield f"retry: {RETRY_MS}\nid: {cursor or self._cursor}\n\n".encode()
            if cursor is not None:
                await self._learn(cursor)
                async for text in self._missed(cursor, listener):
                    yield text
            while listener in self._listeners:
                await listener.arrived.wait()
                for text in listener.take():
                    yield text
        finally:
            self._listeners.discard(listener)

    async def _learn(self, cursor: Cursor) -> None:
        """Wait until this node knows what another one has told, unless the store does not hold it.

        Raises:
            StoreUnavailable: that cannot be told now; the listener should come back.
        """
        asking = time.monotonic() + LEARN_SECONDS
        while self._source.shared and cursor.ahead_of(self._cursor) and not self._stopping.is_set():
            if time.monotonic() > asking:
                # This node may be cut off, or have so many listeners that it tells them slowly.
                figures = (await self._source.overview()).figures
                if cursor.ahead_of(self._cursor_of(figures)):
                    return
                asking = time.monotonic() + LEARN_SECONDS
            self._source.look()
            await asyncio.sleep(LEARN_PAUSE)

    async def _missed(self, cursor: Cursor, listener: Listener) -> AsyncGenerator[bytes, None]:
        """Return what the tables hold behind the cursor; then let the listener follow live.

        A stop ends it where it is: the listener can resume from there.
        """
        while listener not in self._listeners:
            texts: list[bytes] = []
            async with self._catching_up:
                await self._wait(self._catch_up_pace, TURN_COST)
                if self._stopping.is_set():
                    return
                try:
                    while cursor != self._cursor and len(texts) < TURN_PAGES:
                        kind, data, cursor = await self._journal.page(
                            cursor, self._cursor, self._figures.pruned
                        )
                        texts.append(message(kind, data, cursor))
                        self._catch_up_pace.charge(len(data.get("tasks", ())) / TASKS_MAX)
                except Lost as lost:
                    cursor = self._cursor
                    texts.append(reset(cursor, lost.reason))
                if cursor == self._cursor:
                    # There is no await between this comparison and the next line: nothing is
                    # missed, and nothing is told twice.
                    self._admit(listener)
            for text in texts:
                yield text

    async def _loop(self) -> None:
        pace = Pace(time.monotonic)
        while not self._stopping.is_set() or self._moved.is_set():
            await self._moved.wait()
            self._moved.clear()
            try:
                if self._listeners:
                    await self._tell(pace)
            except Exception as error:
                # What cannot be reached has told so itself.
                if not isinstance(error, StoreUnavailable):
                    log.exception("the events could not be read: listeners have to come back")
                self._listeners.cut_all()

    async def _tell(self, pace: Pace) -> None:
        """Tell all who follow live what commits have done until now: the same bytes to all."""
        news, untold, figures = self._news, self._untold, self._figures
        self._untold = Untold()
        async with aclosing(news.since(self._cursor, figures, untold)) as messages:
            async for text, cursor in messages:
                await self._wait(pace, max(len(self._listeners) * RATE / TOTAL_RATE, 1.0))
                if self._news is not news:
                    # All have left, and others have come since, at a later cursor.
                    return
                self._told = cursor
                await self._listeners.send(text)

    async def _wait(self, pace: Pace, cost: float) -> None:
        """Return when the pace lets a message through, or a stop begins."""
        while not self._stopping.is_set() and (seconds := pace.take(cost)) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    def _admit(self, listener: Listener) -> None:
        """Let a listener follow live. To the first one, all that was done counts as told."""
        if not self._listeners:
            self._told = self._cursor
            self._news = News(self._source, self._figures)
            self._untold = Untold()
        self._listeners.add(listener)

    @property
    def _cursor(self) -> Cursor:
        """What those who follow live were told; where nobody does, all that was done."""
        return self._told if self._listeners else self._cursor_of(self._figures)

    def _cursor_of(self, figures: Figures) -> Cursor:
        return Cursor(self._source.lineage, figures.last_history_num, figures.last_finish_num)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_death(error)
