"""The command line that speaks to a running service, as a user runs it."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from sanic_app.client import COMMANDS, STORE_COMMANDS
from sanic_app.client.service import TASK, Json, Service
from sanic_app.client.watch import _View as View
from tests import warm
from tests.following import Following
from tests.running import Running, back_date

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as started:
        yield started


def run(
    url: str | Running, *arguments: str, text: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    url = url if isinstance(url, str) else url.url
    return warm.run(arguments, env={**os.environ, "SANIC_APP_URL": url, **environ}, text=text)


def say(running: str | Running, *arguments: str, text: str = "") -> str:
    done = run(running, *arguments, text=text)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def ask(running: Running, *arguments: str, text: str = "") -> Any:
    return json.loads(say(running, *arguments, "--json", text=text))


def refusal(url: str | Running, *arguments: str, status: int = 1, text: str = "") -> str:
    done = run(url, *arguments, text=text)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("sanic-app: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("sanic-app: ").strip()


def test_a_task_is_added_and_waited_for(running: Running) -> None:
    assert say(running, "add", "5", "0.2", "--wait") == (
        "added task 1: num 5, 0.2 s, waiting\ntask 1: num 5, 0.2 s, done\n"
    )
    done = ask(running, "add", "-9223372036854775808", "0", "--wait")
    assert (done["num"], done["state"]) == (-(2**63), "done")
    assert running.result() == [5, -(2**63)]


def test_a_batch_comes_from_a_file_or_from_standard_input(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("1 0\n\n9007199254740993, 0.0\n")
    assert say(running, "add", "--file", str(file), "--wait").startswith("added tasks 1 to 2\n")
    assert ask(running, "add", "--file", "-", text="3 60")["count"] == 1
    assert running.result() == [1, 9007199254740993]
    assert "line 2: must be" in refusal(running, "add", "--file", "-", status=2, text="1 1\n2\n")
    assert "cannot read" in refusal(running, "add", "--file", str(tmp_path / "no"), status=2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_file_of_another_program_is_read_or_refused_in_one_line(
    running: Running, tmp_path: Path, encoding: str
) -> None:
    bom = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    file = tmp_path / "tasks.txt"
    text = "1 60\r\n\u00e9" if encoding == "latin-1" else "1 60\r\n2 60\r\n"
    file.write_bytes((bom + text).encode(encoding))
    if encoding == "latin-1":
        line = refusal(running, "add", "--file", str(file), status=2)
        assert line == f"cannot read {file}: it is not UTF-8"
    else:
        assert ask(running, "add", "--file", str(file))["count"] == 2


@pytest.mark.parametrize(
    ("given", "timeout"),
    [
        ("0.1234567", 0.123457),
        ("007.50", 7.5),
        # As binary fractions these are a whole microsecond less.
        ("10.00000000000000000001", 10.000001),
        ("0.10000000000000000000001", 0.100001),
        ("1E-30", 0.000001),
    ],
)
def test_a_timeout_is_the_decimal_that_was_given(
    running: Running, given: str, timeout: float
) -> None:
    assert ask(running, "add", "5", given)["timeout"] == timeout
    last = ask(running, "add", "--file", "-", text=f"5 {given}")["last"]
    assert ask(running, "task", str(last))["timeout"] == timeout


def test_a_file_that_is_too_large_is_said_to_be(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("1 60\n" * 300_000)
    assert "too large" in refusal(running, "add", "--file", str(file))
    assert ask(running, "queue")["depth"] == 0


def test_an_answer_that_ends_the_connection_before_the_body_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("1 60\n" * 300_000)
    body = json.dumps({"detail": "It is too large.", "applied": False}).encode()
    head = "HTTP/1.1 413 Too Large\r\nContent-Type: application/problem+json\r\nContent-Length:"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            client = server.accept()[0]
            with client:
                client.recv(1_000)
                client.sendall(f"{head} {len(body)}\r\n\r\n".encode() + body)
                # What was not read resets the connection.

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert refusal(url, "add", "--file", str(file)) == "It is too large."


def output_of(running: Running, command: str, **environ: str) -> tuple[int, str, str]:
    """Run a line of the shell in which $S is the program."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = f"{sys.executable} -m sanic_app"
    done = subprocess.run(
        ["sh", "-c", command.replace("$S", program)],
        env={**clean, "SANIC_APP_URL": running.url, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "results",
        "results --json",
        "queue",
        "add 1 60",
        "watch --json",
        "--help",
        "--version",
        "add --help",
        "health -P PORT",
    ],
)
def test_output_that_cannot_be_written_is_one_line(running: Running, command: str) -> None:
    command = command.replace("PORT", str(running.port))
    if "watch" in command:
        command = f"{command} & sleep 1; $S add 1 60 >&2 2>/dev/null; wait $!"
        command = command.replace(" &", " > /dev/full &", 1)
        status, _, said = output_of(running, f"$S {command}")
        said = "".join(line for line in said.splitlines(True) if "added" not in line)
        assert (status, said) == (
            1,
            "sanic-app: cannot write the output: No space left on device\n",
        )
        return
    full = output_of(running, f"$S {command} > /dev/full")
    assert full == (1, "", "sanic-app: cannot write the output: No space left on device\n")
    if "--" not in command:
        closed = output_of(running, f"$S {command} >&-")
        assert closed == (1, "", "sanic-app: cannot write the output: Bad file descriptor\n")


