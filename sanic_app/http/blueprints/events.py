"""Events: a stream of what each commit made true."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import cast

from sanic import Blueprint, Request
from sanic.response import BaseHTTPResponse

from sanic_app.errors import Stopping
from sanic_app.http import routes
from sanic_app.http.blueprints import cut, parts_of, query_of
from sanic_app.http.feed import Cursor
from sanic_app.http.parsing import parse_cursor, refuse_query

blueprint = Blueprint("events")
log = logging.getLogger(__name__)


@blueprint.get(routes.EVENTS)
async def events(request: Request) -> None:
    """Tell what happens, as server-sent events, from `Last-Event-ID` on or from now."""
    refuse_query(query_of(request))
    numbers = parse_cursor(request.headers.getall("last-event-id", []))
    parts = parts_of(request)
    if parts.stopping.is_set():
        raise Stopping
    response: BaseHTTPResponse = await request.respond(
        # Proxies are asked not to collect what is meant to arrive at once.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        content_type="text/event-stream",
    )
    cursor = None if numbers is None else Cursor(*numbers)
    try:
        async with aclosing(parts.events.listen(cursor, lambda: _abort(request))) as messages:
            async for text in messages:
                await response.send(text)
    except Exception:
        log.exception("a stream of events ended early")
        await cut(request)
    await response.send(b"", end_stream=True)


def _abort(request: Request) -> None:
    if request.transport is not None:
        log.warning("a listener was too slow, and is cut")
        cast("asyncio.WriteTransport", request.transport).abort()
