"""The three routes of the sample application that this service started as."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from sanic_app.http import routes
from sanic_app.http.blueprints import abort_and_wait, parts_of, query_of, readable
from sanic_app.http.blueprints.adding import answer_add, read_add
from sanic_app.http.parameters import refuse_query
from sanic_app.http.schemas import queue_list, result_list
from sanic_app.http.shape import Shape
from sanic_app.store import Slice

JSON = "application/json"

blueprint = Blueprint("classic")
log = logging.getLogger(__name__)


@blueprint.post(routes.ADD_TASK, ignore_body=True)
async def add_task_classic(request: Request) -> HTTPResponse:
    """Add a task to the end of the queue."""
    new = await read_add(request)
    added = await parts_of(request).queue.add(*new)
    return answer_add(new, added, 200)


@readable(blueprint, routes.GET_QUEUE_WORK)
async def list_queue(request: Request) -> BaseHTTPResponse | None:
    """Show the whole queue, in order."""
    return await _stream_list(request, queue_list, parts_of(request).view.whole_queue())


@readable(blueprint, routes.GET_RESULT)
async def list_results(request: Request) -> BaseHTTPResponse | None:
    """Show the whole result list, in order."""
    return await _stream_list(request, result_list, parts_of(request).view.whole_result())


async def _stream_list(
    request: Request, shape: Shape[Any], slices: AsyncGenerator[Slice, None]
) -> BaseHTTPResponse | None:
    """Answer with a whole list. Each slice is sent before the next one is read."""
    refuse_query(query_of(request))
    part = await anext(slices)
    text = f'{{"{shape.fields[0].name}":[{part.text}'
    if part.last is None:
        return HTTPResponse(f"{text}]}}", content_type=JSON)
    response: BaseHTTPResponse = await request.respond(content_type=JSON)
    if request.method == "HEAD":
        await response.send(b"")
        return None
    try:
        await response.send(text)
        async for part in slices:
            if parts_of(request).stopping.is_set():
                await abort_and_wait(request)
            if part.text:
                await response.send(f",{part.text}")
    except Exception:
        log.exception("a whole list ended early")
        await abort_and_wait(request)
    await response.send("]}", end_stream=True)
    # Return None: Sanic logs an error if a handler returns a response that was already sent.
    return None
