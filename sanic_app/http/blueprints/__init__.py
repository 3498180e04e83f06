"""The handlers: each parses its request, calls the queue and answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from sanic import Request, Sanic
from sanic.config import Config

from sanic_app.http.feed import EventFeed
from sanic_app.metrics import Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.worker import Worker
from sanic_app.store import Store

App = Sanic[Config, SimpleNamespace]
"""The application; ``ctx.parts`` has the ``Parts``."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the service that handlers use."""

    queue: TaskQueue
    store: Store
    worker: Worker
    metrics: Metrics
    events: EventFeed
    timeout_max: int
    """Microseconds."""
    batch_max: int
    unready: asyncio.Event
    """Set when a stop begins. The service is not ready any more, but serves for STOP_DELAY."""
    stopping: asyncio.Event
    """Set after STOP_DELAY. Whole lists are aborted."""


def parts_of(request: Request) -> Parts:
    """Return the parts of the service that received the request."""
    parts: Parts = request.app.ctx.parts
    return parts


def query_of(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of the query, including those without a value."""
    parameters: list[tuple[str, str]] = request.get_query_args(keep_blank_values=True)
    return parameters


def abort(request: Request) -> None:
    """Drop the connection, so that the client sees that its answer is incomplete."""
    if request.transport is not None:
        cast("asyncio.WriteTransport", request.transport).abort()


async def abort_and_wait(request: Request) -> None:
    """Drop the connection and wait until its loss cancels the handler."""
    abort(request)
    await asyncio.Event().wait()
