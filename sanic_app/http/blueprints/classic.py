"""The three routes of the sample application that this service started as."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from sanic_app.http import routes
from sanic_app.http.blueprints import abort_and_wait, parts_of, query_of
from sanic_app.http.blueprints.adding import answer_add, read_add
from sanic_app.http.parameters import refuse_query
from sanic_app.http.schemas import queue_list, result_list
from sanic_app.http.shape import Shape
from sanic_app.store import Slice

JSON = "application/json"

blueprint = Blueprint("classic")
log = logging.getLogger(__name__)


@blueprint.post(routes.ADD_TASK)
async def add_task(request: Request) -> HTTPResponse:
    """Add a task to the end of the queue."""
    new = read_add(request)
    added = await parts_of(request).queue.add(*new)
    return answer_add(new, added, 200)


@blueprint.get(routes.GET_QUEUE_WORK)
async def get_queue_work(request: Request) -> BaseHTTPResponse | None:
    """Show the whole queue, in order."""
    return await _stream_list(request, queue_list, parts_of(request).store.queue_slice)


@blueprint.get(routes.GET_RESULT)
async def get_result(request: Request) -> BaseHTTPResponse | None:
    """Show the whole result list, in order."""
    return await _stream_list(request, result_list, parts_of(request).store.results_slice)


async def _stream_list(
    request: Request, shape: Shape[Any], read: Callable[[int, int], Awaitable[Slice]]
) -> BaseHTTPResponse | None:
    """Answer with a whole list, sent in slices, without tasks that are added meanwhile."""
    refuse_query(query_of(request))
    until = parts_of(request).queue.figures.last_history_num
    part = await read(0, until)
    text = f'{{"{shape.fields[0].name}":[{part.text}'
    if part.last is None:
        return HTTPResponse(f"{text}]}}", content_type=JSON)
    response: BaseHTTPResponse = await request.respond(content_type=JSON)
    try:
        while part.last is not None:
            await response.send(text)
            if parts_of(request).stopping.is_set():
                await abort_and_wait(request)
            part = await read(part.last, until)
            text = f",{part.text}" if part.text else ""
    except Exception:
        log.exception("a whole list ended early")
        await abort_and_wait(request)
    await response.send(f"{text}]}}", end_stream=True)
    # Return None: Sanic logs an error if a handler returns a response that was already sent.
    return None
