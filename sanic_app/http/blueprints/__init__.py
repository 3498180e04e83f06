"""The handlers: each parses its request, calls the queue and answers.

``app.py`` gives them the parts that they call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from sanic import Blueprint, Request, Sanic
from sanic.config import Config

from sanic_app.http.feed import EventFeed
from sanic_app.metrics import Metrics
from sanic_app.queue import TaskQueue
from sanic_app.queue.view import QueueView

App = Sanic[Config, SimpleNamespace]
"""The application; ``ctx.parts`` has the ``Parts``."""
Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the service that handlers use."""

    queue: TaskQueue
    view: QueueView
    feed: EventFeed
    metrics: Metrics
    readiness: Callable[[], tuple[bool, str]]
    """Whether the service can do its work, and the reason."""
    stopping: asyncio.Event
    """Set when streams have to end."""
    timeout_max: int
    """Microseconds."""
    batch_max: int
    batch_bytes: int
    """The most that the body of a batch may have."""
    base_path: str
    """What a proxy puts before every path."""
    host: str
    """The name of this machine if several nodes serve the queue, else empty."""


def readable(blueprint: Blueprint, path: str) -> Callable[[Handler], Handler]:
    """Make a handler answer GET and HEAD: whatever has the one has the other (RFC 9110, 9.1)."""
    decorator: Callable[[Handler], Handler] = blueprint.route(
        path, methods=("GET", "HEAD"), ignore_body=True
    )
    return decorator


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
