"""Start and stop of what app.py composed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from sanic import Sanic
from sanic.server.async_server import AsyncioServer

from sanic_app.errors import EXIT_FAILED, EXIT_STUCK, StartError
from sanic_app.http.connection import Connection
from sanic_app.http.feed import EventFeed
from sanic_app.queue import TaskQueue
from sanic_app.queue.worker import Worker

STOP_SECONDS: Final = 4.0
"""How long a stop waits for the commit in flight."""
ANSWER_SECONDS: Final = 0.2
"""How long the process lives on after the store failed, to answer those who wait."""
LEAVE_SECONDS: Final = 2.0
"""How long a stop goes on answering those who wait for a task, while they become fewer."""
BACKLOG: Final = 1_024

ExitProcess = Callable[[int], Any]

log = logging.getLogger(__name__)


class Service:
    """The parts that start and stop together, and how far they are."""

    def __init__(
        self, queue: TaskQueue, worker: Worker, feed: EventFeed, exit_process: ExitProcess
    ) -> None:
        """Take the parts, not started yet, and what ends the process at once."""
        self.queue = queue
        self.worker = worker
        self.feed = feed
        self.exit_process = exit_process
        self.unready = asyncio.Event()
        """Set when a stop begins. The service is not ready any more, but serves for STOP_DELAY."""
        self.stopping = asyncio.Event()
        """Set after STOP_DELAY. Whole lists are aborted."""

    def readiness(self) -> tuple[bool, str]:
        """Return whether the service can do its work, and the reason in a few words."""
        if self.queue.failed:
            return False, "the store failed"
        if self.unready.is_set():
            return False, "stopping"
        if not self.worker.running:
            return False, "the worker is not running"
        condition = self.queue.condition
        if condition.problem is not None:
            return False, condition.problem
        return True, condition.reason

    async def start(self) -> None:
        """Open the queue and follow it; the worker starts last.

        Raises:
            StartError: the store cannot be used.
        """
        await self.queue.start()
        self.feed.start(self.queue.figures)
        self.worker.start()

    async def finish_writing(self) -> None:
        """Let the commit in flight finish, answer its callers, and end the streams."""
        await self.worker.stop()
        await self.queue.stop()
        await self.feed.stop()


def end_process(exit_process: ExitProcess) -> None:
    """End the process with status 70, as soon as those who wait have their answers."""
    log.critical("the process ends with status %d", EXIT_FAILED)
    asyncio.get_running_loop().call_later(ANSWER_SECONDS, exit_process, EXIT_FAILED)


@asynccontextmanager
async def serving(
    app: Sanic[Any, Any], sock: socket.socket, stop_delay: float = 0.0
) -> AsyncIterator[AsyncioServer]:
    """Serve the application on the bound socket as long as the context lasts.

    Raises:
        StartError: the store cannot be used, or another process took the port.
    """
    service: Service = app.ctx.service
    server = await app.create_server(
        sock=sock,
        protocol=Connection,
        backlog=BACKLOG,
        return_asyncio_server=True,
        asyncio_server_kwargs={"start_serving": False},
    )
    assert server is not None  # noqa: S101 - it was asked for
    listener = cast("asyncio.Server", server.server)
    try:
        await server.startup()
        await server.before_start()
        await service.start()
        try:
            await _listen(server, sock)
            await server.after_start()
            yield server
        finally:
            await _stop(service, server, stop_delay)
    finally:
        listener.close()
        Sanic.unregister_app(app)


async def _listen(server: AsyncioServer, sock: socket.socket) -> None:
    try:
        # As long as none of them listens, several sockets can be bound to one port. Not left to
        # uvloop, which can lose the error.
        sock.listen(BACKLOG)
    except OSError as error:
        host, port = sock.getsockname()[:2]
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    await server.start_serving()


async def _stop(service: Service, server: AsyncioServer, delay: float) -> None:
    """Let the commit in flight finish, answer its callers, and close everything, within 5 s.

    The listening socket stays open as long as a commit may take, so that whoever comes is told
    that the service is stopping.
    """
    service.unready.set()
    if delay:
        await asyncio.sleep(delay)
    service.stopping.set()
    service.queue.refuse_writes()
    loop = asyncio.get_running_loop()
    end = loop.time() + STOP_SECONDS
    await _unless_stuck(service, service.finish_writing(), STOP_SECONDS)
    await _disconnect(server)
    left = max(end - loop.time(), ANSWER_SECONDS)
    await _unless_stuck(service, service.queue.close(), left)
    if service.queue.failed:
        # The store stays open, and an orderly exit would wait for its threads for ever.
        service.exit_process(EXIT_FAILED)


async def _unless_stuck(
    service: Service, step: Coroutine[None, None, None], seconds: float
) -> None:
    task = asyncio.create_task(step)
    if (await asyncio.wait([task], timeout=seconds))[1]:
        log.critical("the disk did not answer: the process ends with status %d", EXIT_STUCK)
        service.exit_process(EXIT_STUCK)
    await task


async def _disconnect(server: AsyncioServer) -> None:
    """Close the listening socket and every connection; answers under way get a moment."""
    listener = cast("asyncio.Server", server.server)
    listener.close()
    loop = asyncio.get_running_loop()
    latest = loop.time() + LEAVE_SECONDS
    deadline = loop.time() + ANSWER_SECONDS
    left = len(server.connections)
    while server.connections and loop.time() < deadline + ANSWER_SECONDS:
        if len(server.connections) < left:
            # Thousands who waited for a task are being answered.
            left = len(server.connections)
            deadline = min(loop.time() + ANSWER_SECONDS, latest)
        for connection in list(server.connections):
            if loop.time() < deadline:
                connection.close_if_idle()
            elif connection.transport is not None:
                # Not the framework's own abort: after it a request half sent ends in a traceback.
                connection.transport.abort()
        await asyncio.sleep(0.005)
