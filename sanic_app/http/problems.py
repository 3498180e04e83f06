"""Turns exceptions into ``application/problem+json`` answers (RFC 9457).

Clients never see the text of an unexpected exception, a traceback or a path.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from sanic import HTTPResponse, Request
from sanic import exceptions as framework

from sanic_app import errors
from sanic_app.errors import Fault, Invalid, MethodNotAllowed, ServiceError
from sanic_app.http import routes
from sanic_app.http.schemas import fault_object
from sanic_app.http.shape import Field, Json, Shape, list_of
from sanic_app.metrics import METHODS, REFUSALS

CONTENT_TYPE: Final = "application/problem+json"
URN: Final = "urn:sanic-app:problem:"


class Kind(NamedTuple):
    """A problem that clients can get."""

    slug: str
    """The last part of its type."""
    status: int
    title: str


PROBLEMS: Final[Mapping[type[ServiceError], Kind]] = {
    errors.Invalid: Kind("invalid", 400, "Invalid request"),
    errors.Unauthorized: Kind("unauthorized", 401, "Unauthorized"),
    errors.Forbidden: Kind("forbidden", 403, "Forbidden"),
    errors.NotFound: Kind("not-found", 404, "Not found"),
    errors.MethodNotAllowed: Kind("method-not-allowed", 405, "Method not allowed"),
    errors.RequestTimeout: Kind("timeout", 408, "Request timeout"),
    errors.AlreadyFinished: Kind("finished", 409, "Task finished"),
    errors.Gone: Kind("gone", 410, "Gone"),
    errors.TooLarge: Kind("too-large", 413, "Request too large"),
    errors.MediaType: Kind("media-type", 415, "Unsupported media type"),
    errors.KeyReused: Kind("key-reused", 422, "Idempotency key reused"),
    errors.Internal: Kind("internal", 500, "Internal error"),
    errors.OutcomeUnknown: Kind("outcome-unknown", 500, "Outcome unknown"),
    errors.QueueFull: Kind("queue-full", 503, "Queue full"),
    errors.Stopping: Kind("stopping", 503, "Service stopping"),
    errors.StoreUnavailable: Kind("store-unavailable", 503, "Store unavailable"),
    errors.TooBusy: Kind("too-busy", 503, "Too busy"),
    errors.DiskFull: Kind("disk-full", 507, "Disk full"),
}

problem_object: Final[Shape[ServiceError]] = Shape(
    Invalid(Fault("/timeout", "This field is required.")),
    Field(
        "type",
        {"type": "string", "enum": [URN + kind.slug for kind in PROBLEMS.values()]},
        lambda error: URN + PROBLEMS[type(error)].slug,
    ),
    Field("title", {"type": "string"}, lambda error: PROBLEMS[type(error)].title),
    Field(
        "status",
        {"type": "integer", "enum": sorted({kind.status for kind in PROBLEMS.values()})},
        lambda error: PROBLEMS[type(error)].status,
    ),
    Field("detail", {"type": "string"}, lambda error: error.detail, "One sentence."),
    Field(
        "applied",
        # Not an enum: client generators want types that they know.
        {"type": ["boolean", "null"]},
        lambda error: error.applied,
        "On writes alone: `false` says that nothing was applied, and `null` that this is not"
        " known; an idempotency key makes another try safe.",
    ),
    Field(
        "errors",
        list_of("Fault"),
        lambda error: [fault_object(fault) for fault in getattr(error, "faults", ())],
        "What is wrong with the input.",
    ),
    optional=("applied", "errors"),
)

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

log = logging.getLogger(__name__)


def answer(request: Request, exception: Exception) -> HTTPResponse:
    """Answer with the problem, and count it: the framework's handler for every exception.

    OPTIONS has no handlers: it is answered here, where the methods of a path are known.
    """
    if isinstance(exception, framework.MethodNotAllowed):
        exception = MethodNotAllowed(_allowed_methods(request))
        if request.method == "OPTIONS":
            return HTTPResponse(status=204, headers=headers_of(exception))
    error, response = problem(request, exception)
    label = metric_label(error)
    if request.method == "POST" and request.path.rstrip("/") in routes.ADDS and label in REFUSALS:
        request.app.ctx.metrics.adds_refused[label].inc()
    if request.stream is not None:
        connection: Any = request.stream.protocol
        connection.observe_error(request, response)
    return response


def _allowed_methods(request: Request) -> tuple[str, ...]:
    """Return the methods of the path's routes; the framework knows them for some paths only.

    OPTIONS is one of them everywhere.
    """
    if request.path == "*":
        # The target of an OPTIONS that means the whole server (RFC 9110, 9.3.7).
        every = (route.methods for route in request.app.router.routes)
        return tuple(sorted({"OPTIONS"}.union(*every)))
    found = {"OPTIONS"}
    for method in METHODS:
        with suppress(framework.NotFound, framework.MethodNotAllowed):
            request.app.router.get(request.path, method, None)
            found.add(method)
    return tuple(sorted(found))


def problem(request: Request, exception: BaseException) -> tuple[ServiceError, HTTPResponse]:
    """Return the exception as one of ours, and the answer to the client."""
    error = _as_service_error(exception)
    body = json.dumps(problem_document(error, write=request.method not in SAFE_METHODS))
    status = PROBLEMS[type(error)].status
    response = HTTPResponse(body, status, headers=headers_of(error), content_type=CONTENT_TYPE)
    return error, response


def problem_document(error: ServiceError, *, write: bool) -> Json:
    """Return the JSON of a problem; only that of a write says whether it was applied."""
    found = problem_object(error)
    if not write:
        del found["applied"]
    if not isinstance(error, Invalid):
        del found["errors"]
    return found


def metric_label(error: ServiceError) -> str:
    """Return the problem's name as the value of a metric's label."""
    return PROBLEMS[type(error)].slug.replace("-", "_")


def headers_of(error: ServiceError) -> dict[str, str]:
    """Return the headers that come with a problem."""
    headers = {}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allow)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return headers


def _as_service_error(exception: BaseException) -> ServiceError:
    match exception:
        case ServiceError() if type(exception) in PROBLEMS:
            return exception
        case framework.MethodNotAllowed():
            return MethodNotAllowed(tuple(sorted(exception.allowed_methods or ())))
        case framework.NotFound():
            return errors.NotFound()
        case framework.RequestTimeout() | framework.RequestCancelled():
            # The second one's client is gone, and nobody reads the answer.
            return errors.RequestTimeout()
        case framework.PayloadTooLarge():
            return errors.TooLarge()
        case framework.BadRequest() | framework.ExpectationFailed():
            return Invalid(detail="The request is not valid HTTP.")
        case errors.StoreFailed():
            # The queue has said so already, and ends the process.
            return errors.Internal()
    log.error("a request failed", exc_info=exception)
    return errors.Internal()
