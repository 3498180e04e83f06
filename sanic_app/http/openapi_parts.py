"""What the OpenAPI document is made of: schemas, problems, headers, parameters, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sanic_app import errors
from sanic_app.errors import ServiceError
from sanic_app.http import routes
from sanic_app.http.problems import CONTENT_TYPE, PROBLEMS, URN
from sanic_app.http.schemas import (
    AFTER,
    CURSOR,
    DONE,
    HISTORY_NUM_PATTERN,
    KEY,
    LIMIT,
    SCHEMAS,
    WAIT,
    task_object,
)
from sanic_app.http.shape import Json, list_of, ref, string
from sanic_app.log import ACCEPTED
from sanic_app.task import State

Errors = tuple[type[ServiceError], ...]

# Who may meet which problem. Whatever is asked for, a request can be no HTTP, too slow, too large,
# or of a method that the path does not have.
OPEN: Final[Errors] = (
    *(errors.Invalid, errors.MethodNotAllowed, errors.RequestTimeout, errors.TooLarge),
    errors.Internal,
)
GUARDED: Final[Errors] = (*OPEN, errors.Forbidden)
SECURED: Final[Errors] = (*GUARDED, errors.Unauthorized)
CHANGING: Final[Errors] = (
    *(*SECURED, errors.OutcomeUnknown),
    *(errors.Stopping, errors.DiskFull),
)
ADDING: Final[Errors] = (
    *(*SECURED, errors.MediaType, errors.KeyReused, errors.OutcomeUnknown),
    *(errors.QueueFull, errors.Stopping, errors.DiskFull),
)


def by_status(kinds: Iterable[type[ServiceError]]) -> dict[int, Errors]:
    """Return the problems by the status that they share."""
    found: dict[int, Errors] = {}
    for kind in kinds:
        status = PROBLEMS[kind][1]
        found[status] = (*found.get(status, ()), kind)
    return found


def shared_name(kinds: Errors) -> str:
    """Return the name of the answer that stands for these problems."""
    return "Or".join(kind.__name__ for kind in kinds)


# Problems.

WRITES_ALONE: Final = set(ADDING) - set(SECURED)


def _problem(kind: type[ServiceError]) -> Json:
    """Return an example of the problem."""
    slug, status, title = PROBLEMS[kind]
    example = {"type": URN + slug, "title": title, "status": status, "detail": kind.__doc__}
    if kind in WRITES_ALONE:
        example["applied"] = kind.applied
    if kind is errors.Invalid:
        fault = SCHEMAS["Fault"]["examples"][0]
        example |= {"detail": fault["message"], "errors": [fault]}
    return example


def _object(example: Json, optional: Sequence[str] = (), **properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        "examples": [example],
    }


def problem_schema() -> Json:
    """Return the schema of every problem (RFC 9457)."""
    return _object(
        {**_problem(errors.Invalid), "applied": False},
        optional=("applied", "errors"),
        type={"type": "string", "enum": [URN + slug for slug, _, _ in PROBLEMS.values()]},
        title={"type": "string"},
        status={"type": "integer", "enum": sorted({status for _, status, _ in PROBLEMS.values()})},
        detail={"type": "string", "description": "One sentence."},
        applied={
            "enum": [False, None],
            "description": "On writes alone: `false` says that nothing was applied, and `null`"
            " that this is not known; an idempotency key makes another try safe.",
        },
        errors=list_of("Fault", description="What is wrong with the input."),
    )


def refusal(status: int, kinds: Errors) -> Json:
    """Return the answer that is one of these problems."""
    headers = ["X-Request-ID"]
    if errors.Unauthorized in kinds:
        headers.append("WWW-Authenticate")
    if errors.MethodNotAllowed in kinds:
        headers.append("Allow")
    if all(kind.retry_after is not None for kind in kinds):
        headers.append("Retry-After")
    types = [URN + PROBLEMS[kind][0] for kind in kinds]
    narrowed = {"properties": {"type": {"enum": types}, "status": {"const": status}}}
    return {
        "description": " Or: ".join(kind.__doc__ or "" for kind in kinds),
        "headers": {name: ref(name, "headers") for name in headers},
        "content": {
            CONTENT_TYPE: {
                "schema": {"allOf": [ref("Problem"), narrowed]},
                "examples": {PROBLEMS[kind][0]: {"value": _problem(kind)} for kind in kinds},
            }
        },
    }


# Headers and parameters.

HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-ID": {
        "required": True,
        "description": "The request's own id, or a new one.",
        "schema": string(ACCEPTED.pattern),
        "example": "order-4711",
    },
    "Location": {
        "required": True,
        "description": "The task's path.",
        "schema": string(f"{routes.TASKS}/{HISTORY_NUM_PATTERN}"),
        "example": "/api/v1/tasks/1",
    },
    "Link": {
        "description": "The next page, while there is one.",
        "schema": {"type": "string"},
        "example": '</api/v1/tasks?limit=100&after=100>; rel="next"',
    },
    "Idempotent-Replayed": {
        "description": "The key was known: this is what the first request was answered.",
        "schema": {"type": "string", "const": "true"},
        "example": "true",
    },
    "Allow": {
        "required": True,
        "description": "The path's methods.",
        "schema": {"type": "string"},
        "example": "GET, POST",
    },
    "WWW-Authenticate": {
        "required": True,
        "schema": {"type": "string", "const": "Bearer"},
        "example": "Bearer",
    },
    "Retry-After": {
        "required": True,
        "description": "After how many seconds another try makes sense.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 5,
    },
    "ETag": {"required": True, "schema": {"type": "string"}, "example": '"0123456789abcdef"'},
}


def _file_parameter(names: Iterable[str]) -> Json:
    return {
        "name": "file",
        "in": "path",
        "required": True,
        "description": "A file of the page.",
        "schema": {"type": "string", "enum": sorted(names)},
    }


def parameters(files: Mapping[str, Iterable[str]]) -> dict[str, Json]:
    """Return the parameters; the two headers have no example, for the page would send it."""
    characters = ACCEPTED.pattern[1:].partition("]")[0]
    return {
        "RequestId": {
            "name": "X-Request-ID",
            "in": "header",
            "description": f"An id for the log; comes back if it is 1 to 128 of `{characters}`,"
            " and is replaced otherwise.",
            "schema": {"type": "string"},
        },
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Makes another try safe: an equal request with the same key adds"
            " nothing, and answers what the first was answered.",
            "schema": KEY,
        },
        "HistoryNum": {
            "name": "history_num",
            "in": "path",
            "required": True,
            "schema": ref("HistoryNum"),
            "example": 1,
        },
        "Limit": {
            "name": "limit",
            "in": "query",
            "description": "The length of the page.",
            "schema": LIMIT,
            "example": LIMIT["default"],
        },
        "After": {
            "name": "after",
            "in": "query",
            "description": "The last history number seen, exclusive.",
            "schema": AFTER,
            "example": 0,
        },
        "From": {
            "name": "from",
            "in": "query",
            "required": True,
            "description": "The first history number of the range, inclusive.",
            "schema": ref("HistoryNum"),
            "example": 1,
        },
        "To": {
            "name": "to",
            "in": "query",
            "required": True,
            "description": "The last one, inclusive; it may lie beyond the end of the queue.",
            "schema": ref("HistoryNum"),
            "example": 3,
        },
        "Wait": {
            "name": "wait",
            "in": "query",
            "description": "Hold the answer for so many seconds, or until the task is finished, or"
            " the service stops.",
            "schema": WAIT,
            "example": 0,
        },
        "LastEventId": {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The id of the last message that was received: the stream goes on behind"
            " it, without gaps or doubles.",
            "schema": CURSOR,
        },
        **{name: _file_parameter(names) for name, names in files.items()},
    }


# Answers.

CANCELLED: Final = task_object(DONE._replace(state=State.CANCELLED))

EVENTS: Final[Json] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Server-sent events `added`, `started`, `finished` (cancelled too),"
            ' `paused` and `resumed`: one for each kind and commit, its data `{"tasks": [...]}`.'
            ' Beyond 20 messages a second or 1,000 tasks in one: `{"first", "last", "count"}`,'
            " the history numbers of the first and the last, and how many there were. `reset`:"
            " what was asked for by `Last-Event-ID` is not there any more; look at the lists anew.",
        },
        "example": 'id: 1.0\nevent: added\ndata: {"tasks":[]}\n\n',
    }
}


def json_content(name: str, example: Json | None = None) -> Json:
    """Return JSON of the schema, with its own example unless another is given."""
    if example is None and name in SCHEMAS:
        example = SCHEMAS[name]["examples"][0]
    media: Json = {"schema": ref(name)}
    if example is not None:
        media["example"] = example
    return {"application/json": media}


def text_content(*media_types: str) -> Json:
    """Return text in one of the media types."""
    return {media_type: {"schema": {"type": "string"}} for media_type in media_types}


def answer(description: str, content: Json | None, *headers: str) -> Json:
    """Return an answer; each has a request id."""
    names = ("X-Request-ID", *headers)
    parts: Json = {
        "description": description,
        "headers": {name: ref(name, "headers") for name in names},
    }
    if content is not None:
        parts["content"] = content
    return parts


def file_answers(description: str, content: Json) -> Mapping[int, Json]:
    """Return the answers of a route with a file behind it."""
    unchanged = "It is still the one with the ETag in `If-None-Match`."
    return {200: answer(description, content, "ETag"), 304: answer(unchanged, None, "ETag")}


def added_answer(*headers: str) -> Json:
    """Return the answer to an add, with a link to the task's own route."""
    number = "$response.body#/history_num"
    return {
        **answer("The task, on disk.", json_content("Task"), *headers, "Idempotent-Replayed"),
        "links": {"task": {"operationId": "getTask", "parameters": {"history_num": number}}},
    }
