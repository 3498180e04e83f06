"""The stream of server-sent events."""

from __future__ import annotations

import logging
from contextlib import aclosing

from sanic import Blueprint, Request
from sanic.response import BaseHTTPResponse

from sanic_app.errors import Stopping, StoreUnavailable
from sanic_app.http import routes
from sanic_app.http.blueprints import abort, abort_and_wait, parts_of, query_of, readable
from sanic_app.http.journal import Cursor
from sanic_app.http.parameters import parse_cursor, refuse_query

blueprint = Blueprint("events")
log = logging.getLogger(__name__)


@readable(blueprint, routes.EVENTS)
async def listen(request: Request) -> None:
    """Stream the events since the ``Last-Event-ID``, or from now on."""
    refuse_query(query_of(request))
    after = parse_cursor(request.headers.getall("last-event-id", []))
    parts = parts_of(request)
    if parts.stopping.is_set():
        raise Stopping
    with parts.feed.seat():
        response: BaseHTTPResponse = await request.respond(
            # Ask proxies not to buffer the stream.
            headers={"X-Accel-Buffering": "no"},
            content_type="text/event-stream",
        )
        if request.method == "HEAD":
            await response.send(b"")
            return
        cursor = None if after is None else Cursor(*after)
        listening = parts.feed.listen(cursor, lambda: _abort_slow(request))
        try:
            async with aclosing(listening) as messages:
                async for text in messages:
                    await response.send(text)
        except StoreUnavailable:
            # The store says so in the log. The listener comes back.
            await abort_and_wait(request)
        except Exception:
            log.exception("a stream of events ended early")
            await abort_and_wait(request)
        await response.send(b"", end_stream=True)


def _abort_slow(request: Request) -> None:
    if request.transport is not None:
        log.warning("a listener was too slow, and is cut")
        abort(request)
