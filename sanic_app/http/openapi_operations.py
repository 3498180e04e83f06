"""The operations of the OpenAPI document: what each route takes, and all that it may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sanic_app import errors
from sanic_app.errors import ServiceError
from sanic_app.http.schemas import DONE, SCHEMAS, readiness_object, task_object
from sanic_app.http.shape import Json, ref
from sanic_app.task import State

Errors = tuple[type[ServiceError], ...]

# Which routes can answer with which problems.
OPEN: Final[Errors] = (
    errors.Invalid,
    errors.MethodNotAllowed,
    errors.RequestTimeout,
    errors.TooLarge,
    errors.Internal,
)
GUARDED: Final[Errors] = (*OPEN, errors.Forbidden)
SECURED: Final[Errors] = (*GUARDED, errors.Unauthorized)
READING: Final[Errors] = (*SECURED, errors.StoreUnavailable)
WRITING: Final[Errors] = (
    errors.OutcomeUnknown,
    errors.Stopping,
    errors.StoreUnavailable,
    errors.DiskFull,
)
CHANGING: Final[Errors] = (*SECURED, *WRITING)
ADDING: Final[Errors] = (
    *SECURED,
    errors.MediaType,
    errors.KeyReused,
    errors.QueueFull,
    *WRITING,
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler takes, and all that it may answer."""

    answers: Mapping[int, Json]
    errors: Errors
    parameters: Sequence[str] = ()
    body: str = ""


def _answer(description: str, content: Json | None, *headers: str) -> Json:
    found: Json = {
        "description": description,
        "headers": {name: ref(name, "headers") for name in ("X-Request-ID", *headers)},
    }
    return found if content is None else {**found, "content": content}


def _json(description: str, name: str, *headers: str, example: Json | None = None) -> Json:
    example = example or SCHEMAS[name]["examples"][0]
    content = {"application/json": {"schema": ref(name), "example": example}}
    return _answer(description, content, *headers)


def _text(*media_types: str) -> Json:
    return {media_type: {"schema": {"type": "string"}} for media_type in media_types}


def _file(description: str, content: Json) -> Mapping[int, Json]:
    unchanged = "It is still the one with the ETag in `If-None-Match`."
    return {200: _answer(description, content, "ETag"), 304: _answer(unchanged, None, "ETag")}


def _added(*headers: str) -> Json:
    parameters = {"history_num": "$response.body#/history_num"}
    return {
        **_json("The task, on disk.", "Task", *headers, "Idempotent-Replayed"),
        "links": {"task": {"operationId": "getTask", "parameters": parameters}},
    }


def _ok(
    description: str, name: str, *headers: str, example: Json | None = None
) -> Mapping[int, Json]:
    return {200: _json(description, name, *headers, example=example)}


def _adding(answers: Mapping[int, Json], body: str) -> Operation:
    return Operation(answers, ADDING, ("IdempotencyKey",), body)


_EVENTS: Final[Json] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Server-sent events `added`, `started`, `finished` (cancelled too),"
            ' `paused` and `resumed`: one for each kind and commit, its data `{"tasks": [...]}`.'
            ' Beyond 20 messages a second or 1,000 tasks in one: `{"first", "last", "count"}`,'
            " the history numbers of the first and the last, and how many there were. An added task"
            " is shown as it is when the message is sent. Of several starts the newest is told."
            " `reset`: what comes next was removed, or `Last-Event-ID` is of another queue, such as"
            " the one that this is a copy of, as its `reason` says (`removed`, `another`); look at"
            " the lists anew.",
        },
        "example": 'id: 6f2c1d3b8a7e4c5f9b0a1d2e3f405162.1.0\nevent: added\ndata: {"tasks":[]}\n\n',
    }
}
_QUEUE: Final = _ok("Figures, and the head.", "Queue", "X-Node")
_CANCELLED: Final = task_object(DONE._replace(state=State.CANCELLED))
_UNREADY: Final = readiness_object((False, "stopping"))

