"""create_app(settings): the one place that knows every part; and the life cycle."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, cast

from sanic import HTTPResponse, Request, Sanic
from sanic import exceptions as framework
from sanic.application.state import ApplicationServerInfo
from sanic.config import Config
from sanic.http.constants import HTTP
from sanic.server.async_server import AsyncioServer

from sanic_app.clock import Clock, SystemClock
from sanic_app.errors import EXIT_FAILED, EXIT_STUCK, MethodNotAllowed
from sanic_app.http import routes
from sanic_app.http.blueprints import (
    App,
    Parts,
    classic,
    docs,
    events,
    operations,
    page,
    queue,
    results,
    tasks,
)
from sanic_app.http.connection import Connection
from sanic_app.http.feed import EventFeed
from sanic_app.http.guard import Guard
from sanic_app.http.problems import metric_label, problem
from sanic_app.metrics import REFUSALS, Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.worker import Worker
from sanic_app.settings import Settings
from sanic_app.store.sqlite.file import FileLease
from sanic_app.store.sqlite.store import SqliteStore

STOP_SECONDS: Final = 4.0
"""How long a stop waits for the commit in flight."""
ANSWER_SECONDS: Final = 0.2
"""How long the process lives on after the store failed, to answer those who wait."""
LEAVE_SECONDS: Final = 2.0
"""How long a stop goes on answering those who wait for a task, while they become fewer."""
BACKLOG: Final = 1_024

TASK_BYTES: Final = 128
"""What a task of a batch may take in the body, on average."""

log = logging.getLogger(__name__)
_numbers = count(1)


def create_app(
    settings: Settings,
    lease: FileLease | None = None,
    *,
    clock: Clock | None = None,
    exit_process: Callable[[int], Any] = os._exit,
) -> App:
    """Return the application with all its parts, nothing opened yet.

    ``lease`` is the owner's lock where it is held already. ``clock`` and ``exit_process`` are
    for tests: a failed store ends the process at once.
    """
    clock = clock or SystemClock()
    store = SqliteStore(
        settings.database,
        clock,
        settings.idempotency_keep_us,
        settings.queue_max,
        lease=lease,
        history_keep=settings.history_keep,
    )
    metrics = Metrics(store.engine)

    def end() -> None:
        log.critical("the process ends with status %d", EXIT_FAILED)
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, exit_process, EXIT_FAILED)

    def worker_died(error: BaseException) -> None:
        log.critical("the worker died", exc_info=error)
        end()

    feed = EventFeed(store)
    task_queue = TaskQueue(store, clock, metrics, settings.queue_max, end, on_commit=feed.publish)
    worker = Worker(task_queue, clock, worker_died)
    metrics.event_listeners.set_function(lambda: feed.listeners)
    metrics.worker_up.set_function(lambda: worker.running)
    metrics.store_size["database"].set_function(lambda: store.sizes().database)
    metrics.store_size["wal"].set_function(lambda: store.sizes().wal)

    app = Sanic(_name(), config=_config(), configure_logging=False)
    # Told that it speaks HTTP/1 alone, the framework leaves an empty header out of each answer.
    app.state.server_info.append(ApplicationServerInfo(settings={"version": HTTP.VERSION_1}))
    app.ctx.guard = Guard(settings)
    app.ctx.body_max = settings.body_max
    app.ctx.body_max_of = {routes.BATCH: settings.batch_max * TASK_BYTES}
    app.ctx.parts = Parts(
        queue=task_queue,
        store=store,
        worker=worker,
        metrics=metrics,
        events=feed,
        timeout_max=settings.timeout_max_us,
        batch_max=settings.batch_max,
        unready=asyncio.Event(),
        stopping=asyncio.Event(),
    )
    for room in (classic, tasks, results, queue, events, operations, page):
        app.blueprint(room.blueprint)
    docs.attach(app, settings)
    app.exception(Exception)(_answer_with_problem)
    return app


@asynccontextmanager
async def serving(
    app: App,
    sock: socket.socket,
    stop_delay: float = 0.0,
    exit_process: Callable[[int], Any] = os._exit,
) -> AsyncIterator[AsyncioServer]:
    """Serve the application on the bound socket as long as the context lasts.

    Raises:
        StartError: the store cannot be used.
    """
    parts: Parts = app.ctx.parts
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
        await parts.queue.start()
        parts.events.start(parts.queue.figures)
        try:
            parts.worker.start()
            await server.start_serving()
            await server.after_start()
            yield server
        finally:
            await _stop(parts, server, stop_delay, exit_process)
    finally:
        listener.close()
        Sanic.unregister_app(app)


async def _stop(
    parts: Parts, server: AsyncioServer, delay: float, exit_process: Callable[[int], Any]
) -> None:
    """Let the commit in flight finish, answer its callers, and close everything, within 5 s.

    The listening socket stays open as long as a commit may take, so that whoever comes is told
    that the service is stopping.
    """
    parts.unready.set()
    if delay:
        await asyncio.sleep(delay)
    parts.stopping.set()
    parts.queue.refuse_writes()
    loop = asyncio.get_running_loop()
    end = loop.time() + STOP_SECONDS
    writing = asyncio.create_task(_finish_writing(parts))
    await _unless_stuck(writing, STOP_SECONDS, exit_process)
    await _disconnect(server)
    closing = asyncio.create_task(parts.queue.close())
    await _unless_stuck(closing, max(end - loop.time(), ANSWER_SECONDS), exit_process)
    if parts.queue.failed:
        # The store stays open, and an orderly exit would wait for its threads for ever.
        exit_process(EXIT_FAILED)


async def _unless_stuck(
    task: asyncio.Task[None], seconds: float, exit_process: Callable[[int], Any]
) -> None:
    if (await asyncio.wait([task], timeout=seconds))[1]:
        log.critical("the disk did not answer: the process ends with status %d", EXIT_STUCK)
        exit_process(EXIT_STUCK)
    await task


async def _finish_writing(parts: Parts) -> None:
    await parts.worker.stop()
    await parts.queue.stop()
    parts.events.stop()


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


def _name() -> str:
    """Return a name that the framework has not seen: it keeps every application by its name."""
    return f"sanic_app_{next(_numbers)}"


def _config() -> Config:
    """Return the framework's configuration: nothing is taken from the environment."""
    config = Config(env_prefix="")
    config.update(
        {
            "ACCESS_LOG": False,
            "AUTO_EXTEND": False,
            "FALLBACK_ERROR_FORMAT": "json",
            # Not its own limit on what is unread at a close: see connection.py.
            "GRACEFUL_TCP_CLOSE_TIMEOUT": 86_400,
            "MOTD": False,
            # One request and its answer under way: so much is read ahead.
            "REQUEST_BUFFER_SIZE": 65_536,
        }
    )
    return config


def _answer_with_problem(request: Request, exception: Exception) -> HTTPResponse:
    parts: Parts = request.app.ctx.parts
    if isinstance(exception, framework.MethodNotAllowed):
        exception = MethodNotAllowed(_allowed_methods(request))
    error, response = problem(request, exception)
    path = request.path.rstrip("/")
    if request.method == "POST" and path in routes.ADDS and metric_label(error) in REFUSALS:
        parts.metrics.adds_refused[metric_label(error)].inc()
    if request.stream is not None:
        cast("Connection", request.stream.protocol).observe_error(request, response)
    return response


def _allowed_methods(request: Request) -> tuple[str, ...]:
    """Return the methods of the path's routes; the framework knows them for some paths only."""
    path = request.path.strip("/").split("/")
    found: dict[int, set[str]] = {}
    for route in request.app.router.routes:
        template = route.path.strip("/").split("/")
        named = sum(part.startswith("<") for part in template)
        if len(template) == len(path) and all(
            part.startswith("<") or part == given
            for part, given in zip(template, path, strict=True)
        ):
            found.setdefault(named, set()).update(route.methods)
    # A path of its own goes before one that a name stands for.
    return tuple(sorted(found[min(found)])) if found else ()
