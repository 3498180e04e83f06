"""Adding a task, as every way of adding one does it."""

from __future__ import annotations

from sanic import HTTPResponse, Request

from sanic_app.blueprints import parts_of, query_of
from sanic_app.guard import check_media_type
from sanic_app.schemas import (
    added_body,
    parse_key,
    parse_new_task,
    refuse_query,
    request_text,
)
from sanic_app.store import Added


async def add_one(request: Request, status: int) -> tuple[Added, HTTPResponse]:
    """Add the task in the request's body; return what was done, and the answer.

    Raises:
        ServiceError: the task is not added, or its fate is unknown: the error says which.
    """
    parts = parts_of(request)
    headers = request.headers
    check_media_type(request.path, headers)
    if request.query_string:
        refuse_query(query_of(request))
    task = parse_new_task(request.body, parts.timeout_max)
    key = parse_key(headers.getall("idempotency-key", []))
    if key is None:
        added = await parts.queue.add((task,))
    else:
        added = await parts.queue.add((task,), key, request_text("task", (task,)))
    response = HTTPResponse(added_body(added, task), status, content_type="application/json")
    if added.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return added, response
