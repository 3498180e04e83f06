"""Heads that Sanic may read itself: they are valid, and it makes no mistake with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanic_app.http import framing

ODD = ["Transfer-Encoding: chunked", "TRANSFER-ENCODING:Chunked", ": x", " a: b", "a : b", "a"]
LINES = st.one_of(
    st.builds("{}:{}".format, st.text("aZ-!", min_size=1), st.text("aZ: \t!~")),
    st.builds("a:{0}b{0}c{0}".format, st.text("\r\n\x0b\x1c\x7f\x85\xa0\u2003\0", max_size=1)),
    st.sampled_from(ODD),
)
FIRST = st.one_of(
    st.builds("PUT /{} HTTP/1.1".format, st.text("a?%#/\x7f\xe9 ", max_size=2)),
    st.sampled_from(["GET / HTTP/1.0", "get / HTTP/1.1", "OPTIONS * HTTP/1.1", "GET x HTTP/1.1"]),
)


@given(FIRST, st.lists(LINES, max_size=3))
def test_a_plain_head_is_valid_and_sanic_reads_the_fields_that_it_has(
    first: str, lines: list[str]
) -> None:
    head = "\r\n".join([first, *lines]).encode()
    if not framing.is_plain(bytearray(head + b"\r\n\r\nrest")):
        return
    assert framing.is_head(head)
    as_sanic_does = [line.split(":", 1) for line in head.decode().split("\r\n")[1:]]
    fields = [(name.lower(), value.lstrip()) for name, value in as_sanic_does]
    assert framing.fields(head) == fields
    assert first.partition(" ")[2].startswith("/")
    assert first.endswith("1.1")
    assert "transfer-encoding" not in dict(fields)


USUAL = [
    b"GET / HTTP/1.1",
    b"PUT /a?b=%20 HTTP/1.1\r\nHost: a:1\r\nX:\r\nY:\t a  b",
    b"POST /add_task HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 26",
]


@pytest.mark.parametrize("head", USUAL)
def test_usual_heads_are_plain(head: bytes) -> None:
    assert framing.is_plain(bytearray(head + b"\r\n\r\n"))
    assert not framing.is_plain(bytearray(head + b"\r\n"))