def test_an_ascii_terminal_shows_what_it_can(running: Running) -> None:
    say(running, "add", "1", "60")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, shown, said = output_of(running, "$S queue", **ascii_only)
    assert (status, said) == (0, "")
    assert shown.startswith("1 tasks, ")
    assert output_of(running, "$S queue", PYTHONIOENCODING="ascii")[::2] == (0, "")


def test_a_key_makes_another_try_safe(running: Running) -> None:
    first = ask(running, "add", "1", "60", "--key", "k")
    assert ask(running, "add", "1", "60", "--key", "k") == first
    assert "key" in refusal(running, "add", "2", "60", "--key", "k").lower()


def test_the_queue_and_one_task_are_shown(running: Running) -> None:
    ask(running, "add", "--file", "-", text="7 60\n" * 12)
    shown = ask(running, "queue", "--limit", "3")
    assert (shown["depth"], len(shown["tasks"])) == (12, 3)
    text = say(running, "queue")
    assert re.match(r"12 tasks, 7\d\d\.\d s of waits · ends \d{4}-", text), text
    assert "and 2 more" in text
    assert ask(running, "task", "2")["position"] == 1
    assert "due in" in say(running, "task", "2")


def test_results_are_shown_in_pages_and_all(running: Running) -> None:
    say(running, "add", "--file", "-", "--wait", text="4 0\n" * 1_001)
    found = ask(running, "results")["results"]
    assert [each["history_num"] for each in found] == list(range(1, 1_002))
    found = ask(running, "results", "--after", "5", "--limit", "2")["results"]
    assert [each["history_num"] for each in found] == [6, 7]
    assert len(say(running, "results").splitlines()) == 1_002


def test_cancel_pause_and_resume(running: Running) -> None:
    ask(running, "add", "--file", "-", text="7 60\n" * 9)
    assert say(running, "pause") == "paused\n"
    assert ask(running, "queue")["paused"] is True
    assert "PAUSED" in say(running, "queue")
    assert say(running, "resume") == "resumed\n"
    assert say(running, "cancel", "2") == "cancelled task 2: num 7, 60 s, cancelled\n"
    assert say(running, "cancel", "4", "99") == "cancelled 6 tasks\n"
    refusal(running, "cancel", "2")
    done = run(running, "task", "2", "--wait")
    assert (done.returncode, "cancelled" in done.stdout) == (1, True)


