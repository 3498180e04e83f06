"""The listeners of the feed: what waits for each, and what all of them may cost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sanic_app.errors import TooBusy

LAG_BYTES = 2**20
"""A listener with more bytes to take than this is cut. It can resume."""
SEND_SLICE = 50
"""The event loop turns after a message was given to so many listeners."""
HEARTBEAT_SECONDS = 10.0


class Listener:
    """The messages that wait for one client. All clients share their bytes."""

    def __init__(self, cut: Callable[[], None]) -> None:
        """``cut`` ends the client's connection."""
        self.cut = cut
        self.arrived = asyncio.Event()
        self._messages: deque[bytes] = deque()
        self._bytes = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._messages

    def put(self, message: bytes) -> bool:
        """Add a message; return False when too much waits already."""
        if self._bytes > LAG_BYTES:
            return False
        self._messages.append(message)
        self._bytes += len(message)
        self.arrived.set()
        return True

    def take(self) -> Iterator[bytes]:
        """Return the messages that wait, one by one."""
        while self._messages:
            message = self._messages.popleft()
            self._bytes -= len(message)
            yield message
        self.arrived.clear()


class Listeners:
    """Those who follow live, and how many streams there are in all."""

    def __init__(self, limit: int) -> None:
        """``limit`` is the greatest number of streams."""
        self._limit = limit
        self._streams = 0
        self._live: set[Listener] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, listener: Listener) -> bool:
        """Return whether it follows live."""
        return listener in self._live

    def __len__(self) -> int:
        """Return how many follow live."""
        return len(self._live)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Count a stream as long as it lasts.

        Raises:
            TooBusy: there are as many as there may be.
        """
        if self._streams >= self._limit:
            raise TooBusy
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def add(self, listener: Listener) -> None:
        """Let a listener follow live."""
        self._live.add(listener)
        if self._timer is None:
            self._beat()

    def discard(self, listener: Listener) -> None:
        """Forget a listener that is gone."""
        self._live.discard(listener)

    async def send(self, message: bytes) -> None:
        """Give a message to all who follow live now. Those who are too far behind are cut."""
        for number, listener in enumerate(list(self._live), 1):
            if listener in self._live and not listener.put(message):
                self._cut(listener)
            if number % SEND_SLICE == 0:
                await asyncio.sleep(0)

    def cut_all(self) -> None:
        """Cut all who follow live."""
        for listener in list(self._live):
            self._cut(listener)

    def end(self) -> None:
        """Let all who follow live take what waits for them, and no more."""
        if self._timer is not None:
            self._timer.cancel()
        live, self._live = self._live, set()
        for listener in live:
            listener.arrived.set()

    def _cut(self, listener: Listener) -> None:
        self._live.discard(listener)
        listener.cut()

    def _beat(self) -> None:
        """Send a comment on silent streams, so that a lost connection is noticed.

        There is one timer for all: one for each would cost more than their messages.
        """
        for listener in self._live if self._timer is not None else ():
            if listener.idle:
                listener.put(b":\n\n")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HEARTBEAT_SECONDS, self._beat) if self._live else None
