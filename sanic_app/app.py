"""create_app(settings): composition only, the one place that knows every part."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from sanic import Sanic
from sanic.application.state import ApplicationServerInfo
from sanic.config import Config
from sanic.http.constants import HTTP

from sanic_app.clock import Clock, SystemClock
from sanic_app.errors import StartError
from sanic_app.http import problems
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
from sanic_app.http.feed import EventFeed
from sanic_app.http.guard import Guard
from sanic_app.lifecycle import ExitProcess, Service, end_process
from sanic_app.metrics import Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.worker import Worker
from sanic_app.settings import Settings
from sanic_app.store import Store
from sanic_app.store.postgres import DRIVER_MISSING
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND

TASK_BYTES: Final = 128
"""What a task of a batch may take in the body, on average."""

log = logging.getLogger(__name__)
_numbers = count(1)


def create_app(
    settings: Settings,
    lease: FileLease | None = None,
    *,
    clock: Clock | None = None,
    exit_process: ExitProcess = os._exit,
) -> App:
    """Return the application with all its parts, nothing opened yet.

    ``lease`` is the owner's lock where it is held already. ``clock`` and ``exit_process`` are
    for tests: a failed store ends the process at once.
    """
    clock = clock or SystemClock()
    store = _store(settings, clock, lease)
    metrics = Metrics(store.engine)

    end = partial(end_process, exit_process)

    def died(name: str, error: BaseException) -> None:
        log.critical("%s died", name, exc_info=error)
        end()

    feed = EventFeed(store, settings.listeners_max, partial(died, "the feed"))
    task_queue = TaskQueue(store, clock, metrics, settings.queue_max, end, listeners=[feed.follow])
    worker = Worker(task_queue, clock, partial(died, "the worker"))
    service = Service(task_queue, worker, feed, exit_process)
    metrics.start_time.set(clock.wall() / SECOND)
    _show(metrics, store, worker, feed)
    store.notice = metrics.notice

    # The framework keeps every application by its name, and takes each name once.
    name = f"sanic_app_{next(_numbers)}"
    app = Sanic(name, config=_config(), configure_logging=False)
    # Told that it speaks HTTP/1 alone, the framework leaves an empty header out of each answer.
    app.state.server_info.append(ApplicationServerInfo(settings={"version": HTTP.VERSION_1}))
    app.ctx.service = service
    app.ctx.metrics = metrics
    app.ctx.guard = Guard(settings)
    app.ctx.keep_alive = settings.keep_alive
    app.ctx.body_max = settings.body_max
    app.ctx.parts = Parts(
        queue=task_queue,
        view=task_queue.view,
        feed=feed,
        metrics=metrics,
        readiness=service.readiness,
        stopping=service.stopping,
        timeout_max=settings.timeout_max_us,
        batch_max=settings.batch_limit,
        batch_bytes=settings.batch_max * TASK_BYTES,
        base_path=settings.base_path,
        host=socket.gethostname() if store.shared else "",
    )
    for room in (classic, tasks, results, queue, events, operations, page):
        app.blueprint(room.blueprint)
    docs.attach(app, settings)
    app.exception(Exception)(problems.answer)
    return app


def _store(settings: Settings, clock: Clock, lease: FileLease | None) -> Store:
    """Return the store that the settings name, not open yet.

    Raises:
        StartError: its driver is not installed.
    """
    if isinstance(settings.database, Path):
        return SqliteStore(
            settings.database,
            clock,
            settings.idempotency_keep_us,
            settings.queue_max,
            lease=lease,
            history_keep=settings.history_keep,
        )
    try:
        from sanic_app.store.postgres.store import PostgresStore  # noqa: PLC0415 - an extra
    except ImportError:
        raise StartError(DRIVER_MISSING) from None
    return PostgresStore(
        settings.database.url,
        clock,
        settings.idempotency_keep_us,
        settings.queue_max,
        name=settings.database.schema or settings.database_schema,
        patience=settings.store_patience,
        history_keep=settings.history_keep,
    )


def _show(metrics: Metrics, store: Store, worker: Worker, feed: EventFeed) -> None:
    """Let a scrape compute what nobody announces."""
    metrics.event_listeners.set_function(lambda: feed.listeners)
    metrics.worker_up.set_function(lambda: worker.running)
    metrics.store_size["database"].set_function(lambda: store.sizes().database)
    metrics.store_free.set_function(lambda: store.sizes().free)
    metrics.store_size["wal"].set_function(lambda: store.sizes().wal)


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
