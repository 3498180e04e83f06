"""The OpenAPI document: what each route takes, and everything that it may answer.

``OPERATIONS`` has an entry for each route, made of ``openapi_parts``. sanic-ext walks the routes
and assembles the document. Its builders are used and not its extension, which would add a route
that builds the document anew for each request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, Final

from sanic import Sanic
from sanic_ext.extensions.openapi.builders import OperationBuilder, SpecificationBuilder
from sanic_ext.utils.route import get_all_routes

from sanic_app import __version__, errors
from sanic_app.http.openapi_parts import (
    ADDING,
    CANCELLED,
    CHANGING,
    EVENTS,
    GUARDED,
    HEADERS,
    OPEN,
    SECURED,
    Errors,
    added_answer,
    answer,
    by_status,
    file_answers,
    json_content,
    parameters,
    problem_schema,
    refusal,
    shared_name,
    text_content,
)
from sanic_app.http.schemas import SCHEMAS, new_batch, new_task
from sanic_app.http.shape import Json, ref
from sanic_app.settings import Settings

VERSION: Final = "3.1.0"
TITLE: Final = "sanic-app"
DESCRIPTION: Final = """\
A durable queue that works through its tasks one at a time, in order.

A **task** is a number and a **timeout**. The first task of the queue is started and becomes the
**head**; after its **wait** of `timeout` seconds it is **done**, and its number is appended to the
**result list**. A task that was acknowledged is on disk.

Times are RFC 3339 in UTC with microseconds. Integers are written as integers: `1.0` is none.
Unknown fields, unknown query parameters and keys that stand twice are refused.
"""
TAGS: Final[Mapping[str, str]] = {
    "classic": "Add a task; the whole queue; the whole result list.",
    "tasks": "Add a task; one task; the queue in pages; cancel.",
    "results": "The result list in pages.",
    "queue": "The queue as a whole; pause and resume.",
    "events": "What happens, as it happens.",
    "operations": "Metrics and health.",
    "page": "The queue, live, in a browser.",
    "docs": "This documentation.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; its summary is its handler's docstring."""

    name: str
    tag: str
    answers: Mapping[int, Json]
    errors: Errors
    parameters: Sequence[str] = ()
    body: str | None = None


def document(app: Sanic[Any, Any], settings: Settings, files: Mapping[str, Iterable[str]]) -> Json:
    """Return the document of the application's routes.

    ``files`` are those of its two pages, by the name of the parameter that asks for one.
    """
    # The builder is one for the process, and would remember other applications.
    SpecificationBuilder.reset()
    specification = SpecificationBuilder()
    specification.describe(TITLE, __version__, DESCRIPTION)
    specification.add_security_scheme(
        "bearer",
        "http",
        scheme="bearer",
        description="API_TOKEN; for the metrics, METRICS_TOKEN does too.",
    )
    for name, text in TAGS.items():
        specification.tag(name, text)
    for kind, parts in _components(settings, files).items():
        for name, part in parts.items():
            specification.add_component(kind, name, part)
    for path, _, _, handlers, _ in sorted(get_all_routes(app, "/-")):
        for method, handler in handlers:
            if (operation := OPERATIONS.get(f"{method} {path}")) is not None:
                token = settings.api_token or (path == "/metrics" and settings.metrics_token)
                builder = _operation(operation, getdoc(handler) or "", secured=bool(token))
                builder._app = app  # noqa: SLF001 - how the specification tells applications apart
                specification.operation(path, method, builder)
    found: Json = specification.build(app).serialize()
    return _corrected(found)


def _corrected(document: Json) -> Json:
    """Make it OpenAPI 3.1, which it is but for the number; sanic-ext knows 3.0 alone."""
    document["openapi"] = VERSION
    document["info"]["license"] = {"name": "MIT", "identifier": "MIT"}
    return {name: part for name, part in document.items() if part}


def _operation(operation: Operation, docstring: str, *, secured: bool) -> OperationBuilder:
    """Return sanic-ext's builder of the operation.

    The builder's own definitions know no headers, links or examples, so that it gets whole parts.
    """
    builder = OperationBuilder()
    builder.name(operation.name)
    builder.describe(docstring.partition("\n")[0])
    builder.tag(operation.tag)
    refusals = operation.errors
    if errors.Unauthorized in refusals:
        if secured:
            builder.secured("bearer")
        else:
            # No token is configured: none is asked for, and one that is sent does no harm.
            refusals = tuple(kind for kind in refusals if kind is not errors.Unauthorized)
            builder.secured()
            builder.secured("bearer")
    answers = dict(operation.answers)
    for status, kinds in by_status(refusals).items():
        answers[status] = ref(shared_name(kinds), "responses")
    parts: Json = {
        "parameters": [ref(name, "parameters") for name in ("RequestId", *operation.parameters)],
        "responses": {str(status): answers[status] for status in sorted(answers)},
    }
    if operation.body is not None:
        parts["requestBody"] = {"required": True, "content": json_content(operation.body)}
    vars(builder).update(parts)
    return builder


