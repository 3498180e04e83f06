"""Answers that come a byte at a time: a command does not wait for them without end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat

import pytest

from sanic_app.client import transport
from sanic_app.client.service import Refused, Service, Unreachable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
BEAT = b":\n\n"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "WHOLE_SECONDS", 0.2)


@contextmanager
def dripping(at_once: bytes, drip: bytes, seconds: float = 0.05) -> Iterator[Service]:
    """Answer with the first bytes at once, and with the others again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client, suppress(OSError):
                client.recv(65_536)
                client.sendall(at_once)
                for piece in repeat(drip):
                    time.sleep(seconds)
                    client.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield Service(f"http://127.0.0.1:{listening.getsockname()[1]}", None)


@pytest.mark.parametrize(
    ("at_once", "drip"),
    [
        (b"HTTP/1.1 ", b"2"),
        (HEAD, b"X-Slow: 1\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"\r\n", b" "),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_an_answer_is_whole_in_time_or_none(at_once: bytes, drip: bytes) -> None:
    with (
        dripping(at_once, drip) as service,
        pytest.raises(Unreachable, match=r"no answer from .*: timed out$"),
    ):
        service.ask("GET", "/api/v1/queue", dict, seconds=0.3)


def test_a_refusal_is_whole_in_time_or_none_of_the_service() -> None:
    head = b"HTTP/1.1 503 X\r\nContent-Type: application/problem+json\r\n\r\n"
    with dripping(head, b" ") as service, pytest.raises(Refused, match="status 503, and not from"):
        service.ask("GET", "/api/v1/queue", dict, seconds=2)


def test_a_message_of_a_stream_is_whole_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanic_app.client.service.SILENT_SECONDS", 0.3)
    with (
        dripping(HEAD + b"\r\n" + BEAT, b"x") as service,
        pytest.raises(Unreachable, match="timed out"),
    ):
        list(service.events())


def test_a_stream_goes_on_as_long_as_its_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanic_app.client.service.SILENT_SECONDS", 5.0)
    monkeypatch.setattr(transport, "WHOLE_SECONDS", -3.0)
    with dripping(HEAD + b"\r\n", BEAT) as service:
        events = service.events()
        begun = time.monotonic()
        while time.monotonic() - begun < 2.5:
            assert next(events).id == ""
        events.close()