def test_a_wait_goes_on_over_a_restart_of_the_service(tmp_path: Path) -> None:
    with Running(tmp_path) as first:
        ask(first, "add", "5", "600")
        waiting = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "task", "1", "--wait", "--url", first.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # It waits: this very request for the metrics is the other one.
        while "sanic_app_http_requests_in_flight 2.0" not in first.request("GET", "/metrics")[1]:
            time.sleep(0.01)
        first.kill()
        back_date(tmp_path / "queue.db", 599)
        with Running(tmp_path, "--port", str(first.port)):
            out, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (0, "task 1: num 5, 600 s, done\n")
    assert "trying again" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add"], "NUM and TIMEOUT are required"),
        (["add", "5"], "NUM and TIMEOUT are required"),
        (["add", "x", "1"], "NUM: not a whole number: x"),
        (["queue", "--limit", "x"], "--limit: not a whole number: x"),
        (["task", "abc"], "HISTORY_NUM: not a whole number: abc"),
        (["add", "1_0", "1"], "NUM"),
        (["add", "1", "nan"], "TIMEOUT: not a number of seconds: nan"),
        (["add", "1", "-1"], "TIMEOUT"),
        (["add", "1", "1e999"], "TIMEOUT"),
        (["add", "1", "1", "--file", "-"], "or --file"),
        (["queue", "--nonsense"], "--nonsense"),
        (["queue", "--url", "ftp://x"], "not a URL"),
        (["queue", "--url", "127.0.0.1:8000"], "not a URL"),
        (["follow", "--url", "http://127.0.0.1:x"], "not a URL"),
        (["follow", "--url", "http://127.0.0.1:99999"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:0"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/#x"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/?"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/a b"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/\u00e9"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1\n"], "not a URL"),
        (["queue", "--url", "http://[::1"], "Invalid IPv6 URL"),
        (["add", "1", "1", "--key", ""], "--key: must be 1 to 255 visible"),
        (["add", "1", "1", "--key", "a b"], "--key: must be 1 to 255 visible"),
        (["add", "1", "1", "--key", "a\nb"], "--key: must be 1 to 255 visible"),
        (["add", "1", "1", "--key", "\u043a"], "--key: must be 1 to 255 visible"),
        (["add", "--file", ""], "--file: must not be empty"),
        (["watch", "--json", "--after", "x"], "--after: not the id of an event: x"),
        (["watch", "--after", "0.0"], "--after is for --json"),
        (["follow", "--exec", " "], "--exec: must not be empty"),
        (["follow", "--cursor", ""], "--cursor: must not be empty"),
        (["results", "--limit", "-5"], "--limit: out of range: -5"),
        (["results", "--after", "-1"], "--after: out of range: -1"),
    ],
)
def test_what_is_not_understood_is_one_line(arguments: list[str], says: str) -> None:
    assert says in refusal("http://127.0.0.1:1", *arguments, status=2)


def test_a_password_in_a_url_is_not_shown() -> None:
    said = refusal("http://user:secret@127.0.0.1:1", "queue", status=2)
    assert "SANIC_APP_API_TOKEN" in said
    assert "secret" not in said


def test_what_the_service_refuses_is_one_line(running: Running) -> None:
    assert "64-bit" in refusal(running, "add", "9223372036854775808", "0")
    assert "/timeout" in refusal(running, "add", "1", "86401")
    refusal(running, "cancel", "77")
    refusal(running, "task", "77")
    assert "limit" in refusal(running, "queue", "--limit", "1001")


def test_a_service_that_is_not_there_is_one_line() -> None:
    assert "no answer from http://127.0.0.1:1" in refusal("http://127.0.0.1:1", "queue")
    assert "no answer" in refusal("http://127.0.0.1:1", "watch")


def test_the_token_comes_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-this-test\n")
    environ = {"SANIC_APP_API_TOKEN": "of-this-test"}
    with Running(tmp_path, environ=environ) as running:
        assert run(running, "pause", **environ).returncode == 0
        file = {"SANIC_APP_API_TOKEN_FILE": str(tmp_path / "token")}
        assert run(running, "resume", **file).returncode == 0
        for wrong in ({}, {"SANIC_APP_API_TOKEN": "other"}):
            done = run(running, "queue", **wrong)
            assert (done.returncode, done.stdout) == (1, "")
            assert "token" in done.stderr.lower()
        assert run(running, "queue", SANIC_APP_API_TOKEN="").returncode == 2
        missing = {"SANIC_APP_API_TOKEN_FILE": str(tmp_path / "no")}
        assert run(running, "queue", **missing).returncode == 2


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


