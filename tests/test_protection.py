"""Who may ask, and what the log shows of it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sanic_app import log
from sanic_app.http import guard
from tests.serving import JSON, ON_UVLOOP, Answer, Service, problem, request, service

pytestmark = ON_UVLOOP

TOKEN, METRICS_TOKEN = "t0ken-of-the-api", "t0ken-of-the-metrics"
TOKENS: dict[str, Any] = {
    "api_token": TOKEN.encode(),
    "metrics_token": METRICS_TOKEN.encode(),
}
BODY = b'{"num": 1, "timeout": 600}'
READS = ["/get_queue_work", "/get_result", "/api/v1/tasks", "/api/v1/results", "/api/v1/queue"]
CLOSED = [*READS, "/add_task", "/api/v1/tasks/1", "/metrics", "/nothing", "/page", "/api/docsx"]
HEALTH = ["/health/live", "/health/ready", "/health/live/"]


def bearer(token: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {token}"}


# Tokens.


async def test_without_the_token_only_health_documentation_and_page_answer(tmp_path: Path) -> None:
    async with service(tmp_path, **TOKENS) as served:
        for path in CLOSED:
            for method in ("GET", "POST", "PUT", "HEAD"):
                answer = await served.client.request(method, path)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    problem(answer, "unauthorized", 401)
        for path in (*HEALTH, "/", "/page/page.js"):
            assert (await served.client.get(path)).status_code == 200
        for path in ("/api/docs", "/api/docs/", "/api/docs/openapi.json", "/api/docs/nothing"):
            assert (await served.client.get(path)).status_code in (200, 301, 302, 308, 404), path
        assert served.parts.queue.figures.last_history_num == 0
        # Refused before routing: nobody learns which paths there are.
        name = "http_request_duration_seconds_count"
        assert served.metric(name, method="GET", route="unmatched", status="401") == len(CLOSED)
        assert served.metric("adds_refused_total", reason="unauthorized") == 2


async def test_the_token_opens_everything(tmp_path: Path) -> None:
    async with service(tmp_path, **TOKENS) as served:
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = bearer(TOKEN, scheme)
            for path in (*READS, "/metrics"):
                assert (await served.client.get(path, headers=headers)).status_code == 200
            added = await served.client.post("/add_task", content=BODY, headers=JSON | headers)
            assert added.status_code == 200
        answer = await served.client.get("/nothing", headers=bearer(TOKEN))
        problem(answer, "not-found", 404)


async def test_the_metrics_token_opens_the_metrics_only(tmp_path: Path) -> None:
    async with service(tmp_path, **TOKENS) as served:
        headers = bearer(METRICS_TOKEN)
        assert (await served.client.get("/metrics", headers=headers)).status_code == 200
        assert (await served.client.get("/metrics/", headers=headers)).status_code == 200
        for path in (*READS, "/add_task", "/metrics/x"):
            assert (await served.client.get(path, headers=headers)).status_code == 401, path


async def test_a_metrics_token_alone_closes_nothing_else(tmp_path: Path) -> None:
    async with service(tmp_path, metrics_token=b"m") as served:
        assert (await served.client.get("/metrics")).status_code == 401
        assert (await served.client.get("/metrics", headers=bearer("m"))).status_code == 200
        for path in READS:
            assert (await served.client.get(path)).status_code == 200
        # It does not stand in for the rule about the Host either.
        named = {"Host": "example.com", **bearer("m")}
        assert (await served.client.get("/metrics", headers=named)).status_code == 403


async def test_every_refused_token_is_answered_alike(tmp_path: Path) -> None:
    lines = [
        [],
        ["Authorization:"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        [f"Authorization: {TOKEN}"],
        [f"Authorization: Basic {TOKEN}"],
        [f"Authorization: Bearer {TOKEN}x"],
        [f"Authorization: Bearer {TOKEN[:-1]}"],
        [f"Authorization: Bearer {TOKEN.upper()}"],
        [f"Authorization: Bearer x{TOKEN}"],
        [f"Authorization: Bearer {TOKEN} {TOKEN}"],
        [f"Authorization: Bearer {TOKEN}, Bearer {TOKEN}"],
        [f"Authorization: Bearer {METRICS_TOKEN}"],
        ["Authorization: Bearer \udcff\udc80"],
        ["Authorization: Bearer \u00e9"],
        [f"Authorization: Bearer {'x' * 7000}"],
        [f"Authorization: Bearer {TOKEN}"] * 2,
        [f"Authorization: Bearer {TOKEN}", "Authorization: Bearer x"],
        [f"Proxy-Authorization: Bearer {TOKEN}"],
        [f"Cookie: token={TOKEN}"],
    ]
    async with service(tmp_path, **TOKENS) as served:
        answers = set()
        for each in lines:
            answer = await served.say(request("/get_result", b"", *each, method="GET"))
            shown = dict(answer.headers)
            del shown["x-request-id"]
            answers.add((answer.status, tuple(shown.items()), answer.body))
            assert answer.problem["type"].endswith(":unauthorized")
        assert len(answers) == 1
        answer = await served.say(request(f"/get_result?token={TOKEN}", method="GET"))
        assert answer.status == 401


async def test_every_token_is_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = guard.hmac.compare_digest  # type: ignore[attr-defined] # a module it imports

    def watch(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        equal: bool = compare(left, right)
        return equal

    async with service(tmp_path, **TOKENS) as served:
        monkeypatch.setattr(guard.hmac, "compare_digest", watch)  # type: ignore[attr-defined]
        answer = await served.client.get("/metrics", headers=bearer(TOKEN))
        assert answer.status_code == 200
        both = [TOKENS["api_token"], TOKENS["metrics_token"]]
        assert compared == [(TOKEN.encode(), expected) for expected in both]


async def test_a_refused_body_is_not_read(tmp_path: Path) -> None:
    async with service(tmp_path, **TOKENS) as served:
        raw = request("/add_task", b"", "Content-Length: 1000000")
        assert (await served.say(raw)).status == 401


# The Host.


OURS = [
    *("localhost", "localhost:8000", "LocalHost", "127.0.0.1", "127.0.0.1:1", "10.1.2.3:80"),
    *("[::1]", "[::1]:8000", "[fe80::1]", "queue.example", "QUEUE.example:81", " localhost "),
]


async def test_addresses_localhost_and_allowed_names_are_served(tmp_path: Path) -> None:
    async with service(tmp_path, allowed_hosts=frozenset({"queue.example"})) as served:
        for host in OURS:
            answer = await served.say(request("/get_result", method="GET", host=host))
            assert answer.status == 200, host


HOSTS = [
    *("example.com", "localhost.example.com", "127.0.0.1.example.com", "xlocalhost", "127.1", ""),
    *(
        "queue.example.",
        "x.queue.example",
        "::1",
        "[::1",
        "0x7f000001",
        "localhost:x",
    ),
    *("localhost:80:80", "user@localhost", "localhost/", "localhost, localhost", "2130706433"),
    *("\u00e9", "\udcff", "[]", ":", ":80", "[::1]x"),
]


async def test_other_names_are_not_served(tmp_path: Path) -> None:
    async with service(tmp_path, allowed_hosts=frozenset({"queue.example"})) as served:
        for host in HOSTS:
            for method, path in (
                ("GET", "/get_result"),
                ("POST", "/add_task"),
                ("GET", "/metrics"),
            ):
                answer = await served.say(request(path, method=method, host=host))
                assert answer.problem["type"].endswith(":forbidden"), host
                assert "ALLOWED_HOSTS" in answer.problem["detail"]
            answer = await served.say(request("/health/ready", method="GET", host=host))
            assert answer.status == 200
        assert served.metric("adds_refused_total", reason="forbidden") == len(HOSTS)


async def test_with_a_token_any_name_is_served(tmp_path: Path) -> None:
    async with service(tmp_path, **TOKENS) as served:
        line = f"Authorization: Bearer {TOKEN}"
        raw = request("/get_result", b"", line, method="GET", host="example.com")
        assert (await served.say(raw)).status == 200


@pytest.mark.parametrize("settings", [{}, TOKENS])
async def test_there_is_exactly_one_host(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with service(tmp_path, **settings) as served:
        line = f"Authorization: Bearer {TOKEN}\r\n"
        for hosts in ("", "Host: localhost\r\nHost: localhost\r\n", "Host: a\r\nhOST: b\r\n"):
            for first in ("GET /get_result", "POST /add_task", "GET /nothing"):
                raw = f"{first} HTTP/1.1\r\n{hosts}{line}\r\n"
                answer = await served.say(raw.encode())
                assert answer.problem["type"].endswith(":invalid")
                assert ("applied" in answer.problem) == first.startswith("POST")
            raw = f"GET /health/live HTTP/1.1\r\n{hosts}\r\n"
            assert (await served.say(raw.encode())).status == 200


# Browsers.


async def ask(served: Service, method: str, path: str, lines: list[str]) -> Answer:
    body = BODY if method == "POST" else b""
    return await served.say(request(path, body, *lines, method=method, host="localhost:8000"))


async def test_a_target_that_is_a_url_names_the_host(tmp_path: Path) -> None:
    """As RFC 9112 has it in 3.2.2: whatever the Host says."""
    async with service(tmp_path) as served:
        for host in ("localhost", "evil.example"):
            for name, status in (("localhost", 200), ("evil.example", 403)):
                target = f"http://{name}/get_result"
                answer = await served.say(request(target, method="GET", host=host))
                assert answer.status == status
            origin = "Origin: http://evil.example"
            target = "http://localhost/add_task"
            assert (await served.say(request(target, BODY, origin, host=host))).status == 403


NAVIGATION = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]


async def test_pages_of_other_sites_may_not_ask(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for site in ("cross-site", "same-site", "CROSS-SITE", "odd", "none, same-origin"):
            fetch = [f"Sec-Fetch-Site: {site}"]
            for lines in (
                fetch,
                [*fetch, "Origin: http://localhost:8000"],
                [*fetch, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"],
                [*fetch, "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: document"],
            ):
                for path in READS:
                    refused = (await ask(served, "GET", path, lines)).problem
                    assert refused["type"].endswith(":forbidden")
                assert (await ask(served, "POST", "/add_task", lines)).problem["status"] == 403
            # A link or a form of another site: the first may lead here, the second not.
            lines = [*fetch, *NAVIGATION]
            assert (await ask(served, "GET", "/get_result", lines)).status == 200
            assert (await ask(served, "POST", "/add_task", lines)).status == 403
            assert (await ask(served, "GET", "/health/live", fetch)).status == 200
        assert served.parts.queue.figures.last_history_num == 0


async def test_pages_of_this_site_may_ask(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for site in ("same-origin", "none"):
            lines = [f"Sec-Fetch-Site: {site}", "Origin: http://localhost:8000"]
            assert (await ask(served, "GET", "/get_result", lines)).status == 200
            assert (await ask(served, "POST", "/add_task", lines)).status == 200


async def test_an_older_browser_s_origin_must_be_this_host_on_writes(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for origin in ("http://localhost:8000", "https://LOCALHOST:8000"):
            lines = [f"Origin: {origin}"]
            assert (await ask(served, "POST", "/add_task", lines)).status == 200, origin
        for origin in (
            *("http://example.com", "null", "", "http://localhost", "http://localhost:80000"),
            *("localhost:8000", "http://x.localhost:8000", "http://localhost:8000@example.com"),
            *("http://[::1", "http://localhost:8000 http://localhost:8000", "\u00e9"),
        ):
            lines = [f"Origin: {origin}"]
            answer = await ask(served, "POST", "/add_task", lines)
            assert answer.problem["type"].endswith(":forbidden"), origin
            assert answer.problem["applied"] is False
            # A read does no harm, and no browser lets the page see it.
            answer = await ask(served, "GET", "/get_result", lines)
            assert answer.status == 200
            assert "access-control-allow-origin" not in answer.headers
        two = ["Origin: http://localhost:8000", "Origin: http://example.com"]
        assert (await ask(served, "POST", "/add_task", two)).status == 403


async def test_a_token_does_not_open_the_service_to_other_sites(tmp_path: Path) -> None:
    async with service(tmp_path, **TOKENS) as served:
        lines = [f"Authorization: Bearer {TOKEN}", "Sec-Fetch-Site: cross-site"]
        assert (await ask(served, "GET", "/get_result", lines)).status == 403
        lines[1] = "Origin: http://example.com"
        assert (await ask(served, "POST", "/add_task", lines)).status == 403


# The log.


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Collect what the service's log would show at its most talkative."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(log.JsonLines())
    names = [None, *("sanic.root", "sanic.server", "sanic.error", "sanic.access", "aiosqlite")]
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    try:
        # With this handler in the place of the standard error's.
        log.configure("DEBUG")
        loggers[0].handlers[:] = [handler]
        yield text
    finally:
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers[:] = handlers
            each.setLevel(level)
            each.propagate = propagate


async def test_no_token_is_ever_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the store is out of order")

    with logged() as text:
        async with service(tmp_path, **TOKENS) as served:
            wrong = "t0ken-that-is-wrong"
            for token in (TOKEN, METRICS_TOKEN, wrong):
                for path in CLOSED:
                    await served.client.get(path, headers=bearer(token))
                    await served.client.post(path, content=BODY, headers=bearer(token))
            raw = f"GET / HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nbroken\r\n\r\n"
            assert (await served.say(raw.encode())).status == 400
            monkeypatch.setattr(served.store, "overview", fail)
            answer = await served.client.get("/api/v1/queue", headers=bearer(TOKEN))
            problem(answer, "internal", 500)
    assert "out of order" in text.getvalue()
    assert "t0ken" not in text.getvalue()


FORGED = '{"time": "now", "level": "INFO", "logger": "x", "message": "forged"}'


async def test_no_input_can_forge_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tricks = [f"{end}{FORGED}{end}" for end in ("\n", "\r", "\x0b", "\x85", "\u2028", "\x1b[2K")]

    async def fail(*_: object) -> None:
        raise RuntimeError("\n".join(tricks))

    with logged() as text:
        async with service(tmp_path) as served:
            monkeypatch.setattr(served.store, "overview", fail)
            for trick in tricks:
                quoted = "".join(f"%{byte:02x}" for byte in trick.encode())
                for path in (f"/{quoted}", f"/api/v1/tasks/{quoted}", f"/get_result?{quoted}"):
                    await served.say(request(path, method="GET"))
                for name in ("X-Request-ID", "User-Agent", "Idempotency-Key", "Authorization"):
                    raw = request("/api/v1/queue", b"", f"{name}: x{trick}", method="GET")
                    await served.say(raw)
                await served.say(request("/add_task", json.dumps({trick: trick}).encode()))
                await served.say(request("/add_task", trick.encode()))
                await served.say(f"GET {trick} HTTP/1.1\r\n\r\n".encode())
    lines = text.getvalue().split("\n")
    assert lines.pop() == ""
    assert len(lines) > len(tricks)
    for line in lines:
        assert line.isascii()
        assert line.isprintable(), line
        assert json.loads(line)["message"] != "forged"
        assert list(json.loads(line))[:4] == ["time", "level", "logger", "message"]


async def test_lines_of_a_request_carry_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    with logged() as text:
        async with service(tmp_path) as served:
            monkeypatch.setattr(served.store, "overview", fail)
            await served.client.get("/api/v1/queue", headers={"X-Request-ID": "mine"})
            own = await served.client.get("/api/v1/queue")
    failures = [
        line for line in map(json.loads, text.getvalue().splitlines()) if "exception" in line
    ]
    assert [line["request_id"] for line in failures] == ["mine", own.headers["x-request-id"]]
