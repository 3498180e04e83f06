"""The handlers: each parses its request, calls the queue and answers.

This page declares all that they call. ``app.py`` gives them the parts that can do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

from sanic import Blueprint, Request, Sanic
from sanic.config import Config

from sanic_app.http.journal import Cursor
from sanic_app.queue.outlook import Outlook, PlacedTask
from sanic_app.store import Added, Slice
from sanic_app.task import NewTask, Task

App = Sanic[Config, SimpleNamespace]
"""The application; ``ctx.parts`` has the ``Parts``."""
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Queue(Protocol):
    """What handlers write: see ``TaskQueue``."""

    def add(self, tasks: Sequence[NewTask], key: str | None, request: str) -> Awaitable[Added]:
        """Put tasks at the end of the queue."""

    async def cancel(self, history_num: int) -> Task:
        """Take one task out of the queue."""

    async def cancel_range(self, first: int, last: int) -> int:
        """Take tasks out of the queue; return how many."""

    async def set_paused(self, *, paused: bool) -> None:
        """Pause the queue or resume it."""


class View(Protocol):
    """What handlers read: see ``QueueView``."""

    async def outlook(self) -> Outlook:
        """Return what the queue is doing."""

    async def task(self, history_num: int, wait: float) -> PlacedTask:
        """Look at a task, now or when it is finished."""

    async def queue_page(self, after: int, limit: int) -> Sequence[Task]:
        """Return a page of the queue."""

    async def results_page(self, after: int, limit: int) -> Sequence[Task]:
        """Return a page of the done tasks."""

    def whole_queue(self) -> AsyncGenerator[Slice, None]:
        """Return the queue, slice by slice."""

    def whole_result(self) -> AsyncGenerator[Slice, None]:
        """Return the result list, slice by slice."""


class Feed(Protocol):
    """What a listener gets: see ``EventFeed``."""

    def seat(self) -> AbstractContextManager[None]:
        """Return the place of one stream."""

    def listen(self, cursor: Cursor | None, cut: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """Return the messages for one listener."""


class Metrics(Protocol):
    """What a scrape gets: see ``Metrics``."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the body and its content type."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the service that handlers use."""

    queue: Queue
    view: View
    feed: Feed
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
