"""`watch`: the live view in a terminal, and the events that it prints for scripts."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from sanic_app.client.service import TASK, Json, Service
from sanic_app.client.watch import _View as View
from tests.commands import refusal, say
from tests.running import Running
from tests.test_another_program import TASK_SHOWN, WHOLE


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as started:
        yield started


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
