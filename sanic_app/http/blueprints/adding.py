"""Adding a task or a batch of them, as every way of adding does it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from sanic import HTTPResponse, Request
from sanic.response import json

from sanic_app.http.blueprints import parts_of, query_of
from sanic_app.http.guard import check_media_type
from sanic_app.http.parsing import parse_key, parse_new_task, parse_new_tasks, refuse_query
from sanic_app.http.schemas import added_body, batch_object
from sanic_app.store import Added
from sanic_app.task import NewTask


async def add_one(request: Request, status: int) -> tuple[Added, HTTPResponse]:
    """Add the task in the request's body; return what was done, and the answer.

    Raises:
        ServiceError: the task is not added, or its fate is unknown: the error says which.
    """
    parts = parts_of(request)
    _check(request)
    task = parse_new_task(request.body, parts.timeout_max)
    key = _key(request)
    if key is None:
        added = await parts.queue.add((task,))
    else:
        added = await parts.queue.add((task,), key, request_text("task", (task,)))
    response = HTTPResponse(added_body(added, task), status, content_type="application/json")
    return added, _told(added, response)


async def add_batch(request: Request) -> HTTPResponse:
    """Add the tasks in the request's body, all or none, and return the answer.

    Raises:
        ServiceError: as ``add_one``.
    """
    parts = parts_of(request)
    _check(request)
    tasks = parse_new_tasks(request.body, parts.timeout_max, parts.batch_max)
    key = _key(request)
    added = await parts.queue.add(tasks, key, "" if key is None else batch_text(tasks))
    return _told(added, json(batch_object(added), 201))


def _check(request: Request) -> None:
    check_media_type(request.path, request.headers)
    if request.query_string:
        refuse_query(query_of(request))


def _key(request: Request) -> str | None:
    return parse_key(request.headers.getall("idempotency-key", []))


def _told(added: Added, response: HTTPResponse) -> HTTPResponse:
    if added.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def batch_text(tasks: Sequence[NewTask]) -> str:
    """Return a parsed batch as a short text: no two batches that can be found share one."""
    return f"batch {sha256(request_text('', tasks).encode()).hexdigest()}"


def request_text(kind: str, tasks: Sequence[NewTask]) -> str:
    """Return a parsed request as text that is equal exactly when the requests are."""
    return f"{kind} {' '.join(f'{num}:{timeout}' for num, timeout in tasks)}"
