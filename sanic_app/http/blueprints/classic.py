"""The three routes of the sample that this service grew from."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from sanic_app.http.blueprints import cut, parts_of, query_of
from sanic_app.http.blueprints.adding import add_one
from sanic_app.http.schemas import refuse_query
from sanic_app.store import Slice

ADD_TASK = "/add_task"
JSON = "application/json"

blueprint = Blueprint("classic")
log = logging.getLogger(__name__)


@blueprint.post(ADD_TASK)
async def add_task(request: Request) -> HTTPResponse:
    """Add a task to the end of the queue."""
    _, response = await add_one(request, 200)
    return response


@blueprint.get("/get_queue_work")
async def get_queue_work(request: Request) -> BaseHTTPResponse | None:
    """Show the whole queue, in order."""
    return await _whole(request, "tasks", parts_of(request).queue.view.whole_queue())


@blueprint.get("/get_result")
async def get_result(request: Request) -> BaseHTTPResponse | None:
    """Show the whole result list, in order."""
    return await _whole(request, "result", parts_of(request).queue.view.whole_result())


async def _whole(
    request: Request, name: str, slices: AsyncGenerator[Slice, None]
) -> BaseHTTPResponse | None:
    """Answer with a whole list, each slice sent before the next is read."""
    refuse_query(query_of(request))
    part = await anext(slices)
    text = f'{{"{name}":[{part.text}'
    if part.last is None:
        return HTTPResponse(f"{text}]}}", content_type=JSON)
    response: BaseHTTPResponse = await request.respond(content_type=JSON)
    try:
        await response.send(text)
        async for part in slices:
            if parts_of(request).stopping.is_set():
                await cut(request)
            if part.text:
                await response.send(f",{part.text}")
    except Exception:
        log.exception("a whole list ended early")
        await cut(request)
    await response.send("]}", end_stream=True)
    # Return None: Sanic logs an error if a handler returns a response that was already sent.
    return None
