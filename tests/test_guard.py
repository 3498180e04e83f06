"""Who may ask: tokens, hosts, and the rule against other sites' pages."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from sanic.compat import Header

from sanic_app.errors import Fault, Forbidden, Invalid, MediaType, ServiceError, Unauthorized
from sanic_app.http.blueprints.adding import check_media_type
from sanic_app.http.guard import Guard
from sanic_app.settings import Settings

HERE = ("host", "127.0.0.1:8000")
TOKEN = "s3cret-token"
METRICS = "metrics-token"


def verdict(
    *headers: tuple[str, str], method: str = "GET", path: str = "/get_result", **settings: Any
) -> type[ServiceError] | None:
    """Return what the guard refuses the request with, None when it passes."""
    try:
        Guard(Settings(**settings)).check(method, path, Header(headers), path.encode())
    except ServiceError as error:
        return type(error)
    return None


# Tokens.


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([bearer(TOKEN)], True),
        ([("authorization", f"bearer {TOKEN}")], True),
        ([("authorization", f"BEARER   {TOKEN} ")], True),
        ([], False),
        ([bearer("")], False),
        ([bearer(TOKEN[:-1])], False),
        ([bearer(TOKEN + "x")], False),
        ([bearer(TOKEN + "X")], False),
        ([bearer(TOKEN + "\u00a0")], False),
        ([bearer(TOKEN.upper())], False),
        ([bearer("\udce9")], False),
        ([bearer("é")], False),
        ([bearer(f'"{TOKEN}"')], False),
        ([("authorization", TOKEN)], False),
        ([("authorization", f"Basic {TOKEN}")], False),
        ([("authorization", f"Token {TOKEN}")], False),
        ([("authorization", f"Bearer\t{TOKEN}")], False),
        ([bearer(TOKEN), bearer(TOKEN)], False),
        ([bearer(TOKEN), bearer("x")], False),
        ([("x-api-token", TOKEN)], False),
    ],
)
@pytest.mark.parametrize("path", ["/add_task", "/api/v1/tasks", "/metrics", "/nothing"])
def test_with_a_token_set_every_request_needs_it(
    headers: list[tuple[str, str]], passes: bool, path: str
) -> None:
    expected = None if passes else Unauthorized
    assert verdict(HERE, *headers, path=path, api_token=TOKEN.encode()) is expected


@pytest.mark.parametrize(
    "path",
    ["/api/docs", "/api/docs/", "/api/docs/openapi.json", "/api/docs/x/y.js", "/", "/page/page.js"],
)
def test_documentation_and_page_need_no_token(path: str) -> None:
    assert verdict(HERE, path=path, api_token=TOKEN.encode()) is None


@pytest.mark.parametrize(
    "path",
    [
        *("/page", "/page/", "/api/docsx", "/api/docsX", "/api/docs.json", "/api", "/API/docs/"),
        *("/pagex", "/page.js"),
    ],
)
def test_what_only_looks_like_the_documentation_needs_it(path: str) -> None:
    assert verdict(HERE, path=path, api_token=TOKEN.encode()) is Unauthorized


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/ready/"])
def test_health_is_exempt_from_everything(path: str) -> None:
    strict: dict[str, Any] = {"api_token": TOKEN.encode()}
    assert verdict(path=path, **strict) is None
    evil = [("host", "evil.example"), ("host", "x"), ("sec-fetch-site", "cross-site")]
    assert verdict(*evil, path=path, method="POST") is None


@pytest.mark.parametrize(
    "path", ["/health", "/health/livex", "/health/liveX", "/health/live/x", "/Health/live"]
)
def test_what_only_looks_like_health_is_not(path: str) -> None:
    assert verdict(HERE, path=path, api_token=TOKEN.encode()) is Unauthorized


@pytest.mark.parametrize(
    ("path", "token", "passes"),
    [
        ("/metrics", METRICS, True),
        ("/metrics/", METRICS, True),
        ("/metrics", TOKEN, True),
        ("/metrics", "x", False),
        ("/get_result", METRICS, False),
        ("/add_task", METRICS, False),
        ("/metricsx", METRICS, False),
        ("/get_result", TOKEN, True),
    ],
)
def test_the_token_for_metrics_opens_metrics_alone(path: str, token: str, passes: bool) -> None:
    expected = None if passes else Unauthorized
    tokens: dict[str, Any] = {"api_token": TOKEN.encode(), "metrics_token": METRICS.encode()}
    assert verdict(HERE, bearer(token), path=path, **tokens) is expected


def test_a_token_for_metrics_alone_leaves_the_rest_open() -> None:
    only: dict[str, Any] = {"metrics_token": METRICS.encode()}
    assert verdict(HERE, path="/metrics", **only) is Unauthorized
    assert verdict(HERE, bearer(METRICS), path="/metrics", **only) is None
    assert verdict(HERE, path="/get_result", **only) is None


# Hosts.


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "10.1.2.3:80",
        "8.8.8.8",
        "[::1]",
        "[::1]:8000",
        "[2001:db8::1]:80",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST:8000",
        "localhost:",
        "queue.example.org",
        "Queue.Example.ORG:443",
        " 127.0.0.1 ",
    ],
)
def test_addresses_localhost_and_allowed_names_are_served(host: str) -> None:
    assert verdict(("host", host), allowed_hosts=frozenset({"queue.example.org"})) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.localhost",
        "xlocalhost",
        "Xlocalhost",
        "\u00a0127.0.0.1",
        "localhost\u00a0",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "1.2.3",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.01",
        "::1",
        "::1:8000",
        "[::1",
        "::1]",
        "[evil.example]",
        "[localhost]",
        "localhost:x",
        "localhost:80:80",
        "localhost@evil.example",
        "evil.example/127.0.0.1",
        "queue.example.org.",
        "xqueue.example.org",
        "sub.queue.example.org",
        "queue.example.org:80.evil",
        "127.0.0.1,evil.example",
        "\u0661.0.0.1",
    ],
)
def test_a_name_that_a_foreign_dns_could_give_is_not_served(host: str) -> None:
    refused = verdict(("host", host), allowed_hosts=frozenset({"queue.example.org"}))
    assert refused is Forbidden


@pytest.mark.parametrize("host", ["evil.example", "queue", ""])
def test_with_a_token_the_name_does_not_matter(host: str) -> None:
    assert verdict(("host", host), bearer(TOKEN), api_token=TOKEN.encode()) is None


def test_a_token_for_metrics_alone_does_not_lift_the_rule_for_names() -> None:
    only: dict[str, Any] = {"metrics_token": METRICS.encode()}
    evil = ("host", "evil.example")
    assert verdict(evil, bearer(METRICS), path="/metrics", **only) is Forbidden


@pytest.mark.parametrize("token", [None, TOKEN.encode()])
def test_there_is_exactly_one_host(token: bytes | None) -> None:
    assert verdict(bearer(TOKEN), api_token=token) is Invalid
    assert verdict(HERE, HERE, bearer(TOKEN), api_token=token) is Invalid


@pytest.mark.parametrize(
    ("target", "passes"),
    [
        ("http://localhost:8000/get_result", True),
        ("HTTP://LOCALHOST", True),
        ("https://[::1]/", True),
        ("http://evil.example/get_result", False),
        ("http://localhost@evil.example/", False),
        ("http:///get_result", False),
        ("http://[::1/", False),
    ],
)
def test_the_host_of_a_target_that_is_a_url_counts_instead(target: str, passes: bool) -> None:
    for host in (HERE, ("host", "evil.example")):
        guard = Guard(Settings())
        with nullcontext() if passes else pytest.raises(Forbidden):
            guard.check("GET", "/get_result", Header([host]), target.encode())


# Browsers.


def fetch(
    site: str, mode: str | None = None, destination: str | None = None
) -> list[tuple[str, str]]:
    given = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": destination}
    return [(name, value) for name, value in given.items() if value is not None]


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("POST", fetch("same-origin", "cors", "empty"), True),
        ("GET", fetch("same-origin", "cors", "empty"), True),
        ("GET", fetch("none", "navigate", "document"), True),
        ("POST", fetch("none"), True),
        ("GET", fetch(" Same-Origin "), True),
        # One of several is not chosen.
        ("GET", fetch("same-origin") + fetch("cross-site"), False),
        ("GET", fetch("") + fetch("cross-site"), False),
        # A link on another page may lead here.
        ("GET", fetch("cross-site", "navigate", "document"), True),
        ("GET", fetch("same-site", "navigate", "document"), True),
        ("POST", fetch("cross-site", "navigate", "document"), False),
        ("HEAD", fetch("cross-site", "navigate", "document"), False),
        ("GET", fetch("cross-site", "navigate", "iframe"), False),
        ("GET", fetch("cross-site", "navigate"), False),
        ("GET", fetch("cross-site", "no-cors", "image"), False),
        ("GET", fetch("cross-site", "no-cors", "script"), False),
        ("GET", fetch("cross-site", "cors", "empty"), False),
        ("GET", fetch("cross-site"), False),
        ("GET", fetch("same-site", "cors", "empty"), False),
        ("POST", fetch("same-site", "cors", "empty"), False),
        ("POST", fetch("cross-site"), False),
        ("DELETE", fetch("cross-site"), False),
        ("GET", fetch("something-new"), False),
        ("GET", fetch("Xnone"), False),
        ("GET", fetch("none\u00a0"), False),
        ("POST", fetch(""), True),
        # The newer header decides, whatever the older one says.
        ("POST", [*fetch("same-origin"), ("origin", "https://evil.example")], True),
        ("POST", [*fetch("cross-site"), ("origin", "http://127.0.0.1:8000")], False),
    ],
)
def test_a_page_of_another_site_may_only_lead_here(
    method: str, headers: list[tuple[str, str]], passes: bool
) -> None:
    assert verdict(HERE, *headers, method=method) is (None if passes else Forbidden)


@pytest.mark.parametrize(
    ("method", "origin", "passes"),
    [
        ("POST", "http://127.0.0.1:8000", True),
        ("POST", "https://127.0.0.1:8000", True),
        ("POST", "HTTP://127.0.0.1:8000", True),
        ("DELETE", "http://127.0.0.1:8000", True),
        ("POST", "http://127.0.0.1", False),
        ("POST", "http://127.0.0.1:8001", False),
        ("POST", "http://evil.example", False),
        ("POST", "http://127.0.0.1:8000@evil.example", False),
        ("POST", "http://evil.example@127.0.0.1:8000", False),
        ("POST", "http://evil.example/127.0.0.1:8000", False),
        ("POST", "null", False),
        ("POST", "", False),
        ("POST", "http://[", False),
        ("POST", "127.0.0.1:8000", False),
        ("PUT", "http://evil.example", False),
        ("DELETE", "http://evil.example", False),
        ("PATCH", "http://evil.example", False),
        ("ZZZ", "http://evil.example", False),
        ("GET", "http://evil.example", True),
        ("HEAD", "http://evil.example", True),
        ("OPTIONS", "http://evil.example", True),
    ],
)
def test_an_older_browser_is_judged_by_its_origin(method: str, origin: str, passes: bool) -> None:
    headers = [HERE, ("origin", origin), ("sec-fetch-site", "")]
    expected = None if passes else Forbidden
    assert verdict(*headers[:2], method=method) is expected
    assert verdict(*headers, method=method) is expected


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://queue.example.org", True),
        ("https://queue.example.org", True),
        ("HTTP://Queue.Example.ORG:8080", True),
        ("http://127.0.0.1:8000", True),
        ("http://queue.example.org.evil.example", False),
        ("http://evil.example", False),
        ("http://sub.queue.example.org", False),
        ("http://queue.example.org@evil.example", False),
        ("http://evil.example@queue.example.org", False),
        ("http://evil.example/queue.example.org", False),
        ("http://evil.example?queue.example.org", False),
        ("http://queue.example.org:80:80", False),
        ("http://queue.example.org:x", False),
        ("queue.example.org", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_behind_a_proxy_an_origin_may_be_one_of_the_allowed_hosts(
    origin: str, passes: bool
) -> None:
    hosts = frozenset({"queue.example.org"})
    expected = None if passes else Forbidden
    # nginx sends the address of its upstream as Host, unless it is told otherwise.
    assert verdict(HERE, ("origin", origin), method="POST", allowed_hosts=hosts) is expected
    named = ("sec-fetch-site", "cross-site")
    refused = verdict(HERE, named, ("origin", origin), method="POST", allowed_hosts=hosts)
    assert refused is Forbidden


def test_the_refusal_of_an_origin_names_both_values_and_the_setting() -> None:
    headers = Header([("host", "upstream:8000"), ("origin", "http://queue.example.org")])
    guard = Guard(Settings(allowed_hosts=frozenset({"upstream"})))
    with pytest.raises(Forbidden) as refused:
        guard.check("POST", "/add_task", headers, b"/add_task")
    for part in ("'http://queue.example.org'", "'upstream:8000'", "ALLOWED_HOSTS"):
        assert part in refused.value.detail
    with pytest.raises(Forbidden, match=r"'evil\.example'.*ALLOWED_HOSTS"):
        guard.check("GET", "/get_result", Header([("host", "evil.example")]), b"/get_result")
    odd = Header([("host", "upstream"), ("origin", "\udce9\n" + "x" * 9_000)])
    with pytest.raises(Forbidden) as refused:
        guard.check("POST", "/add_task", odd, b"/add_task")
    assert refused.value.detail.isascii()
    assert len(refused.value.detail) < 500


def test_each_refusal_says_what_is_wrong() -> None:
    guard = Guard(Settings())
    here, other = ("host", "localhost"), ("origin", "http://evil.example")
    with pytest.raises(Invalid) as invalid:
        guard.check("GET", "/get_result", Header([here, here]), b"/get_result")
    assert invalid.value.faults == (Fault("", "There must be exactly one Host header."),)
    with pytest.raises(Forbidden) as refused:
        guard.check("POST", "/add_task", Header([here, ("sec-fetch-site", "cross-site")]), b"*")
    assert refused.value.detail == "Pages of other sites may not send requests."
    with pytest.raises(Forbidden) as refused:
        guard.check("POST", "/add_task", Header([here, other]), b"/add_task")
    assert refused.value.detail == (
        "Pages of other sites may not send requests: the Origin 'http://evil.example' is not the"
        " Host 'localhost'. If this is the service's own page behind a proxy, add the Origin's host"
        " to ALLOWED_HOSTS, or let the proxy pass on the Host."
    )


@pytest.mark.parametrize("host", ["localhost:8000", "LocalHost:8000"])
def test_an_origin_is_compared_without_regard_to_case(host: str) -> None:
    assert verdict(("host", host), ("origin", "http://LOCALhost:8000"), method="POST") is None


@pytest.mark.parametrize("host", ["LocalhostX", "localhost\u00a0"])
def test_a_host_that_only_looks_like_the_origin_is_another(host: str) -> None:
    asked = [("host", host), bearer(TOKEN), ("origin", "http://localhost")]
    assert verdict(*asked, method="POST", api_token=TOKEN.encode()) is Forbidden


def test_each_of_several_origins_has_to_be_our_own() -> None:
    ours, other = ("origin", "http://127.0.0.1:8000"), ("origin", "http://evil.example")
    assert verdict(HERE, ours, ours, method="POST") is None
    assert verdict(HERE, ours, other, method="POST") is Forbidden


def test_a_token_does_not_lift_the_rule_against_other_sites() -> None:
    asked = [HERE, bearer(TOKEN), ("sec-fetch-site", "cross-site")]
    assert verdict(*asked, method="POST", api_token=TOKEN.encode()) is Forbidden


def test_a_program_that_is_no_browser_may_ask() -> None:
    assert verdict(HERE, method="POST", path="/add_task") is None


# Content types.

FORM = "application/x-www-form-urlencoded"
ORIGIN = ("origin", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("path", "kind", "extra", "passes"),
    [
        ("/add_task", "application/json", [], True),
        ("/api/v1/tasks", "application/json", [ORIGIN], True),
        ("/add_task", "application/json; charset=utf-8", [ORIGIN], True),
        ("/add_task", "Application/JSON ;x=y", [], True),
        ("/add_task", None, [], True),
        ("/api/v1/tasks", None, [], True),
        ("/add_task", FORM, [], True),
        ("/add_task/", FORM, [], True),
        ("/add_task", f"{FORM}; charset=utf-8", [], True),
        ("/api/v1/tasks", FORM, [], False),
        ("/add_task", None, [ORIGIN], False),
        ("/add_task", FORM, [ORIGIN], False),
        ("/add_task", FORM, [("sec-fetch-site", "same-origin")], False),
        ("/add_task", FORM, [("sec-fetch-mode", "navigate")], False),
        ("/add_task", None, [("sec-fetch-dest", "document")], False),
        ("/add_task", None, [("sec-fetch-user", "?1")], False),
        ("/add_task", "", [], False),
        ("/add_task", "text/plain", [], False),
        ("/add_task", "multipart/form-data; boundary=x", [], False),
        ("/add_task", "application/jsonx", [], False),
        ("/add_task", "application/problem+json", [], False),
        ("/add_task", "json", [], False),
        ("/add_task", "application/json", [("content-type", "text/plain")], False),
        ("/add_task", "text/plain", [("content-type", "application/json")], False),
        ("/add_task", "application/json;x=y", [("content-type", "application/json")], False),
    ],
)
def test_a_body_has_to_be_declared_as_json(
    path: str, kind: str | None, extra: list[tuple[str, str]], passes: bool
) -> None:
    headers = Header([*extra, *([] if kind is None else [("content-type", kind)])])
    if passes:
        check_media_type(path, headers)
        return
    with pytest.raises(MediaType, match="Content-Type: application/json"):
        check_media_type(path, headers)
