"""Plain heads, which are read here: they are valid, and Sanic reads the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sanic import Request
from sanic.exceptions import BadRequest, BadURL
from sanic.http import Http

from sanic_app.http import framing
from sanic_app.http.cycle import RequestCycle

MEANT = [
    *("Transfer-Encoding: chunked", "TRANSFER-ENCODING:Chunked", "Upgrade: websocket"),
    *("Expect: 100-continue", "expect:a", "Connection: close", "connection:\tKeep-Alive"),
    *("Connection: a, close", "Content-Length: 4", "content-length:+4", "Content-Length: 1_0"),
    *("Content-Length:", "Content-Length: 4 4", "CONTENT-LENGTH: 0", ": x", " a: b", "a : b", "a"),
]
LINES = st.one_of(
    st.builds("{}:{}".format, st.text("aZ-!", min_size=1), st.text("aZ: \t!~")),
    st.builds("a:{0}b{0}c{0}".format, st.text("\r\n\x0b\x1c\x7f\x85\xa0\u2003\0", max_size=1)),
    st.sampled_from(MEANT),
)
FIRST = st.one_of(
    st.builds("PUT /{} HTTP/1.1".format, st.text("a?%#/:@\x7f\xe9 ", max_size=4)),
    st.just("HEAD / HTTP/1.1"),
    st.sampled_from(["GET / HTTP/1.0", "get / HTTP/1.1", "OPTIONS * HTTP/1.1", "GET x HTTP/1.1"]),
)


@pytest.fixture(scope="module", autouse=True)
def _limit() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # A server sets it from its configuration.
        patch.setattr(Http, "HEADER_MAX_SIZE", 8192)
        yield


async def nobody_listens(*_: object, **__: object) -> None:
    """Take a signal of Sanic's: no answer is needed."""


class Sends(SimpleNamespace):
    """What a cycle needs of its connection: here all has come at once."""

    def __init__(self, received: bytes, cycle: type[Http]) -> None:
        config = SimpleNamespace(KEEP_ALIVE=True)
        app = SimpleNamespace(config=config, dispatch=nobody_listens)
        super().__init__(app=app, state={"requests_count": 0}, turned=True, transport=None)
        self.request_class: type[Request] = Request
        self.recv_buffer = bytearray(received)
        self.request_max_size = 100
        self.receive_more = self.send = None
        self.http: Any = cycle(self)
        self.http.init_for_request()


async def received(sent: bytes, cycle: type[Http]) -> tuple[object, ...]:
    """Return all that a cycle makes of a head, its fields sorted and their names without case."""
    connection = Sends(sent, cycle)
    http = connection.http
    try:
        await http.http1_request_header()
    except (BadRequest, BadURL) as error:
        return (type(error), http.request, http.head_only)
    request = http.request
    fields = sorted((name.lower(), value) for name, value in request.headers.items())
    several = len(request.headers.getall("connection", ())) > 1
    return (
        *(request.method, request.raw_url, request.version, request.path, request.query_string),
        *(fields, http.url, http.head_only, http.upgrade_websocket, http.expecting_continue),
        *(http.request_body or None, http.request_bytes, http.request_bytes_left),
        *(bytes(http.recv_buffer), not several and http.keep_alive, request.stream is http),
    )


def check(first: str, *lines: str) -> bool:
    """Return whether the head is plain; then it must be valid, and read as Sanic does."""
    head = "\r\n".join([first, *lines]).encode()
    plain = framing.plain_head(bytearray(sent := head + b"\r\n\r\nrest")) is not None
    if plain:
        assert framing.is_head(head)
        expected = asyncio.run(received(sent, Http))
        assert asyncio.run(received(sent, RequestCycle)) == expected
    return plain


@given(FIRST, st.lists(LINES, max_size=3))
def test_a_plain_head_is_valid_and_read_as_sanic_does(first: str, lines: list[str]) -> None:
    check(first, *lines)


@pytest.mark.parametrize("first", ["GET /a?b HTTP/1.1", "HEAD / HTTP/1.1"])
def test_fields_that_mean_something_are_read_as_sanic_does(first: str) -> None:
    plain = [pair for pair in product(MEANT, repeat=2) if check(first, *pair)]
    assert len(plain) > len(MEANT)


USUAL = [
    b"GET / HTTP/1.1",
    b"PUT /a?b=%20 HTTP/1.1\r\nHost: a:1\r\nX:\r\nY:\t a  b",
    b"POST /add_task HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 26",
]


@pytest.mark.parametrize("head", USUAL)
def test_usual_heads_are_plain(head: bytes) -> None:
    assert framing.plain_head(bytearray(head + b"\r\n\r\n"))
    assert not framing.plain_head(bytearray(head + b"\r\n"))
