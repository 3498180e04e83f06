"""What the OpenAPI document is made of: schemas, problems, headers, parameters, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sanic_app import errors
from sanic_app.errors import ServiceError
from sanic_app.http.problems import CONTENT_TYPE, PROBLEMS, URN
from sanic_app.http.schemas import (
    KEY_MAX,
    NUM_MAX,
    NUM_MIN,
    PAGE_DEFAULT,
    PAGE_MAX,
    WAIT_MAX,
    seconds,
)
from sanic_app.settings import TIMEOUT_LIMIT, Settings
from sanic_app.task import HISTORY_NUM_MAX, State

Json = dict[str, Any]
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


def ref(place: str, name: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{place}/{name}"}


# Schemas, each with an example.


def _object(example: Json, optional: Sequence[str] = (), **properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        "examples": [example],
    }


def _list_of(name: str, **limits: Any) -> Json:
    return {"type": "array", "items": ref("schemas", name), **limits}


def _or_null(name: str) -> Json:
    return {"anyOf": [ref("schemas", name), {"type": "null"}]}


DATE: Final = "2026-11-23T21:15:08.359203Z"
DUE: Final = "2026-11-23T21:15:11.359203Z"
ITEM: Final[Json] = {"history_num": 1, "date_created": DATE, "num": 5, "timeout": 3}
HEAD: Final[Json] = {**ITEM, "state": "waiting", "date_started": DATE, "date_finished": None}
DONE: Final[Json] = {**HEAD, "state": "done", "date_finished": DUE}
CANCELLED: Final[Json] = {**DONE, "state": "cancelled"}
PLACED: Final[Json] = {
    **HEAD,
    "position": 0,
    "seconds_until_due": 1.75,
    "date_due": DUE,
}
RESULT: Final[Json] = {"history_num": 1, "num": 5, "date_finished": DUE}
INTEGER: Final[Json] = {"type": "integer", "format": "int64"}
COUNT: Final[Json] = {**INTEGER, "minimum": 0}
SECONDS: Final[Json] = {"type": "number", "minimum": 0}

SCHEMAS: Final[Mapping[str, Json]] = {
    "HistoryNum": {
        **INTEGER,
        "description": "The task's place in the history: from 1, gapless, never reused.",
        "minimum": 1,
        "maximum": HISTORY_NUM_MAX,
        "examples": [1],
    },
    "Num": {
        **INTEGER,
        "description": "The number to append to the result list.",
        "minimum": NUM_MIN,
        "maximum": NUM_MAX,
        "examples": [5],
    },
    "Timeout": {
        **SECONDS,
        "description": "The wait in seconds from the task's start, rounded up to the microsecond.",
        "maximum": TIMEOUT_LIMIT,
        "examples": [3],
    },
    "Date": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        "examples": [DATE],
    },
    "State": {
        "type": "string",
        "description": "`waiting` is the head: the only task whose wait is running.",
        "enum": [str(state) for state in State],
        "examples": ["waiting"],
    },
    "Task": _object(
        HEAD,
        history_num=ref("schemas", "HistoryNum"),
        date_created=ref("schemas", "Date"),
        num=ref("schemas", "Num"),
        timeout=ref("schemas", "Timeout"),
        state=ref("schemas", "State"),
        date_started=_or_null("Date"),
        date_finished=_or_null("Date"),
    ),
    "PlacedTask": _object(
        PLACED,
        history_num=ref("schemas", "HistoryNum"),
        date_created=ref("schemas", "Date"),
        num=ref("schemas", "Num"),
        timeout=ref("schemas", "Timeout"),
        state=ref("schemas", "State"),
        date_started=_or_null("Date"),
        date_finished=_or_null("Date"),
        position={
            "anyOf": [COUNT, {"type": "null"}],
            "description": "The tasks before it in the queue; null when it is finished.",
        },
        seconds_until_due={
            "anyOf": [SECONDS, {"type": "null"}],
            "description": "Until the earliest moment at which it can be done; null when it is"
            " finished, and while a pause keeps it from starting.",
        },
        date_due={
            "anyOf": [ref("schemas", "Date"), {"type": "null"}],
            "description": "That moment; null beyond the year 9999 as well.",
        },
    ),
    "Cancelled": _object(
        {"count": 3}, count={**COUNT, "description": "How many tasks were cancelled."}
    ),
    "Batch": _object(
        {"first": 1, "last": 3, "count": 3, "date_created": DATE},
        first=ref("schemas", "HistoryNum"),
        last=ref("schemas", "HistoryNum"),
        count={**COUNT, "minimum": 1, "description": "How many tasks were added."},
        date_created=ref("schemas", "Date"),
    ),
    "QueueItem": _object(
        ITEM,
        history_num=ref("schemas", "HistoryNum"),
        date_created=ref("schemas", "Date"),
        num=ref("schemas", "Num"),
        timeout=ref("schemas", "Timeout"),
    ),
    "Result": _object(
        RESULT,
        history_num=ref("schemas", "HistoryNum"),
        num=ref("schemas", "Num"),
        date_finished=ref("schemas", "Date"),
    ),
    "QueueList": _object({"tasks": [ITEM]}, tasks=_list_of("QueueItem")),
    "ResultList": _object({"result": [5]}, result=_list_of("Num")),
    "QueuePage": _object({"tasks": [HEAD]}, tasks=_list_of("Task", maxItems=PAGE_MAX)),
    "ResultPage": _object({"results": [RESULT]}, results=_list_of("Result", maxItems=PAGE_MAX)),
    "Queue": _object(
        {
            "depth": 1,
            "oldest_task_age_seconds": 1.25,
            "backlog_seconds": 1.75,
            "paused": False,
            "head": HEAD,
            "pruned": 0,
        },
        depth={**COUNT, "description": "Tasks in the queue, the head included."},
        oldest_task_age_seconds={
            **SECONDS,
            "description": "The age of the first task, 0 when the queue is empty.",
        },
        backlog_seconds={
            **SECONDS,
            "description": "The sum of the waits still ahead, the rest of the head's included.",
        },
        paused={"type": "boolean", "description": "Whether no further task is started."},
        head=_or_null("Task"),
        pruned={**COUNT, "description": "Finished tasks that retention has removed."},
    ),
    "Liveness": _object({"status": "live"}, status={"const": "live"}),
    "Readiness": _object(
        {"status": "ready", "reason": "ok"},
        status={"type": "string", "enum": ["ready", "unready"]},
        reason={"type": "string", "description": "Why, in a few words."},
    ),
    "Fault": _object(
        {"pointer": "/timeout", "message": "This field is required."},
        pointer={
            "type": "string",
            "description": "Where: a JSON pointer (RFC 6901); empty when it is not in the body.",
        },
        message={"type": "string", "description": "What is wrong."},
    ),
}


def new_task(settings: Settings) -> Json:
    """Return the schema of what a client adds; its timeout is limited by a setting."""
    timeout = {
        **SCHEMAS["Timeout"],
        "maximum": seconds(settings.timeout_max_us),
        "examples": [seconds(min(3_000_000, settings.timeout_max_us))],
    }
    example = {"num": ITEM["num"], "timeout": timeout["examples"][0]}
    return _object(example, num=ref("schemas", "Num"), timeout=timeout)


def new_batch(settings: Settings) -> Json:
    """Return the schema of a batch; its length is limited by a setting."""
    example = {"tasks": [new_task(settings)["examples"][0]]}
    return _object(example, tasks=_list_of("NewTask", minItems=1, maxItems=settings.batch_max))


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
        errors=_list_of("Fault", description="What is wrong with the input."),
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
        "headers": {name: ref("headers", name) for name in headers},
        "content": {
            CONTENT_TYPE: {
                "schema": {"allOf": [ref("schemas", "Problem"), narrowed]},
                "examples": {PROBLEMS[kind][0]: {"value": _problem(kind)} for kind in kinds},
            }
        },
    }


# Headers and parameters.

HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-ID": {
        "required": True,
        "description": "The request's own id, or a new one.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~+/=:-]{1,128}$"},
        "example": "order-4711",
    },
    "Location": {
        "required": True,
        "description": "The task's path.",
        "schema": {"type": "string", "pattern": "^/api/v1/tasks/[1-9][0-9]*$"},
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
    return {
        "RequestId": {
            "name": "X-Request-ID",
            "in": "header",
            "description": "An id for the log; comes back if it is 1 to 128 of `A-Za-z0-9._~+/=:-`,"
            " and is replaced otherwise.",
            "schema": {"type": "string"},
        },
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Makes another try safe: an equal request with the same key adds"
            " nothing, and answers what the first was answered.",
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": KEY_MAX,
                "pattern": "^[!-~]+$",
            },
        },
        "HistoryNum": {
            "name": "history_num",
            "in": "path",
            "required": True,
            "schema": ref("schemas", "HistoryNum"),
            "example": 1,
        },
        "Limit": {
            "name": "limit",
            "in": "query",
            "description": "The length of the page.",
            "schema": {**INTEGER, "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
            "example": PAGE_DEFAULT,
        },
        "After": {
            "name": "after",
            "in": "query",
            "description": "The last history number seen, exclusive.",
            "schema": {**COUNT, "maximum": HISTORY_NUM_MAX, "default": 0},
            "example": 0,
        },
        "From": {
            "name": "from",
            "in": "query",
            "required": True,
            "description": "The first history number of the range, inclusive.",
            "schema": ref("schemas", "HistoryNum"),
            "example": 1,
        },
        "To": {
            "name": "to",
            "in": "query",
            "required": True,
            "description": "The last one, inclusive; it may lie beyond the end of the queue.",
            "schema": ref("schemas", "HistoryNum"),
            "example": 3,
        },
        "Wait": {
            "name": "wait",
            "in": "query",
            "description": "Hold the answer for so many seconds, or until the task is finished, or"
            " the service stops.",
            "schema": {**SECONDS, "maximum": WAIT_MAX, "default": 0},
            "example": 0,
        },
        "LastEventId": {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The id of the last message that was received: the stream goes on behind"
            " it, without gaps or doubles.",
            "schema": {"type": "string", "pattern": r"^([0-9]{1,18}\.[0-9]{1,18})?$"},
        },
        **{name: _file_parameter(names) for name, names in files.items()},
    }


# Answers.

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
    media: Json = {"schema": ref("schemas", name)}
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
        "headers": {name: ref("headers", name) for name in names},
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
