"""The headers and parameters of the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sanic_app.http import routes
from sanic_app.http.schemas import AFTER, CURSOR, HISTORY_NUM_PATTERN, HOLD_MAX, KEY, LIMIT, WAIT
from sanic_app.http.shape import Json, ref, string
from sanic_app.log import ACCEPTED


def _header(schema: Json, example: Any, description: str, *, required: bool = True) -> Json:
    must = {"required": True} if required else {}
    return {**must, "schema": schema, "example": example, "description": description}


def path_headers(base: str) -> Json:
    """Return the headers that contain paths; ``base`` is what a proxy puts before each."""
    tasks = f"{base}{routes.TASKS}"
    return {
        "Location": _header(
            string(f"{re.escape(tasks)}/{HISTORY_NUM_PATTERN}"), f"{tasks}/1", "The task's path."
        ),
        "Link": _header(
            {"type": "string"},
            f'<{tasks}?limit=100&after=100>; rel="next"',
            "The next page, while there is one.",
            required=False,
        ),
    }


def _parameter(place: str, name: str, schema: Json, description: str, example: Any = None) -> Json:
    found: Json = {"name": name, "in": place, "schema": schema, "description": description}
    if place == "path" or (place == "query" and "default" not in schema):
        found["required"] = True
    return found if example is None else {**found, "example": example}


def file_parameter(names: Iterable[str]) -> Json:
    """Return the parameter that selects one of these files."""
    schema = {"type": "string", "enum": sorted(names)}
    return _parameter("path", "file", schema, "A file of the page.")


HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-ID": _header(
        string(ACCEPTED.pattern), "order-4711", "The request's own id, or a new one."
    ),
    "X-Node": _header(
        {"type": "string"},
        "db-client-1:8000",
        "Which node answered, by its machine's name and its port; sent if the queue is in"
        " PostgreSQL, where there may be several.",
        required=False,
    ),
    "Idempotent-Replayed": _header(
        {"type": "string", "const": "true"},
        "true",
        "The key was known: this is what the first request was answered.",
        required=False,
    ),
    "Allow": _header({"type": "string"}, "GET, POST", "The path's methods."),
    "WWW-Authenticate": _header(
        {"type": "string", "const": "Bearer"}, "Bearer", "What to send: a bearer token."
    ),
    "Retry-After": _header(
        {"type": "integer", "minimum": 1}, 5, "After how many seconds another try makes sense."
    ),
    "ETag": _header({"type": "string"}, '"0123456789abcdef"', "Changes with the content."),
}

_CHARACTERS: Final = ACCEPTED.pattern[1:].partition("]")[0]

# The headers have no example, because Swagger UI would send it.
PARAMETERS: Final[Mapping[str, Json]] = {
    "RequestId": _parameter(
        "header",
        "X-Request-ID",
        {"type": "string"},
        f"An id for the log; comes back if it is 1 to 128 of `{_CHARACTERS}`, and is replaced"
        " otherwise.",
    ),
    "IdempotencyKey": _parameter(
        "header",
        "Idempotency-Key",
        KEY,
        "Makes another try safe: an equal request with the same key adds nothing, and answers what"
        " the first was answered.",
    ),
    "HistoryNum": _parameter(
        "path", "history_num", ref("HistoryNum"), "The task's history number.", 1
    ),
    "Limit": _parameter("query", "limit", LIMIT, "The length of the page.", LIMIT["default"]),
    "After": _parameter("query", "after", AFTER, "The last history number seen, exclusive.", 0),
    "From": _parameter(
        "query", "from", ref("HistoryNum"), "The first history number of the range, inclusive.", 1
    ),
    "To": _parameter(
        "query",
        "to",
        ref("HistoryNum"),
        "The last one, inclusive; it may lie beyond the end of the queue.",
        3,
    ),
    "Wait": _parameter(
        "query",
        "wait",
        WAIT,
        "Hold the answer for so many seconds, or until the task is finished, or the service stops;"
        f" never longer than {HOLD_MAX} seconds, since proxies give up after 60.",
        0,
    ),
    "LastEventId": _parameter(
        "header",
        "Last-Event-ID",
        CURSOR,
        "The id of the last message that was received: the stream goes on behind it, without gaps"
        " or doubles. `0.0` tells everything from the beginning on.",
    ),
}