def test_the_live_view_shows_an_address_of_ipv6_and_no_markup() -> None:
    class Odd(Service):
        def ask(self, *arguments: Any, **_: Any) -> Any:
            state = [{**TASK_SHOWN, "state": "[/red]"}]
            return {**WHOLE, "tasks": state} if "tasks" in arguments[2] else WHOLE

    view = View(Odd("http://[fd00::1]:8000", None))
    view.look()
    console = Console(file=StringIO(), width=100, markup=False)
    console.print(view.picture())
    assert "http://[fd00::1]:8000" in console.file.getvalue()  # type: ignore[attr-defined]


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


def test_a_reader_that_has_seen_enough_is_no_failure_with_a_traceback(running: Running) -> None:
    say(running, "add", "--file", "-", "--wait", text="4 0\n" * 5_000)
    command = f"{sys.executable} -m sanic_app results --url {running.url} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["task", "num", "finished"]
    assert "Traceback" not in done.stderr


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", *arguments],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def until(self, pattern: str, seconds: float = 15) -> None:
        """Read until something is shown that was not there before."""
        begun, start = time.monotonic(), len(self.text)
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() - begun < seconds, (pattern, self.text[-3_000:])
            if select.select([self._master], [], [], 0.2)[0]:
                data = os.read(self._master, 65_536).decode("utf-8", "replace")
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data)

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(10)
        finally:
            os.close(self._master)


def test_the_live_view_follows_the_queue_over_a_restart(tmp_path: Path) -> None:
    with Running(tmp_path) as first:
        watched = Terminal("watch", "--url", first.url)
        watched.until("nothing is waiting")
        say(first, "add", "4711", "60")
        watched.until(r"task 1: num 4711 .* s left")
        say(first, "cancel", "1")
        say(first, "add", "4712", "0.1")
        watched.until(r"done: 4712 \(task 2\)")
        say(first, "pause")
        watched.until("PAUSED")
        say(first, "add", "815", "60")
        watched.until("815")
        first.stop()
        watched.until("disconnected")
        with Running(tmp_path, "--port", str(first.port)) as second:
            watched.until("1 tasks")
            say(second, "resume")
            watched.until(r"num 815 .* s left")
            assert watched.close() == 0
    assert "Traceback" not in watched.text


class Meanwhile(Service):
    """Finishes the head, and another task after it, between two requests of a view."""

    def queue_page(self, limit: int) -> list[Json]:
        found = super().queue_page(limit)
        self.ask("DELETE", "/api/v1/tasks/1", TASK)
        self.ask("POST", "/api/v1/tasks", TASK, '{"num": 5, "timeout": 0}')
        self.ask("GET", "/api/v1/tasks/2?wait=20", TASK)
        return found


def test_the_live_view_goes_on_when_the_head_it_looks_at_is_finished_and_removed(
    tmp_path: Path,
) -> None:
    with Running(tmp_path, environ={"SANIC_APP_HISTORY_KEEP": "1"}) as running:
        running.add(4711, 60)
        view = View(Meanwhile(running.url, None))
        view.look()
        assert running.request("GET", "/api/v1/tasks/1")[0] == 410
        console = Console(file=StringIO(), width=100)
        console.print(view.picture())
        assert "nothing is waiting" in console.file.getvalue()  # type: ignore[attr-defined]


def test_events_are_printed_for_scripts(running: Running) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sanic_app", "watch", "--json", "--url", running.url],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not running.request("GET", "/metrics")[1].count("sanic_app_event_listeners 1.0"):
        time.sleep(0.02)
    say(running, "add", "5", "0")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [line["event"] for line in lines[:2]] == ["added", "started"]
    assert [line["id"].partition(".")[2] for line in lines[:2]] == ["1.0", "1.0"]
    assert lines[2]["tasks"][0]["num"] == 5
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    process.stdout.close()