OPERATIONS: Final[Mapping[str, Operation]] = {
    "add_task_classic": _adding({200: _added()}, "NewTask"),
    "list_queue": Operation(_ok("The queue.", "QueueList"), READING),
    "list_results": Operation(_ok("The result list.", "ResultList"), READING),
    "add_task": _adding({201: _added("Location")}, "NewTask"),
    "add_tasks": _adding(
        {201: _json("The tasks, on disk.", "Batch", "Idempotent-Replayed")}, "NewBatch"
    ),
    "cancel_tasks": Operation(
        _ok("How many were cancelled.", "Cancelled"), CHANGING, ("From", "To")
    ),
    "get_queue_page": Operation(
        _ok("A page of the queue.", "QueuePage", "Link"), READING, ("Limit", "After")
    ),
    "cancel_task": Operation(
        _ok("The task, cancelled.", "Task", example=_CANCELLED),
        (*CHANGING, errors.NotFound, errors.AlreadyFinished, errors.Gone),
        ("HistoryNum",),
    ),
    "get_task": Operation(
        _ok("The task.", "PlacedTask"),
        (*READING, errors.NotFound, errors.Gone),
        ("HistoryNum", "Wait"),
    ),
    "get_result_page": Operation(
        _ok("A page of the result list.", "ResultPage", "Link"), READING, ("Limit", "After")
    ),
    "get_queue": Operation(_QUEUE, READING),
    "pause_queue": Operation(_QUEUE, CHANGING),
    "resume_queue": Operation(_QUEUE, CHANGING),
    "listen": Operation(
        {200: _answer("Messages, until the service stops.", _EVENTS)},
        (*SECURED, errors.Stopping, errors.TooBusy),
        ("LastEventId",),
    ),
    "get_metrics": Operation(
        {
            200: _answer(
                "Every series, in the format that `Accept` prefers, whose `version` comes along.",
                _text("text/plain", "application/openmetrics-text"),
            )
        },
        SECURED,
    ),
    "get_liveness": Operation(_ok("It lives.", "Liveness"), OPEN),
    "get_readiness": Operation(
        {
            200: _json("It can do its work.", "Readiness"),
            503: _json("It cannot.", "Readiness", example=_UNREADY),
        },
        OPEN,
    ),
    "get_page": Operation(_file("The page.", _text("text/html")), GUARDED),
    "get_page_file": Operation(
        _file("The file.", _text("text/javascript", "text/css", "image/svg+xml")),
        (*GUARDED, errors.NotFound),
        ("PageFile",),
    ),
    "get_docs": Operation(_file("The page.", _text("text/html")), GUARDED),
    "get_document": Operation(
        _file("This document.", {"application/json": {"schema": {"type": "object"}}}), GUARDED
    ),
    "get_docs_file": Operation(
        _file("The file.", {**_text("text/javascript", "text/css"), "image/png": {}}),
        (*GUARDED, errors.NotFound),
        ("File",),
    ),
}
"""By the name of the handler, from whose route method, path and tag follow."""

TEXTS: Final[Mapping[str, str]] = {
    "add_task_classic": """Add a task to the end of the queue.
The answer comes when the task is on disk. It is the same as that of `POST /api/v1/tasks`, but with
status 200 and without `Location`.""",
    "list_queue": """Show the whole queue, in order.
Every task of the queue with the four fields of the sample application. A long list is sent in
pieces; `GET /api/v1/tasks` has pages.""",
    "list_results": """Show the whole result list, in order.
The number of every done task, in the order of finishing. A long list is sent in pieces; `GET
/api/v1/results` has pages.""",
    "add_task": """Add a task to the end of the queue.
The answer comes when the task is on disk. With an `Idempotency-Key` the request can be sent again
safely.""",
    "add_tasks": """Add tasks to the end of the queue, one behind the other, all or none.
Either all tasks are added, with consecutive history numbers, or none. With an `Idempotency-Key` the
request can be sent again safely.""",
    "cancel_tasks": """\
Cancel the tasks of the queue whose history numbers lie in a range, its ends included.
Finished tasks and numbers beyond the end of the queue are skipped. A large range is cancelled in
several commits, from its end.""",
    "get_queue_page": """Show a page of the queue.
Tasks with history numbers above `after`, in order. While there are more, `Link` has the next
page.""",
    "cancel_task": """Cancel one task: its number never reaches the result list.
The head can be cancelled too; then the next task starts. A cancelled task stays in the history.""",
    "get_task": """\
Show one task in any state, its place, and when it is due; or wait until it is finished.
With `wait`, the answer comes when the task is finished, or when the time is over: `date_finished`
tells which.""",
    "get_result_page": """Show a page of the result list.
Done tasks with history numbers above `after`, in the order of finishing. While there are more,
`Link` has the next page.""",
    "get_queue": """Show what the queue is doing.
All figures belong to the same moment. The answer takes the same time, however long the queue
is.""",
    "pause_queue": """Pause the queue: the head's wait goes on and ends, no further task starts.
A pause outlives a restart. Pausing a paused queue changes nothing.""",
    "resume_queue": """Resume the queue: its first task starts.
Resuming a queue that is not paused changes nothing.""",
    "listen": """Tell what happens, as server-sent events, from `Last-Event-ID` on or from now.
The stream goes on until the client or the service ends it. After a lost connection, send the last
id as `Last-Event-ID`: nothing is missed, even over a restart.""",
    "get_metrics": """Show every series, as Prometheus text or OpenMetrics.
A scrape takes the same time, however long the queue is. `METRICS_TOKEN` is accepted as well as the
API token.""",
    "get_liveness": """Answer while the event loop does; touches no store.
For a supervisor that restarts a service which does not answer. It needs no token.""",
    "get_readiness": """Say whether the service can do its work, and why not.
For a load balancer. A full disk, a full queue and a pause are ready, with the reason. It needs no
token.""",
    "get_page": """Show the queue as a page that follows it.
HTML, which loads only files of this service.""",
    "get_page_file": """Show a script, the style sheet or the icon of the page.
Files have an `ETag`.""",
    "get_docs": """Show this documentation as a page.
Swagger UI, which works without internet access.""",
    "get_document": """Show this documentation as OpenAPI 3.1.
It describes this service with its settings: limits, token, `BASE_PATH`.""",
    "get_docs_file": """Show a script, the style sheet or the icon of the page.
Files have an `ETag`.""",
}
"""A line that sums up what a handler does, then what that line does not say."""
