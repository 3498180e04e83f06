"""Adds: reads the requests that add tasks, and answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple, cast

from sanic import HTTPResponse, Request
from sanic.compat import Header

from sanic_app.errors import MediaType, Stopping
from sanic_app.http import routes
from sanic_app.http.blueprints import Parts, parts_of, query_of
from sanic_app.http.bodies import parse_new_task, parse_new_tasks
from sanic_app.http.parameters import parse_key, refuse_query
from sanic_app.http.request import ServiceRequest
from sanic_app.http.schemas import added_body
from sanic_app.store import Added
from sanic_app.task import NewTask

LARGE_BYTES: Final = 131_072
"""A body of this size takes some milliseconds to parse."""
_BROWSER_HEADERS: Final = ("origin", "sec-fetch-")


class NewAdd(NamedTuple):
    """What a client asks to add; the arguments of ``TaskQueue.add``."""

    tasks: Sequence[NewTask]
    key: str | None
    request: str
    """With a key: the parsed request as text, which is equal exactly when the requests are."""


async def read_add(request: Request, *, batch: bool = False) -> NewAdd:
    """Return what the request asks to add: one task, or a batch.

    What needs no body is refused before the body is read, so that a client that waits for
    ``100 Continue`` is not asked for it in vain. A large body is parsed in another thread, so that
    the event loop goes on.

    Raises:
        MediaType: the body is not declared as JSON.
        Invalid: a query, a wrong body or a wrong key.
        Stopping: the service stops, and will not add anything.
    """
    headers = request.headers
    check_media_type(request.path, headers)
    if request.query_string:
        refuse_query(query_of(request))
    key = parse_key(headers.getall("idempotency-key", []))
    parts = parts_of(request)
    if key is None and parts.stopping.is_set():
        # With a key the queue looks it up first: the retry of an add may find its answer.
        raise Stopping
    limit = parts.batch_bytes if batch else None
    body = await cast("ServiceRequest", request).read_body(limit)
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(_parse_add, body, key, parts, batch=batch)
    return _parse_add(body, key, parts, batch=batch)


def _parse_add(body: bytes, key: str | None, parts: Parts, *, batch: bool) -> NewAdd:
    tasks: Sequence[NewTask]
    if batch:
        tasks = parse_new_tasks(body, parts.timeout_max, parts.batch_max)
    else:
        tasks = (parse_new_task(body, parts.timeout_max),)
    return NewAdd(tasks, key, "" if key is None else request_text(tasks, batch=batch))


def answer_add(new: NewAdd, added: Added, status: int) -> HTTPResponse:
    """Answer with the task that was added."""
    body = added_body(added, new.tasks[0])
    return HTTPResponse(body, status, replay_headers(added), "application/json")


def replay_headers(added: Added) -> dict[str, str]:
    """Return the header that marks the answer to a retry."""
    return {"Idempotent-Replayed": "true"} if added.replayed else {}


def request_text(tasks: Sequence[NewTask], *, batch: bool) -> str:
    """Return a parsed request as text. That of a batch is hashed: it is stored with the key."""
    text = " ".join(f"{num}:{timeout}" for num, timeout in tasks)
    return f"batch {sha256(f' {text}'.encode()).hexdigest()}" if batch else f"task {text}"


def check_media_type(path: str, headers: Header) -> None:
    """Refuse a body that is not declared as JSON.

    A request without a type, or with curl's default type on the classic route, passes only if it
    has none of the headers that browsers add: a form on another site's page could send it too.

    Raises:
        MediaType: its detail says what to send.
    """
    encodings = headers.getall("content-encoding", ())
    if any(each.lower() not in ("identity", "") for each in encodings):
        raise MediaType("Send the body as plain JSON, without a Content-Encoding.")
    types = headers.getall("content-type", ())
    # Of several types, another program may believe another one.
    declared = types[0] if len(types) == 1 else ""
    if declared == "application/json":
        return
    media_type = declared.partition(";")[0].strip(" \t").lower()
    if media_type == "application/json":
        return
    undeclared = not types or (
        path.rstrip("/") == routes.ADD_TASK and media_type == "application/x-www-form-urlencoded"
    )
    if not undeclared or any(name.lower().startswith(_BROWSER_HEADERS) for name in headers):
        raise MediaType