def test_printed_events_go_on_over_a_restart_and_behind_an_id(tmp_path: Path) -> None:
    def watch(url: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "watch", "--json", "--url", url, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(process: subprocess.Popen[str], count: int) -> list[tuple[str, str]]:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(count)]
        ids.extend(line["id"] for line in lines)
        return [(line["event"], line["id"].partition(".")[2]) for line in lines]

    ids: list[str] = []
    with Running(tmp_path) as first:
        watched = watch(first.url)
        while not first.request("GET", "/metrics")[1].count("sanic_app_event_listeners 1.0"):
            time.sleep(0.02)
        first.add(1, 600)
        assert events(watched, 2) == [("added", "1.0"), ("started", "1.0")]
        first.stop()
        with Running(tmp_path, "--port", str(first.port)) as second:
            # Perhaps before the other one is back: it misses nothing.
            second.add(2, 600)
            second.request("DELETE", "/api/v1/tasks/1")
            assert events(watched, 2) == [("added", "2.0"), ("finished", "2.1")]
            later = watch(second.url, "--after", ids[0])
            assert events(later, 2) == [("added", "2.0"), ("finished", "2.1")]
            for process in (watched, later):
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=10)
                assert process.returncode == 0
                assert err.count("trying again") == (process is watched)
    assert "--after" in refusal("http://127.0.0.1:1", "watch", "--json", "--after", "x", status=2)


class Beating(BaseHTTPRequestHandler):
    """A service whose streams send an event and a heartbeat, and then break."""

    resumed: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if self.path == "/api/v1/events":
            self.resumed.append(self.headers["Last-Event-ID"])
            self.wfile.write(b'id: 5.0\nevent: added\ndata: {"tasks": []}\n\n:\n\n')
        elif self.path == "/api/v1/queue":
            figures = {"depth": 0, "backlog_seconds": 0.0, "paused": False, "head": None}
            self.wfile.write(json.dumps(figures).encode())
        else:
            self.wfile.write(b'{"tasks": []}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_heartbeat_is_no_reason_to_forget_the_last_event(options: list[str]) -> None:
    Beating.resumed.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Beating)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    watching = subprocess.Popen(
        [sys.executable, "-m", "sanic_app", "watch", "--url", url, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while len(Beating.resumed) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Beating.resumed[:2] == [None, "5.0"]
    finally:
        watching.kill()
        watching.wait()
        server.shutdown()
        server.server_close()


class Failing(Beating):
    """A service that fails each time that it is asked the same for the second time."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.asked.count(self.path) != 2:
            super().do_GET()
            return
        self.send_response(500 if self.path == "/api/v1/events" else 503)
        self.send_header("Content-Type", "application/problem+json")
        # The connection is lost before the end of this answer, too.
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b'{"detail": "The store cannot be reached now."}')


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_service_that_fails_for_a_while_is_watched_on(options: list[str]) -> None:
    Failing.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    watching = subprocess.Popen(
        [sys.executable, "-m", "sanic_app", "watch", *options],
        env={**os.environ, "SANIC_APP_URL": f"http://127.0.0.1:{server.server_port}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wanted = ["/api/v1/events"] if options else ["/api/v1/events", "/api/v1/queue"]
    try:
        deadline = time.monotonic() + 20
        while any(Failing.asked.count(path) < 3 for path in wanted):
            assert watching.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        watching.kill()
        watching.wait()
        server.shutdown()
        server.server_close()


def test_every_command_stands_in_the_readme_and_in_the_help() -> None:
    listed = re.findall(r"^sanic-app (\w+)", README, re.MULTILINE)
    assert {*COMMANDS, *STORE_COMMANDS} == set(listed)
    done = run("http://127.0.0.1:1", "--help")
    assert done.returncode == 0
    for command, text in COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(text)}$", done.stdout, re.MULTILINE)
    for command in STORE_COMMANDS:
        assert run("http://127.0.0.1:1", command, "--help").returncode == 0
    for command in COMMANDS.keys() - {"health"}:
        assert "--json" in run("http://127.0.0.1:1", command, "--help").stdout


def test_the_help_does_not_depend_on_docstrings() -> None:
    def text(*options: str) -> str:
        command = [sys.executable, *options, "-m", "sanic_app", "add", "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "Add a task" in text()
    assert text("-OO") == text()
