"""The queue as a whole: its figures and its head."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import json

from sanic_app.blueprints import parts_of, query_of
from sanic_app.schemas import queue_object, refuse_query

blueprint = Blueprint("queue")


@blueprint.get("/api/v1/queue")
async def figures(request: Request) -> HTTPResponse:
    """Show what the queue is doing."""
    refuse_query(query_of(request))
    parts = parts_of(request)
    state, head = await parts.store.overview()
    oldest, backlog = parts.queue.measure(state, head)
    return json(queue_object(state, head, oldest, backlog))
