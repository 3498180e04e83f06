"""One connection to the server, with a thread of its own and a deadline for each call.

A frozen server still acknowledges at the level of TCP, so no time limit of the driver's helps. When
the deadline is over the socket is shut down, and the call in the thread fails at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from sanic_app.store.postgres.failures import Lost, failure
from sanic_app.store.postgres.servers import Connection, Servers, deadline, shut

T = TypeVar("T")

RECUT_SECONDS = 0.5
"""The pause before the socket of a call that goes on is shut down once more."""


class Link:
    """A connection that comes back after it was lost."""

    def __init__(
        self, servers: Servers, name: str, greet: Callable[[Connection], None] | None = None
    ) -> None:
        """Take where to connect, and what to do first on each connection; none is made yet."""
        self._servers = servers
        self._greet = greet
        self._thread = ThreadPoolExecutor(1, f"postgres-{name}")
        self._connection: Connection | None = None
        self._timeline = 0
        self._closed = False
        servers.on_promotion.append(self._leave)
        # Nobody shuts down a socket whose number means another one already.
        self._lock = threading.Lock()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def run(self, function: Callable[[Connection], T], seconds: float) -> T:
        """Return what the function makes of the connection in the link's thread.

        After the seconds its socket is shut down, and the function fails. While there is no
        connection yet, the function is given up and never runs. A caller that is cancelled leaves
        it running.

        Raises:
            Lost: there is no connection, or no more.
            whatever stands for an error of the server (see ``failures.py``).
        """
        loop = asyncio.get_running_loop()
        # Whoever takes it first decides: the call begins, or it is given up.
        turn = threading.Lock()
        call: asyncio.Future[Any] = loop.run_in_executor(
            self._thread, self._call, function, turn, time.monotonic() + seconds / 2
        )
        given_up: asyncio.Future[Any] = loop.create_future()
        cut = False

        def late() -> None:
            if turn.acquire(blocking=False):
                given_up.set_result(None)
                return
            nonlocal cut
            cut = True
            # Again and again: the function may be between two statements.
            self.cut()
            timers[0] = loop.call_later(RECUT_SECONDS, late)

        def done(call: asyncio.Future[Any]) -> None:
            timers[0].cancel()
            # Its caller may be gone, and then nobody else asks for its failure.
            call.exception()

        timers = [loop.call_later(seconds, late)]
        call.add_done_callback(done)
        await asyncio.wait({call, given_up}, return_when=asyncio.FIRST_COMPLETED)
        if given_up.done():
            raise Lost("there is no connection")
        try:
            result: T = call.result()
        except Lost as lost:
            if cut:
                raise Lost(f"the server gave no answer within {seconds:g} s") from lost
            raise
        return result

    def cut(self) -> None:
        """Let a call that waits for the server fail."""
        with self._lock:
            if self._connection is not None:
                shut(self._connection)

    def _leave(self) -> None:
        """Leave a server that was replaced: what is read there may be out of date."""
        if self._timeline < self._servers.timeline:
            self.cut()

    async def close(self) -> None:
        """Close the connection and end the thread; may be called twice."""
        self._closed = True
        self.cut()
        loop = asyncio.get_running_loop()
        with suppress(RuntimeError):
            await loop.run_in_executor(self._thread, self._drop)
        self._thread.shutdown(wait=False)

    def _call(self, function: Callable[[Connection], T], turn: threading.Lock, half: float) -> T:
        try:
            connected = self._connection is not None
            connection = self._connected(turn)
            # The rest may be too short each time, where the server is slow or far away.
            late = not connected and time.monotonic() > half
            if not late and turn.acquire(blocking=False):
                return function(connection)
        except Exception as error:
            found = failure(error) if isinstance(error, psycopg.Error) else error
            used = self._connection
            if isinstance(found, Lost) or used is None or used.closed:
                self._drop()
            elif used.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self._roll_back(used)
            if found is error:
                raise
            raise found from error
        # The connection stays: the next call has all its time.
        raise Lost("it took too long to connect")

    def _connected(self, turn: threading.Lock) -> Connection:
        if self._connection is not None and self._timeline < self._servers.timeline:
            self._drop()
        if self._connection is None:
            if self._closed or turn.locked():
                raise Lost("closed")
            connection, server = self._servers.find()
            if self._greet is not None:
                try:
                    with deadline(connection):
                        self._greet(connection)
                except BaseException:
                    connection.close()
                    raise
            self._connection, self._timeline = connection, server.timeline
        return self._connection

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        with self._lock, suppress(psycopg.Error):
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def fetch(connection: Connection, sql: str, *values: Any) -> list[Any]:
    """Return the rows of one statement."""
    return connection.execute(sql, values or None).fetchall()
