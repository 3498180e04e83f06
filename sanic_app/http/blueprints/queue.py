"""The queue as a whole: figures, pause and resume."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import json

from sanic_app.errors import ServiceError
from sanic_app.http import routes
from sanic_app.http.blueprints import parts_of, query_of, readable
from sanic_app.http.parameters import refuse_query
from sanic_app.http.schemas import queue_object

blueprint = Blueprint("queue")


@readable(blueprint, routes.QUEUE)
async def get_queue(request: Request) -> HTTPResponse:
    """Show what the queue is doing."""
    refuse_query(query_of(request))
    return await _figures(request)


@blueprint.post(routes.PAUSE)
async def pause_queue(request: Request) -> HTTPResponse:
    """Pause the queue: the head's wait goes on, but no other task starts."""
    return await _switch(request, paused=True)


@blueprint.post(routes.RESUME)
async def resume_queue(request: Request) -> HTTPResponse:
    """Resume the queue."""
    return await _switch(request, paused=False)


async def _switch(request: Request, *, paused: bool) -> HTTPResponse:
    refuse_query(query_of(request))
    await parts_of(request).queue.set_paused(paused=paused)
    try:
        return await _figures(request)
    except ServiceError as failure:
        what = "paused" if paused else "resumed"
        failure.concede(f"The queue is {what}, but its figures cannot be read now.")
        raise


async def _figures(request: Request) -> HTTPResponse:
    parts = parts_of(request)
    response = json(queue_object(await parts.view.outlook()))
    if parts.host and request.conn_info is not None:
        response.headers["X-Node"] = f"{parts.host}:{request.conn_info.server_port}"
    return response