def _components(
    settings: Settings, files: Mapping[str, Iterable[str]]
) -> dict[str, Mapping[str, Json]]:
    return {
        "schemas": {
            **SCHEMAS,
            "NewTask": new_task(settings.timeout_max_us).schema,
            "NewBatch": new_batch(settings.timeout_max_us, settings.batch_max).schema,
            "Problem": problem_schema(),
        },
        "responses": _refusals(),
        "headers": HEADERS,
        "parameters": parameters(files),
    }


def _refusals() -> dict[str, Json]:
    """Return an answer for each status and each set of problems that share it on a route."""
    return {
        shared_name(kinds): refusal(status, kinds)
        for operation in OPERATIONS.values()
        for status, kinds in by_status(operation.errors).items()
    }


OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /add_task": Operation(
        "addTaskClassic", "classic", {200: added_answer()}, ADDING, ("IdempotencyKey",), "NewTask"
    ),
    "GET /get_queue_work": Operation(
        "listQueue", "classic", {200: answer("The queue.", json_content("QueueList"))}, SECURED
    ),
    "GET /get_result": Operation(
        "listResults",
        "classic",
        {200: answer("The result list.", json_content("ResultList"))},
        SECURED,
    ),
    "POST /api/v1/tasks": Operation(
        "addTask", "tasks", {201: added_answer("Location")}, ADDING, ("IdempotencyKey",), "NewTask"
    ),
    "POST /api/v1/tasks/batch": Operation(
        "addTasks",
        "tasks",
        {201: answer("The tasks, on disk.", json_content("Batch"), "Idempotent-Replayed")},
        ADDING,
        ("IdempotencyKey",),
        "NewBatch",
    ),
    "GET /api/v1/tasks": Operation(
        "getQueuePage",
        "tasks",
        {200: answer("A page of the queue.", json_content("QueuePage"), "Link")},
        SECURED,
        ("Limit", "After"),
    ),
    "GET /api/v1/tasks/{history_num}": Operation(
        "getTask",
        "tasks",
        {200: answer("The task.", json_content("PlacedTask"))},
        (*SECURED, errors.NotFound, errors.Gone),
        ("HistoryNum", "Wait"),
    ),
    "DELETE /api/v1/tasks": Operation(
        "cancelTasks",
        "tasks",
        {200: answer("How many were cancelled.", json_content("Cancelled"))},
        CHANGING,
        ("From", "To"),
    ),
    "DELETE /api/v1/tasks/{history_num}": Operation(
        "cancelTask",
        "tasks",
        {200: answer("The task, cancelled.", json_content("Task", CANCELLED))},
        (*CHANGING, errors.NotFound, errors.AlreadyFinished, errors.Gone),
        ("HistoryNum",),
    ),
    "GET /api/v1/results": Operation(
        "getResultPage",
        "results",
        {200: answer("A page of the result list.", json_content("ResultPage"), "Link")},
        SECURED,
        ("Limit", "After"),
    ),
    "GET /api/v1/queue": Operation(
        "getQueue", "queue", {200: answer("Figures, and the head.", json_content("Queue"))}, SECURED
    ),
    "POST /api/v1/queue/pause": Operation(
        "pauseQueue",
        "queue",
        {200: answer("Figures, and the head.", json_content("Queue"))},
        CHANGING,
    ),
    "POST /api/v1/queue/resume": Operation(
        "resumeQueue",
        "queue",
        {200: answer("Figures, and the head.", json_content("Queue"))},
        CHANGING,
    ),
    "GET /api/v1/events": Operation(
        "listen",
        "events",
        {200: answer("Messages, until the service stops.", EVENTS)},
        (*SECURED, errors.Stopping),
        ("LastEventId",),
    ),
    "GET /metrics": Operation(
        "getMetrics",
        "operations",
        {
            200: answer(
                "Every series, in the format that `Accept` prefers, whose `version` comes along.",
                text_content("text/plain", "application/openmetrics-text"),
            )
        },
        SECURED,
    ),
    "GET /health/live": Operation(
        "getLiveness", "operations", {200: answer("It lives.", json_content("Liveness"))}, OPEN
    ),
    "GET /health/ready": Operation(
        "getReadiness",
        "operations",
        {
            200: answer("It can do its work.", json_content("Readiness")),
            503: answer(
                "It cannot.", json_content("Readiness", {"status": "unready", "reason": "stopping"})
            ),
        },
        OPEN,
    ),
    "GET /": Operation(
        "getPage", "page", file_answers("The page.", text_content("text/html")), GUARDED
    ),
    "GET /page/{file}": Operation(
        "getPageFile",
        "page",
        file_answers("The file.", text_content("text/javascript", "text/css", "image/svg+xml")),
        (*GUARDED, errors.NotFound),
        ("PageFile",),
    ),
    "GET /api/docs": Operation(
        "getDocs", "docs", file_answers("The page.", text_content("text/html")), GUARDED
    ),
    "GET /api/docs/openapi.json": Operation(
        "getDocument",
        "docs",
        file_answers("This document.", {"application/json": {"schema": {"type": "object"}}}),
        GUARDED,
    ),
    "GET /api/docs/{file}": Operation(
        "getDocsFile",
        "docs",
        file_answers("The file.", {**text_content("text/javascript", "text/css"), "image/png": {}}),
        (*GUARDED, errors.NotFound),
        ("File",),
    ),
}
"""What stands in the document about each route, by method and path."""
