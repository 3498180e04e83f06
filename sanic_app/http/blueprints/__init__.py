"""HTTP only: parse, call the queue, answer."""

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
"""The framework's application as this service makes it; ``ctx.parts`` has the parts."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What handlers may use of the service."""

    queue: TaskQueue
    store: Store
    worker: Worker
    metrics: Metrics
    events: EventFeed
    timeout_max: int
    """Microseconds."""
    batch_max: int
    unready: asyncio.Event
    """Set when a stop begins: the service says so, and serves on for STOP_DELAY."""
    stopping: asyncio.Event
    """Set when that is over: whole lists are cut."""


def parts_of(request: Request) -> Parts:
    """Return the parts of the service that got the request."""
    parts: Parts = request.app.ctx.parts
    return parts


def query_of(request: Request) -> list[tuple[str, str]]:
    """Return the query's parameters as they were sent, those without a value too."""
    parameters: list[tuple[str, str]] = request.get_query_args(keep_blank_values=True)
    return parameters


async def cut(request: Request) -> None:
    """Close the connection in the middle of an answer, so that no client takes it for whole."""
    if request.transport is not None:
        cast("asyncio.WriteTransport", request.transport).abort()
    # The lost connection cancels this handler.
    await asyncio.Event().wait()
