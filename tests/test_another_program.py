"""What else a command may meet at an address: other programs, proxies, answers that never end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from sanic_app.client.service import Json
from tests.commands import refusal, run, say
from tests.following import Following
from tests.running import Running


class Other(BaseHTTPRequestHandler):
    """What is not this service: it redirects, or answers something else."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/api/v1/queue":
            self.send_response(302)
            # The same server under another name.
            port = self.headers["Host"].partition(":")[2]
            self.send_header("Location", f"http://localhost:{port}/elsewhere")
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        pass


def test_what_is_not_this_service_gets_no_second_request() -> None:
    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert "status 302" in refusal(url, "queue")
        refusal(url, "task", "1")
    finally:
        server.shutdown()
        server.server_close()
    assert Other.asked == ["/api/v1/queue", "/api/v1/tasks/1"]


class Proxy(BaseHTTPRequestHandler):
    """A proxy whose service is away at first, then answers, and then refuses."""

    answers: ClassVar[list[tuple[int, str, bytes]]] = []
    waits: ClassVar[list[float]] = []

    def do_GET(self) -> None:
        status, kind, body = self.answers.pop(0)
        self.waits.append(float(self.path.partition("wait=")[2] or 25))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Another(BaseHTTPRequestHandler):
    """Another program, which answers everything with 200."""

    kind: ClassVar[str] = ""
    body: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_DELETE = do_GET  # noqa: N815 - the names that the library calls

    def log_message(self, *_: object) -> None:
        pass


class Forwarding(BaseHTTPRequestHandler):
    """A proxy that forwards whatever it gets to one service, and remembers it."""

    port: ClassVar[int] = 0
    seen: ClassVar[list[tuple[str, str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.command, self.path, str(self.headers)))
        url = urlsplit(self.path)
        service = http.client.HTTPConnection("127.0.0.1", self.port)
        service.request("GET", f"{url.path}?{url.query}", headers=dict(self.headers))
        answer = service.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.seen.append((self.command, self.path, str(self.headers)))
        self.send_error(502)

    def log_message(self, *_: object) -> None:
        pass


def test_a_token_goes_to_the_service_alone(tmp_path: Path) -> None:
    token = {"SANIC_APP_API_TOKEN": "of-this-test"}
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Forwarding)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{proxy.server_port}"
    through = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address)
    through |= {"no_proxy": "", "NO_PROXY": ""}
    try:
        with Running(tmp_path, environ=token) as running:
            Forwarding.port = running.port
            # No proxy is asked for this machine.
            for host in ("127.0.0.1", "localhost"):
                done = run(f"http://{host}:{running.port}", "queue", **through, **token)
                assert (done.returncode, done.stderr) == (0, "")
            for host in ("127.0.0.2", "[::1]", "LOCALHOST"):
                run(f"http://{host}:{running.port}", "queue", **through, **token)
            assert Forwarding.seen == []
            # Nor is it asked in clear for another host.
            done = run("http://queue.example", "queue", **through, **token)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == (
                "sanic-app: http_proxy could read the token on its way to queue.example: use https,"
                " or add the host to NO_PROXY\n"
            )
            for names in ("queue.example", "x, .example", "*"):
                away = {**through, "no_proxy": names}
                done = run("http://queue.example:1", "queue", **away, **token)
                assert "no answer from http://queue.example:1" in done.stderr
            assert Forwarding.seen == []
            # With TLS the proxy sees only where to.
            assert "no answer" in run("https://queue.example", "queue", **through, **token).stderr
            ((method, path, headers),) = Forwarding.seen
            assert (method, path) == ("CONNECT", "queue.example:443")
            assert "of-this-test" not in headers
    finally:
        proxy.shutdown()
        proxy.server_close()


