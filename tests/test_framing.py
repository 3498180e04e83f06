"""Where a request ends. What is doubtful is refused, and nothing behind it becomes a request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sanic_app.http import connection
from tests.serving import ON_UVLOOP, Service, request, service

pytestmark = ON_UVLOOP

BODY = b'{"num": 7, "timeout": 600}'
ADD = request("/add_task", BODY)
READ = request("/get_result", method="GET")
COUNT = "http_request_duration_seconds_count"


SMUGGLING = [
    ["Content-Length: 26", "Content-Length: 26"],
    ["Content-Length: 26", "Content-Length: 0"],
    ["Content-Length: 26", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 26"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: identity"],
    ["Transfer-Encoding: gzip, chunked"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding: chun\u212aed"],
    ["Content-Length: -1"],
    ["Content-Length: +26"],
    ["Content-Length: 2_6"],
    ["Content-Length: 0x1a"],
    ["Content-Length: 26, 26"],
    ["Content-Length:"],
    ["Content-Length: 26.0"],
    ["Content-Length : 26"],
    ["Transfer-Encoding : chunked"],
    ["no colon"],
    ["X: y", " folded: Content-Length: 26"],
    ["\u0663: x"],
    ["Content-Length: \u0662\u0666"],
    ["Content-Length: 26 26"],
    ["Content-Length: 26;"],
    ["Content-Length: " + "0" * 5_000 + "26"],
    ["Transfer-Encoding: chunked;x=y"],
    ["Transfer-Encoding: chunked,"],
    ["Transfer-Encoding: \u212aeep"],
    [": x"],
    [" X: y"],
    ["X\u00a0: y"],
    ["X(y): z"],
]


async def test_a_body_of_doubtful_length_ends_the_connection(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for lines in SMUGGLING:
            async with served.wire() as wire:
                await wire.send(request("/add_task", b"", *lines) + BODY + ADD)
                answer = await wire.answer()
                assert answer.problem["type"].endswith(":invalid"), lines
                assert answer.headers["connection"] == "close", lines
                assert await wire.ended() == b"", lines
        # Neither these nor what might hide in their bodies.
        assert served.parts.queue.figures.last_history_num == 0


# Sanic takes some of these for blanks, and a proxy may take others for the end of a line.
STRAYS = [*map(chr, {*range(32), 127} - {9}), "\n ", "\r ", "\n\n", "\r\r\n", "\n\r"]
BLANKS_OF_UNICODE = ["\u00a0", "\u0085", "\u2003", "\u3000", "\ufeff"]


async def refused(served: Service, raw: bytes) -> None:
    """Send bytes: they are refused, with an id, and nothing behind them is taken for a request."""
    async with served.wire() as wire:
        await wire.send(raw)
        answer = await wire.answer()
        assert answer.problem["type"].endswith(":invalid"), raw
        assert answer.problem["applied"] is False
        assert answer.headers["connection"] == "close", raw
        assert answer.headers["x-request-id"]
        assert await wire.ended() == b"", raw


@pytest.mark.parametrize("stray", STRAYS, ids=ascii)
async def test_a_control_character_in_a_head_ends_the_connection(
    tmp_path: Path, stray: str
) -> None:
    lines = [
        f"Transfer-Encoding: {stray}chunked",
        f"Transfer-Encoding: chunked{stray}",
        f"Transfer-Encoding:{stray}chunked",
        f"Transfer-Encoding{stray}: chunked",
        f"{stray}Transfer-Encoding: chunked",
        f"Content-Length: {stray}26",
        f"Content-Length: 26{stray}",
        f"Content-Length: 2{stray}6",
        f"Authorization: Bearer x{stray}",
        f"X: y{stray}z",
        f"X: y\r\nHost: localhost{stray}",
    ]
    bodies = [b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"] * 5 + [BODY] * 6
    async with service(tmp_path, api_token=b"x") as served:
        for line, body in zip(lines, bodies, strict=True):
            known = () if "Auth" in line else ("Authorization: Bearer x",)
            await refused(served, request("/add_task", b"", *known, line) + body + ADD)
        for begin in (
            f"POST{stray} /add_task",
            f"POST /add{stray}_task",
            f"POST /add_task {stray}",
        ):
            await refused(served, ADD.replace(b"POST /add_task", begin.encode()))
        counted = [
            served.metric(COUNT, method=method, route="unmatched", status="400")
            for method in ("POST", "other")
        ]
        assert sum(counted) == len(lines) + 3
        assert served.parts.queue.figures.last_history_num == 0


async def test_what_only_unicode_calls_a_blank_is_none(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for blank in BLANKS_OF_UNICODE:
            chunks = b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"
            for line in (f"{blank}chunked", f"chunked{blank}"):
                raw = request("/add_task", b"", f"Transfer-Encoding: {line}")
                await refused(served, raw + chunks + ADD)
            for line in (f"{blank}26", f"26{blank}"):
                raw = request("/add_task", b"", f"Content-Length: {line}")
                await refused(served, raw + BODY + ADD)
            for host in (f"{blank}localhost", f"localhost{blank}"):
                answer = await served.say(request("/add_task", BODY, host=host))
                assert answer.status == 403
        assert served.parts.queue.figures.last_history_num == 0
    async with service(tmp_path, api_token=b"x") as served:
        for blank in BLANKS_OF_UNICODE:
            for given in (f"{blank}Bearer x", f"Bearer {blank}x", f"Bearer x{blank}"):
                answer = await served.say(request("/add_task", BODY, f"Authorization: {given}"))
                assert answer.status == 401, given


async def test_other_values_may_have_any_text(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for value in ("Jürgen \t \u0661", "\u00a0", "\udcff\udc80", "\t", "", '"(),/:;<=>?@[]{}'):
            await wire.send(request("/add_task", BODY, f"User-Agent: {value}", f"X:{value}"))
            assert (await wire.answer()).status == 200, value


async def test_an_empty_line_before_a_request_is_ignored(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        # As some old clients send it behind a body, which may end up in one piece with it.
        await wire.send(b"\r\n" + ADD + b"\r\n")
        assert (await wire.answer()).status == 200
        await wire.send(ADD + b"\r\n" + READ)
        assert (await wire.answer()).status == 200
        assert (await wire.answer()).status == 200
        for byte in b"\r\n" + READ:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.0005)
        assert (await wire.answer()).status == 200
    async with service(tmp_path) as served:
        for begin in (b"\r\n\r\n", b"\n", b"\r", b" \r\n", b"\r\n\n", b"\n\r\n"):
            await refused(served, begin + READ)


async def test_an_empty_line_is_no_request_that_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.02)
    async with service(tmp_path, keep_alive=1) as served, served.wire() as wire:
        await wire.send(READ + b"\r\n")
        assert (await wire.answer()).status == 200
        await asyncio.sleep(0.6)
        # The time of a request begins with its first byte.
        await wire.send(READ[:5])
        await asyncio.sleep(0.1)
        await wire.send(READ[5:] + b"\r\n")
        assert (await wire.answer()).status == 200
        assert await wire.ended() == b""
        labels = {"method": "other", "route": "unmatched"}
        assert served.metric(COUNT, status="408", **labels) == 0


async def test_what_cannot_become_a_head_is_refused_before_its_end(tmp_path: Path) -> None:
    begins = [
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\n\r",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\x00",
        b"GET / HTTP/1.1\rX",
    ]
    chunked = request("/add_task", b"", "Transfer-Encoding: chunked")
    async with service(tmp_path) as served:
        for begin in (*begins, chunked + b"1a\n", chunked + b"1a\r\n" + BODY + b"\n0\n\n"):
            async with served.wire() as wire:
                await wire.send(begin)
                assert await wire.hears(2), begin
                assert (await wire.answer()).status == 400, begin
        for begin in begins:
            async with served.wire() as wire:
                await wire.drip(begin)
                assert (await wire.answer()).status == 400, begin


BAD_CHUNKS = [
    *(b" 1a\r\n", b"\t1a\r\n", b"\x0b1a\r\n", b"1a\x0b\r\n", b"\r\n1a\r\n", b"1a;x\ny\r\n"),
    *(b"1a;x\ry\r\n", b"1a;x\x00\r\n", b"1a;\x7f\r\n", b"1a x\r\n", b"1a\n", b"1a;\n"),
    b"1a\r\n" + BODY + b"xx0\r\n\r\n",
    b"1a\r\n" + BODY + b"\n\n0\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n 0\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0;x\n\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nX: y\x0b\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nX: y\nContent-Length: 5\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nX : y\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\n: y\r\n\r\n",
    *(b"x\r\n", b"-1\r\n", b"+5\r\n", b"0x1a\r\n", b"1_a\r\n", b";\r\n"),
    b"1a" + b" " * 100 + b"\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nno field\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nGET /get_result HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nX: y\r\n folded\r\n\r\n",
    b"1a\r\n" + BODY + b"\r\n0\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "\u0661a\r\n".encode() + BODY + b"\r\n0\r\n\r\n",
]


async def test_a_bad_request_has_an_id_of_its_own(tmp_path: Path) -> None:
    mine = "X-Request-ID: of-the-first-one"
    async with service(tmp_path) as served:
        for bad in (b"\x00", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n"):
            async with served.wire() as wire:
                await wire.send(request("/get_result", b"", mine, method="GET"))
                assert (await wire.answer()).headers["x-request-id"] == "of-the-first-one"
                await wire.send(bad)
                answer = await wire.answer()
                assert answer.status == 400
                assert answer.headers["x-request-id"] not in ("", "of-the-first-one")


async def test_bad_chunks_end_the_connection(tmp_path: Path) -> None:
    head = request("/add_task", b"", "Transfer-Encoding: chunked")
    async with service(tmp_path) as served:
        for chunks in BAD_CHUNKS:
            async with served.wire() as wire:
                await wire.send(head + chunks + ADD)
                answer = await wire.answer()
                assert answer.problem["type"].endswith(":invalid"), chunks
                assert answer.problem["applied"] is False
                assert await wire.ended() == b"", chunks
        assert served.parts.queue.figures.last_history_num == 0


async def test_codings_have_no_case(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for coding in ("chunked", "Chunked", "CHUNKED"):
            await wire.send(request("/add_task", b"", f"Transfer-Encoding: {coding}"))
            await wire.send(b"1a\r\n" + BODY + b"\r\n0\r\n\r\n")
            assert (await wire.answer()).status == 200, coding


async def test_only_head_has_no_body(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for method in ("head", "Head"):
            await wire.send(request("/get_result", method=method) + READ)
            assert (await wire.answer()).problem["type"].endswith(":method-not-allowed")
            assert (await wire.answer()).status == 200


@pytest.mark.parametrize("last", ["keep-alive", "x"])
async def test_close_counts_in_whichever_line_it_stands(tmp_path: Path, last: str) -> None:
    lines = ["Connection: close", f"Connection: {last}"]
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(request("/get_result", b"", *lines, method="GET"))
        assert (await wire.answer()).headers["connection"] == "close"
        assert await wire.ended() == b""


@pytest.mark.parametrize(
    ("version", "line", "kept"),
    [
        # Java's client says this with each first request of a connection.
        ("1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c", True),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket", True),
        ("1.1", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket", True),
        ("1.1", "Connection: TE, keep-alive\r\nTE: trailers", True),
        ("1.1", "Connection: TE", True),
        ("1.1", "Connection: TE\r\nConnection: x", True),
        ("1.1", "Connection: TE, Close", False),
        ("1.1", "Connection: keep-alive\t,\tclose", False),
        ("1.1", "Connection: Upgrade, close\r\nUpgrade: h2c", False),
        ("1.0", "Connection: TE", False),
        ("1.0", "Connection: Keep-Alive, TE", True),
        ("1.0", "Connection: keep-alive, close", False),
    ],
)
async def test_a_connection_goes_on_unless_its_client_ends_it(
    tmp_path: Path, version: str, line: str, kept: bool
) -> None:
    asked = request("/get_result", b"", line, method="GET")
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(asked.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        answer = await wire.answer()
        assert answer.headers["connection"] == ("keep-alive" if kept else "close")
        if kept:
            await wire.send(READ)
            assert (await wire.answer()).status == 200
        else:
            assert await wire.ended() == b""


@pytest.mark.parametrize("target", ["*", "/get_result#x", "/get_result?#"])
async def test_a_target_that_no_request_has_is_refused(tmp_path: Path, target: str) -> None:
    async with service(tmp_path) as served:
        answer = await served.say(request(target, method="GET"))
        assert answer.problem["detail"] == "The request is not valid HTTP."
        assert (answer.status, answer.headers["connection"]) == (400, "close")


TRAILERS = [
    b"",
    b"Checksum: x\r\n",
    b"A: b\r\nC:\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
]


async def test_trailer_fields_behind_chunks_are_ignored(tmp_path: Path) -> None:
    head = request("/add_task", b"", "Transfer-Encoding: chunked")
    async with service(tmp_path) as served, served.wire() as wire:
        for trailer in TRAILERS:
            for last in (b"0", b"000", b"0;x=y", b'0 ; x="\xfc\t"'):
                raw = head + b"1a;x=y\r\n" + BODY + b"\r\n" + last + b"\r\n" + trailer + b"\r\n"
                await wire.send(raw + READ)
                assert (await wire.answer()).status == 200, raw
                assert (await wire.answer()).status == 200, raw
        # However the bytes arrive.
        for byte in head + b"1a\r\n" + BODY + b"\r\n0\r\nChecksum: x\r\n\r\n":
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.answer()).status == 200


async def test_blanks_behind_values_are_no_part_of_them(tmp_path: Path) -> None:
    chunks = b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"
    for blanks in (" ", "\t", " \t  "):
        async with service(tmp_path, api_token=b"x") as served, served.wire() as wire:
            lines = [
                f"Authorization: Bearer x{blanks}",
                f"Content-Type: application/json{blanks}",
                f"Origin: http://localhost{blanks}",
                f"X-Request-ID: mine{blanks}",
            ]
            key = f"Idempotency-Key: key{blanks}"
            await wire.send(request("/add_task", BODY, *lines[:1], *lines[2:], key))
            answer = await wire.answer()
            assert (answer.status, answer.headers["x-request-id"]) == (200, "mine")
            length = f"Transfer-Encoding: Chunked{blanks}"
            await wire.send(request("/add_task", b"", length, *lines, "Idempotency-Key: key"))
            await wire.send(chunks)
            assert (await wire.answer()).headers["idempotent-replayed"] == "true"
            await wire.send(request("/add_task", b"", f"Content-Length: 26{blanks}", *lines) + BODY)
            assert (await wire.answer()).status == 200
            expects = f"Expect: 100-continue{blanks}"
            await wire.send(request("/add_task", b"", "Content-Length: 26", expects, *lines))
            assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            await wire.send(BODY)
            assert (await wire.answer()).status == 200
            cursor = f"Last-Event-ID: 0.0{blanks}"
            await wire.send(request("/api/v1/events", b"", cursor, *lines[:1], method="GET"))
            assert (await wire.head())[0] == 200


NO_HTTP = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /get_result\r\n\r\n",
    b"GET  /get_result HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /get_result HTTP/2.0\r\nHost: localhost\r\n\r\n",
    b"GET /get_result HTTP/1.1\nHost: localhost\n\n\r\n\r\n",
    b"GET /get_\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


async def test_what_is_no_http_is_answered_400_and_counted(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for raw in NO_HTTP:
            async with served.wire() as wire:
                await wire.send(raw)
                answer = await wire.answer()
                assert answer.problem["type"].endswith(":invalid"), raw
                assert await wire.ended() == b"", raw
        labels = {"method": "other", "route": "unmatched", "status": "400"}
        assert served.metric(COUNT, **labels) == len(NO_HTTP)
