"""The OpenAPI document, made from the operations, the shapes and the problems.

It uses sanic-ext's builder, but not its extension: that adds a route which builds the document
again for every request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sanic import Sanic
from sanic_ext.extensions.openapi.builders import SpecificationBuilder

from sanic_app import __version__, errors
from sanic_app.errors import Fault, Invalid, ServiceError
from sanic_app.http import routes
from sanic_app.http.openapi_operations import (
    ADDING,
    OPERATIONS,
    SECURED,
    TEXTS,
    Errors,
    Operation,
)
from sanic_app.http.openapi_parameters import HEADERS, PARAMETERS, file_parameter, path_headers
from sanic_app.http.problems import (
    CONTENT_TYPE,
    PROBLEMS,
    URN,
    headers_of,
    problem_document,
    problem_object,
)
from sanic_app.http.schemas import SCHEMAS, fault_object, new_batch, new_task
from sanic_app.http.shape import Json, ref
from sanic_app.settings import Settings

INFO: Final[Json] = {
    "title": "sanic-app",
    "version": __version__,
    "description": """\
A durable queue that works through its tasks one at a time, in order.

A **task** is a number and a **timeout**. The first task of the queue is started and becomes the
**head**; after its **wait** of `timeout` seconds it is **done**, and its number is appended to the
**result list**. A task that was acknowledged is on disk.

Times are RFC 3339 in UTC with microseconds. Integers are written as integers: `1.0` is none.
Unknown fields, unknown query parameters and keys that stand twice are refused.
""",
}
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


def document(app: Sanic[Any, Any], settings: Settings, files: Mapping[str, Iterable[str]]) -> Json:
    """Return the document.

    ``files`` has the names of the files of both pages, by the parameter that selects one.
    """
    paths: dict[str, Json] = {}
    handlers = _handlers(app)
    for name, operation in OPERATIONS.items():
        tag, method, path = handlers[name]
        token = settings.api_token or (path == routes.METRICS and settings.metrics_token)
        described = _operation(tag, name, operation, secured=bool(token))
        paths.setdefault(path, {})[method.lower()] = described
    # The builder is a singleton and would remember other applications.
    SpecificationBuilder.reset()
    builder = SpecificationBuilder()
    builder.raw(
        {
            "info": INFO,
            "servers": [{"url": settings.base_path or "/", "description": "This service."}],
            "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
            "paths": dict(sorted(paths.items())),
            "components": _components(settings, files),
        }
    )
    found: Json = builder.build(app).serialize()
    # sanic-ext writes 3.0.3, but the document is 3.1.
    found["openapi"] = "3.1.0"
    found["info"] |= {
        "license": {"name": "MIT", "identifier": "MIT"},
        "contact": {"name": "The sanic-app authors"},
    }
    return {name: part for name, part in found.items() if part}


def _handlers(app: Sanic[Any, Any]) -> dict[str, tuple[str, str, str]]:
    """Return tag, method and path of each handler by its name."""
    found = {}
    for route in app.router.routes:
        _, tag, name = route.name.split(".")
        (method,) = route.methods - {"HEAD"}
        found[name] = (tag, method, routes.template(f"/{route.path}"))
    return found


def _operation(tag: str, name: str, operation: Operation, *, secured: bool) -> Json:
    summary, _, description = TEXTS[name].partition("\n")
    refusals = operation.errors
    security: list[Json] = []
    if errors.Unauthorized in refusals:
        security.append({"bearer": []})
        if not secured:
            # No token is configured: none is needed, and one that is sent is ignored.
            security.insert(0, {})
            refusals = tuple(kind for kind in refusals if kind is not errors.Unauthorized)
    answers = dict(operation.answers)
    for status, kinds in _by_status(refusals).items():
        answers[status] = ref(_name(kinds), "responses")
    body = {"required": True, "content": {"application/json": {"schema": ref(operation.body)}}}
    found = {
        "tags": [tag],
        "security": security,
        "parameters": [ref(name, "parameters") for name in ("RequestId", *operation.parameters)],
        "responses": {str(status): answers[status] for status in sorted(answers)},
        "operationId": re.sub("_(.)", lambda match: match[1].upper(), name),
        "summary": summary,
        "description": description.replace("\n", " "),
        "requestBody": operation.body and body,
    }
    # An empty list of security says that the operation is open, which is not the same as no list.
    return {name: part for name, part in found.items() if part or name == "security"}


def _components(settings: Settings, files: Mapping[str, Iterable[str]]) -> Json:
    secured = settings.api_token or settings.metrics_token
    refusals = [
        (status, kinds)
        for operation in OPERATIONS.values()
        for status, kinds in _by_status(operation.errors).items()
        if secured or errors.Unauthorized not in kinds
    ]
    headers = {**HEADERS, **path_headers(settings.base_path)}
    if not secured:
        del headers["WWW-Authenticate"]
    return {
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "description": "API_TOKEN; for the metrics, METRICS_TOKEN does too.",
                "scheme": "bearer",
            }
        },
        "schemas": {
            **SCHEMAS,
            "NewTask": new_task(settings.timeout_max_us).schema,
            "NewBatch": new_batch(settings.timeout_max_us, settings.batch_limit).schema,
            "Problem": problem_object.schema,
            **{_problem_name(kinds): _problem(status, kinds) for status, kinds in refusals},
        },
        "responses": {_name(kinds): _refusal(kinds) for _, kinds in refusals},
        "headers": headers,
        "parameters": {
            **PARAMETERS,
            **{name: file_parameter(names) for name, names in files.items()},
        },
    }


# Problems. Those of an operation with the same status share one answer.


def _by_status(kinds: Iterable[type[ServiceError]]) -> dict[int, Errors]:
    found: dict[int, Errors] = {}
    for kind in kinds:
        status = PROBLEMS[kind].status
        found[status] = (*found.get(status, ()), kind)
    return found


def _name(kinds: Errors) -> str:
    """Return the name of the answer. It depends on the types, not on our class names."""
    slugs = (PROBLEMS[kind].slug.replace("timeout", "request-timeout") for kind in kinds)
    return "Or".join(slug.title().replace("-", "") for slug in slugs)


def _problem_name(kinds: Errors) -> str:
    return f"{_name(kinds)}Problem"


def _problem(status: int, kinds: Errors) -> Json:
    """Return the schema of the problems that share an answer.

    It has a name, so that client generators make one class of it and not one for each operation.
    They want each property with its type, and don't know ``const`` of an integer.
    """
    types = [URN + PROBLEMS[kind].slug for kind in kinds]
    narrowed = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": types},
            "status": {"type": "integer", "enum": [status]},
        },
    }
    return {"allOf": [ref("Problem"), narrowed]}


def _refusal(kinds: Errors) -> Json:
    own = [headers_of(kind()) for kind in kinds]
    headers = ["X-Request-ID", *(name for name in own[0] if all(name in each for each in own))]
    return {
        "description": " Or: ".join(kind.text for kind in kinds),
        "headers": {name: ref(name, "headers") for name in headers},
        "content": {
            CONTENT_TYPE: {
                "schema": ref(_problem_name(kinds)),
                "examples": {PROBLEMS[kind].slug: {"value": _example(kind)} for kind in kinds},
            }
        },
    }


def _example(kind: type[ServiceError]) -> Json:
    """Return an example. It says whether the write was applied if only writes get this problem."""
    error = Invalid(Fault(**fault_object.example)) if kind is Invalid else kind()
    return problem_document(error, write=kind in ADDING and kind not in SECURED)