def test_without_a_token_a_proxy_is_used(tmp_path: Path) -> None:
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Forwarding)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    through = {"http_proxy": f"http://127.0.0.1:{proxy.server_port}", "no_proxy": ""}
    Forwarding.seen.clear()
    try:
        with Running(tmp_path, environ={"SANIC_APP_ALLOWED_HOSTS": "queue.example"}) as running:
            Forwarding.port = running.port
            done = run("http://queue.example", "queue", "--json", **through)
            assert json.loads(done.stdout)["depth"] == 0
            assert Forwarding.seen[0][1] == "http://queue.example/api/v1/queue"
    finally:
        proxy.shutdown()
        proxy.server_close()


def test_what_only_a_proxy_answers_is_a_service_that_is_not_there() -> None:
    page, problem = "text/html; charset=utf-8", "application/problem+json"
    task = {"history_num": 1, "num": 5, "timeout": 1, "state": "done", "date_finished": "x"}
    stopping = {"type": "urn:x", "title": "x", "status": 503, "detail": "It is stopping."}
    server = HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        Proxy.answers = [
            *((status, page, b"<html>") for status in (502, 503, 504)),
            (503, problem, json.dumps(stopping).encode()),
            (200, "application/json", json.dumps(task).encode()),
        ]
        done = run(url, "task", "1", "--wait")
        assert (done.returncode, done.stdout) == (0, "task 1: num 5, 1 s, done\n")
        assert done.stderr.count("trying again") == 1
        assert "502" in done.stderr
        # In pieces that a proxy waits for.
        assert all(0 < wait <= 30 for wait in Proxy.waits)
        Proxy.answers = [(503, problem, json.dumps(stopping).encode())]
        assert refusal(url, "task", "1") == "It is stopping."
        Proxy.answers = [(410, problem, json.dumps({**stopping, "detail": "It is gone."}).encode())]
        assert refusal(url, "task", "1", "--wait") == "It is gone."
        Proxy.answers = [(502, page, b"<html>")]
        assert refusal(url, "queue") == f"no answer from {url}: a proxy answered with status 502"
        Proxy.answers = [(404, page, b"<html>")]
        assert "not from this service" in refusal(url, "queue")
    finally:
        server.shutdown()
        server.server_close()


def test_another_program_at_the_address_is_one_line_and_never_a_success() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Another)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        commands = ("queue", "results", "task 1", "add 1 0", "cancel 1 3", "pause", "watch")
        bodies = (b"{}", b"[]", b"null", b"<html>\n\n", b"\xff", b'{"id": 1}', b"[" * 100_000)
        for number, command in enumerate(commands):
            Another.kind, Another.body = "application/json", bodies[number]
            assert refusal(url, *command.split()) == f"what answers at {url} is not this service"
        Another.kind, Another.body = "text/event-stream", b"data: 5\n\n"
        says = f"no answer from {url}: what it sends are no events"
        assert refusal(url, "watch", "--json") == says
        # It may be the page of a proxy while the service restarts.
        Another.kind, Another.body = "text/html", b"<html>\n\n"
        with Following(url, "--after", "0") as follower:
            follower.until_says(f"what answers at {url} is not this service; trying again")
            assert follower.process.poll() is None
    finally:
        server.shutdown()
        server.server_close()


TASK_SHOWN = {"history_num": 1, "num": 5, "timeout": 1, "state": "done", "date_finished": "x"}
WHOLE: Json = {
    **TASK_SHOWN,
    "seconds_until_due": None,
    "first": 1,
    "last": 1,
    "count": 1,
    "depth": 1,
    "backlog_seconds": 0,
    "paused": False,
    "head": None,
    "tasks": [TASK_SHOWN],
    "results": [TASK_SHOWN],
}
"""An answer to every command."""
MISSING = object()


