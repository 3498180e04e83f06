"""Exceptions become problem documents, and nothing of the service's inside gets out."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sanic import Request, Sanic
from sanic import exceptions as framework
from sanic.compat import Header

from sanic_app import errors
from sanic_app.errors import Fault, Invalid, MethodNotAllowed, ServiceError
from sanic_app.http.problems import PROBLEMS, metric_label, problem

ROOT = Path(__file__).parents[1]

CONTRACT = {
    "invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "timeout": 408,
    "finished": 409,
    "gone": 410,
    "too-large": 413,
    "media-type": 415,
    "key-reused": 422,
    "internal": 500,
    "outcome-unknown": 500,
    "queue-full": 503,
    "store-unavailable": 503,
    "too-busy": 503,
    "stopping": 503,
    "disk-full": 507,
}
"""The problems of README.md, "HTTP"."""


@pytest.fixture(scope="module")
def app() -> Iterator[Sanic[Any, Any]]:
    app = Sanic("problems", configure_logging=False)
    yield app
    Sanic.unregister_app(app)


@pytest.fixture
def ask(app: Sanic[Any, Any]) -> Any:
    """Return a function that answers an exception as a request of that method would see it."""

    def answer(exception: BaseException, method: str = "POST") -> tuple[dict[str, Any], Any]:
        request = Request(b"/add_task", Header(), "1.1", method, cast("Any", None), app)
        _, response = problem(request, exception)
        assert response.body is not None
        document = json.loads(response.body)
        assert response.status == document["status"]
        assert response.content_type == "application/problem+json"
        return document, response

    return answer


def make(kind: type[ServiceError]) -> ServiceError:
    return MethodNotAllowed(("GET", "POST")) if kind is MethodNotAllowed else kind()


def test_the_types_are_those_of_the_contract() -> None:
    assert {slug: status for slug, status, _ in PROBLEMS.values()} == CONTRACT
    assert len(PROBLEMS) == len(CONTRACT), "two exceptions share a type"


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
def test_each_problem_has_its_type_title_status_and_detail(
    kind: type[ServiceError], ask: Any
) -> None:
    document, response = ask(make(kind))
    slug, status, title = PROBLEMS[kind]
    assert document["type"] == f"urn:sanic-app:problem:{slug}"
    assert document["title"] == title != ""
    assert document["status"] == status
    assert document["detail"] == kind.text
    fields = {"type", "title", "status", "detail", "applied"}
    assert document.keys() == fields | ({"errors"} if kind is Invalid else set())
    assert ("Retry-After" in response.headers) == (status in (503, 507))
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
def test_only_what_is_unknown_says_that_it_is(kind: type[ServiceError], ask: Any) -> None:
    document, response = ask(make(kind))
    unknown = kind in (errors.Internal, errors.OutcomeUnknown)
    assert document["applied"] is (None if unknown else False)
    # Whether to try again is no question of time when the outcome is not known.
    assert not (unknown and "Retry-After" in response.headers)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_writes_nothing_says_nothing_of_writing(method: str, ask: Any) -> None:
    document, _ = ask(errors.NotFound(), method)
    assert "applied" not in document


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "ZZZ"])
def test_what_could_write_says_that_it_did_not(method: str, ask: Any) -> None:
    document, _ = ask(errors.NotFound(), method)
    assert document["applied"] is False


def test_an_invalid_request_lists_each_fault(ask: Any) -> None:
    faults = [Fault("/num", "Bad."), Fault("", 'Worse: "\n".')]
    document, _ = ask(Invalid(*faults))
    assert document["errors"] == [
        {"pointer": "/num", "message": "Bad."},
        {"pointer": "", "message": 'Worse: "\n".'},
    ]


def test_a_bearer_is_asked_for_and_methods_are_named(ask: Any) -> None:
    assert ask(errors.Unauthorized())[1].headers["WWW-Authenticate"] == "Bearer"
    assert ask(MethodNotAllowed(("GET", "POST")))[1].headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("exception", "slug"),
    [
        (framework.NotFound("/etc/passwd"), "not-found"),
        (framework.FileNotFound("x", Path("/etc/passwd"), "y"), "not-found"),
        (framework.MethodNotAllowed("x", "PUT", ["POST", "GET"]), "method-not-allowed"),
        (framework.RequestTimeout("x"), "timeout"),
        (framework.RequestCancelled("x"), "timeout"),
        (framework.PayloadTooLarge("x"), "too-large"),
        (framework.BadRequest("secret"), "invalid"),
        (framework.InvalidUsage("secret"), "invalid"),
        (framework.HeaderExpectationFailed("x"), "invalid"),
        (framework.BadURL("secret"), "invalid"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_what_the_framework_raises_has_a_problem_of_ours(
    exception: Exception, slug: str, ask: Any
) -> None:
    document, response = ask(exception)
    assert document["type"] == f"urn:sanic-app:problem:{slug}"
    assert b"secret" not in response.body
    assert b"passwd" not in response.body
    if slug == "method-not-allowed":
        assert response.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    "exception",
    [
        RuntimeError("secret"),
        ValueError("/var/secret"),
        KeyError("secret"),
        framework.ServerError("secret"),
        framework.SanicException("secret", status_code=418),
        errors.StartError("secret"),
        errors.NotHead("secret"),
        errors.SettingsError("secret"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_of_an_unexpected_exception_reaches_the_client(
    exception: Exception, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        document, response = ask(exception)
    assert document["type"] == "urn:sanic-app:problem:internal"
    assert b"secret" not in response.body
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is exception


def test_a_reason_is_the_type_as_a_label_has_it() -> None:
    assert metric_label(errors.QueueFull()) == "queue_full"
    assert metric_label(errors.Invalid()) == "invalid"


def test_every_exception_says_in_a_sentence_what_a_user_may_read() -> None:
    def family(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from family(child)

    for kind in family(ServiceError):
        assert kind.text.endswith("."), kind
        assert "text" in vars(kind), kind


WHAT_CLIENTS_READ = """
import json
from sanic_app.app import create_app
from sanic_app.http.openapi import document
from sanic_app.http.problems import PROBLEMS, problem_document
from sanic_app.settings import Settings

settings = Settings()
found = document(create_app(settings), settings, {})
print(json.dumps([found, [problem_document(kind(), write=True) for kind in PROBLEMS]]))
"""


def test_what_clients_read_does_not_depend_on_docstrings() -> None:
    plain, optimised = (
        json.loads(
            subprocess.check_output([sys.executable, *flags, "-c", WHAT_CLIENTS_READ], cwd=ROOT)
        )
        for flags in ([], ["-OO"])
    )
    assert len(plain[0]["paths"]) > 10
    assert optimised == plain