def test_an_answer_with_a_field_that_is_no_such_thing_is_another_program() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Another)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    item, nan = TASK_SHOWN, float("nan")
    wrong: dict[str, tuple[Any, ...]] = {
        "results": ("results", 5, [5], [{"num": 5}], [{**item, "date_finished": None}]),
        "results --json": (
            "results",
            *({}, None, [{**item, "history_num": "1"}]),
            # Neither may be in the environment of a command.
            *([{**item, "date_finished": text}] for text in ("a\0b", "a\ud800", "a\nb")),
        ),
        "queue": ("tasks", MISSING, [[]], [{**item, "state": 5}], [{**item, "num": nan}]),
        "queue --json": ("head", {}, "x", {**item, "timeout": "1"}),
        "pause": ("paused", 1),
        "watch": ("backlog_seconds", "x", nan, True),
        "task 1": ("seconds_until_due", "x", True),
        "add 1 0": ("history_num", "1", None, True, 1.5),
        "add 1 0 --key k": ("seconds_until_due", "x"),
        "add --file -": ("last", [], MISSING),
        "cancel 1": ("timeout", {}),
        "cancel 1 3": ("count", "x"),
    }
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        Another.kind = "application/json"
        for command, (field, *values) in wrong.items():
            Another.body = json.dumps(WHOLE).encode()
            assert command == "watch" or say(url, *command.split(), text="1 0")
            for value in values:
                changed = {name: WHOLE[name] for name in WHOLE if name != field}
                if value is not MISSING:
                    changed[field] = value
                Another.body = json.dumps(changed).encode()
                said = refusal(url, *command.split(), text="1 0")
                assert said == f"what answers at {url} is not this service", (command, value)
        for reason in ("null", "5", '"a\\nb"'):
            Another.body = b'{"status": "ready", "reason": %b}' % reason.encode()
            said = refusal(url, "health", "-P", str(server.server_port))
            assert said.endswith(f"port {server.server_port} is not this service")
        Another.kind = "text/event-stream"
        for data in (b'{"tasks": 5}', b'{"tasks": [{"num": 5}]}', b'{"count": NaN}'):
            Another.body = b"event: finished\ndata: %b\n\n" % data
            says = f"no answer from {url}: what it sends are no events"
            assert refusal(url, "watch", "--json") == says
    finally:
        server.shutdown()
        server.server_close()


class Endless(BaseHTTPRequestHandler):
    """Another program, whose answers never end."""

    status: ClassVar[int] = 200
    kind: ClassVar[str] = ""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"x" * 65_536)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("command", "status", "kind", "says"),
    [
        ("queue", 200, "application/json", "what answers at URL is not this service"),
        ("queue", 500, "text/html", "status 500, and not from this service"),
        (
            "watch --json",
            200,
            "text/event-stream",
            "no answer from URL: what it sends are no events",
        ),
    ],
)
def test_an_answer_that_never_ends_is_one_line(
    monkeypatch: pytest.MonkeyPatch, command: str, status: int, kind: str, says: str
) -> None:
    monkeypatch.setattr(Endless, "status", status)
    monkeypatch.setattr(Endless, "kind", kind)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            assert refusal(url, *command.split()) == says.replace("URL", url)
        finally:
            server.shutdown()


def test_an_answer_that_is_cut_short_is_a_lost_connection() -> None:
    class Cut(Another):
        kind, body = "application/json", b'{"depth"'

        def end_headers(self) -> None:
            self.send_header("Content-Length", "9")
            super().end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            lost = f"no answer from {url}: IncompleteRead(8 bytes read, 1 more expected)"
            assert refusal(url, "queue") == lost
        finally:
            server.shutdown()


def test_what_is_no_answer_at_all_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def garble() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(1_000)
                        connection.sendall(b"+OK\vready\r\n")

        threading.Thread(target=garble, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert refusal(url, "queue") == f"no answer from {url}: +OK ready"
        with Following(url, "--after", "0") as follower:
            follower.until_says("trying again")
            assert follower.said == [f"sanic-app: no answer from {url}: +OK ready ; trying again"]
        listening.shutdown(socket.SHUT_RDWR)
