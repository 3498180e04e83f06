"""Clients that are slow, rude or gone."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from sanic_app.http import connection
from sanic_app.store import Slice
from tests.serving import ON_UVLOOP, Service, Wire, held, request, service

pytestmark = ON_UVLOOP

BODY = b'{"num": 7, "timeout": 600}'
ADD = request("/add_task", BODY)
READ = request("/get_result", method="GET")
COUNT = "http_request_duration_seconds_count"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the deadlines so short that a test can wait for them."""
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.4)
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.4)
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.02)


# Slow senders.


@pytest.mark.usefixtures("hurried")
async def test_a_header_that_comes_a_byte_at_a_time_is_answered_408(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        started = asyncio.get_running_loop().time()
        assert await wire.drip(b"GET /" + b"x" * 5_000) < 200
        answer = await wire.answer()
        assert answer.problem["type"].endswith(":timeout")
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]
        assert await wire.ended() == b""
        assert 0.3 <= asyncio.get_running_loop().time() - started < 5
        # It never became a request, but somebody asked.
        assert served.metric(COUNT, method="other", route="unmatched", status="408") == 1


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_comes_a_byte_at_a_time_is_answered_408(tmp_path: Path) -> None:
    for line, first in (("Content-Length: 9999", b""), ("Transfer-Encoding: chunked", b"1fff\r\n")):
        async with service(tmp_path) as served, served.wire() as wire:
            await wire.send(request("/add_task", b"", line) + first)
            assert await wire.drip(BODY + b" " * 5_000) < 200
            answer = await wire.answer()
            assert answer.problem["type"].endswith(":timeout")
            assert answer.problem["applied"] is False
            assert await wire.ended() == b""
            assert served.metric(COUNT, method="POST", route="/add_task", status="408") == 1
            assert served.metric("adds_refused_total", reason="timeout") == 1
            assert served.metric("http_requests_in_flight") == 0
            assert served.parts.queue.figures.last_history_num == 0


@pytest.mark.usefixtures("hurried")
async def test_a_request_in_pieces_is_served_within_its_time(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for start in range(0, len(ADD), 16):
            await wire.send(ADD[start : start + 16])
            await asyncio.sleep(0.001)
        assert (await wire.answer()).status == 200


async def test_each_request_of_a_connection_has_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.02)
    async with service(tmp_path) as served, served.wire() as wire:
        for _ in range(3):
            await wire.send(ADD[:20])
            await asyncio.sleep(0.4)
            await wire.send(ADD[20:])
            assert (await wire.answer()).status == 200
        await wire.send(ADD[:20])
        assert (await wire.answer()).status == 408


@pytest.mark.usefixtures("hurried")
async def test_the_rest_of_a_refused_body_cannot_hold_a_connection(tmp_path: Path) -> None:
    async with service(tmp_path, api_token=b"x") as served, served.wire() as wire:
        await wire.send(request("/add_task", b"", "Content-Length: 9999"))
        assert (await wire.answer()).status == 401
        assert await wire.drip(b" " * 5_000) < 200
        assert await wire.ended() == b""


@pytest.mark.usefixtures("hurried")
async def test_an_idle_connection_is_kept_as_long_as_each_answer_says(tmp_path: Path) -> None:
    async with service(tmp_path, keep_alive=2) as served, served.wire() as new:
        opened = asyncio.get_running_loop().time()
        async with served.wire() as used:
            for raw in (READ, request("/api/docs", method="OPTIONS"), READ):
                await used.send(raw)
                headers = (await used.head())[1]
                assert (headers["connection"], headers["keep-alive"]) == ("keep-alive", "timeout=2")
                await used.reader.readexactly(int(headers.get("content-length", 0)))
            started = asyncio.get_running_loop().time()
            # One that asks for nothing is not worth so much patience.
            assert await new.ended() == b""
            assert 0.3 < asyncio.get_running_loop().time() - opened < 1.5
            assert await used.ended() == b""
            assert 2 <= asyncio.get_running_loop().time() - started < 4


async def test_an_answer_that_ends_the_connection_promises_nothing(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        answer = await served.say(request("/get_result", b"", "Connection: close", method="GET"))
        assert answer.headers["connection"] == "close"
        assert "keep-alive" not in answer.headers
        async with served.wire() as wire:
            await wire.send(request("/api/v1/events", method="GET"))
            assert (await wire.head())[1]["keep-alive"] == "timeout=75"


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_leaves_an_answer_in_the_kernel_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slice_of(_: int, __: int) -> Slice:
        return Slice("1" * 30_000, None)

    async with service(tmp_path) as served, served.wire() as reading:
        monkeypatch.setattr(served.store, "results_slice", slice_of)
        await reading.send(READ)
        assert (await reading.answer()).status == 200
        async with served.wire(narrow=True) as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(READ)
            await asyncio.sleep(1.5)
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            # What the kernel has taken still comes, but the connection has ended behind it.
            assert (await wire.ended()).endswith(b"]}")
        await reading.send(READ)
        assert (await reading.answer()).status == 200


@pytest.mark.usefixtures("hurried")
async def test_an_answer_may_take_longer_than_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        async with held(served, monkeypatch) as gate:
            await wire.send(ADD)
            await gate.entered.wait()
            await asyncio.sleep(0.6)
        assert (await wire.answer()).status == 200


# Clients that do not read.


def endless(monkeypatch: pytest.MonkeyPatch, served: Service) -> None:
    """Give the whole lists no end."""

    async def slice_of(after: int, _: int) -> Slice:
        await asyncio.sleep(0)
        return Slice(",".join(["1234567890"] * 5_000), after + 1)

    monkeypatch.setattr(served.store, "results_slice", slice_of)


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_reads_nothing_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, served.wire(narrow=True) as wire:
        endless(monkeypatch, served)
        await wire.send(READ)
        assert (await wire.head())[0] == 200
        started = asyncio.get_running_loop().time()
        await until_quiet(served)
        assert 0.3 < asyncio.get_running_loop().time() - started < 5
        assert not (await wire.ended()).endswith(b"0\r\n\r\n")
        # The others never noticed.
        assert (await served.client.get("/api/v1/queue")).status_code == 200


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_reads_slowly_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, served.wire(narrow=True) as wire:
        endless(monkeypatch, served)
        await wire.send(READ)
        assert (await wire.head())[0] == 200
        for _ in range(120):
            await wire.reader.readexactly(4_096)
            await asyncio.sleep(0.01)
        assert served.metric("http_requests_in_flight") == 1


async def test_a_next_piece_of_the_same_size_is_no_standstill() -> None:
    size, end = 55_000, 2 * connection.UNREAD_SECONDS
    transport = SimpleNamespace(get_write_buffer_size=lambda: size)
    for written, cut in ((lambda second: second, False), (lambda _: 0, True)):
        seen = SimpleNamespace(transport=transport, _unread=(0, 0.0), _unread_since=0.0)
        found = []
        for second in range(1, end):
            seen._time = written(second)
            found.append(connection.Connection._is_unread(seen, second))  # type: ignore[arg-type]
        assert any(found) == cut


async def until_quiet(served: Service) -> None:
    """Return when no request is under way."""
    while served.metric("http_requests_in_flight"):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.002)


# Clients that are gone.


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_task_is_there_once_though_its_client_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rudely: bool
) -> None:
    add = request("/add_task", b'{"num": 7, "timeout": 0}', "Idempotency-Key: a")
    async with service(tmp_path) as served:
        async with held(served, monkeypatch) as gate:
            async with served.wire() as wire:
                await wire.send(add)
                await gate.entered.wait()
                if rudely:
                    wire.reset()
            if rudely:
                await until_quiet(served)
        await served.add(8, 0)
        await served.until_empty()
        assert await served.result() == [7, 8]
        again = await served.say(add)
        assert again.headers["idempotent-replayed"] == "true"
        assert json.loads(again.body)["history_num"] == 1
        # Nobody was refused.
        samples = (await served.client.get("/metrics")).text.splitlines()
        refused = [line for line in samples if line.startswith("sanic_app_adds_refused_total{")]
        assert refused
        assert all(line.endswith(" 0.0") for line in refused), refused


async def test_half_a_request_harms_nobody(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for end in (1, 30, len(ADD) - len(BODY), len(ADD) - 1):
            async with served.wire() as wire:
                await wire.send(ADD[:end])
        assert (await served.say(ADD)).status == 200
        await until_quiet(served)
        assert served.parts.queue.figures.last_history_num == 1
        assert served.metric("worker_up") == 1


# Clients that close their sending side when they have asked.


HALF_CLOSED = [
    (ADD, 200),
    (request("/api/v1/tasks", BODY), 201),
    (request("/add_task", b"{}"), 400),
    (request("/api/v1/tasks/1", method="DELETE"), 404),
    (request("/api/v1/queue/pause"), 200),
    (READ, 200),
    *(
        (request(path, method="GET"), 200)
        for path in ("/api/v1/queue", "/metrics", "/page/page.js")
    ),
    (request("/api/v1/tasks/1", method="GET"), 404),
    (request("/health/ready", method="GET"), 200),
]


@pytest.mark.parametrize(("raw", "status"), HALF_CLOSED)
async def test_a_client_that_closes_its_sending_side_is_answered(
    tmp_path: Path, raw: bytes, status: int
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(raw)
        wire.say_no_more()
        assert (await wire.answer()).status == status
        assert await wire.ended(2) == b""


async def test_all_that_was_asked_before_the_sending_side_was_closed_is_answered(
    tmp_path: Path,
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(ADD * 20 + READ)
        wire.say_no_more()
        answers = [await wire.answer() for _ in range(21)]
        assert {answer.status for answer in answers} == {200}
        closing = [answer.headers["connection"] == "close" for answer in answers]
        assert closing == [False] * 20 + [True]
        assert await wire.ended(2) == b""


async def test_a_half_closed_connection_gets_its_answer_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        async with held(served, monkeypatch) as gate:
            await wire.send(ADD)
            wire.say_no_more()
            await gate.entered.wait()
            assert not await wire.hears(0.1)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.ended(2) == b""
        # A long poll.
        async with served.wire() as waiting:
            await waiting.send(request("/api/v1/tasks/1?wait=20", method="GET"))
            waiting.say_no_more()
            assert not await waiting.hears(0.1)
            assert (await served.client.delete("/api/v1/tasks/1")).status_code == 200
            assert json.loads((await waiting.answer()).body)["state"] == "cancelled"
            assert await waiting.ended(2) == b""


async def test_a_half_closed_connection_is_asked_whether_anybody_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.02)
    async with service(tmp_path) as served, served.wire() as new, served.wire() as older:
        await served.add(1, 600)
        asked = request("/api/v1/tasks/1?wait=1", method="GET")
        await new.send(asked)
        new.say_no_more()
        await older.send(old(asked))
        older.say_no_more()
        for _ in range(3):
            found = await new.reader.readuntil(b"\r\n\r\n")
            assert found == b"HTTP/1.1 100 Continue\r\n\r\n"
        # It is not there in HTTP/1.0.
        assert (await older.answer()).status == 200
        assert (await new.ended(2)).endswith(b"}")


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_whole_list_is_sent_to_its_end_to_a_half_closed_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    async def slice_of(after: int, _: int) -> Slice:
        await asyncio.sleep(0.01)
        return Slice(str(after), after + 1 if after < 9 else None)

    async with service(tmp_path) as served, served.wire() as wire:
        monkeypatch.setattr(served.store, "results_slice", slice_of)
        await wire.send(READ)
        if meanwhile:
            await wire.head()
        wire.say_no_more()
        rest = await wire.ended(2)
        assert rest.endswith(b"9\r\n2\r\n]}\r\n0\r\n\r\n"), rest
        await until_quiet(served)


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_stream_of_events_ends_when_its_client_may_be_gone(
    tmp_path: Path, meanwhile: bool
) -> None:
    async with service(tmp_path, listeners_max=1) as served:
        for old_client in (False, True):
            async with served.wire() as wire:
                asked = request("/api/v1/events", method="GET")
                await wire.send(old(asked) if old_client else asked)
                if meanwhile:
                    await wire.reader.readuntil(b"retry: ")
                wire.say_no_more()
                await wire.ended(2)
                # There is room for another one at once.
                await until_quiet(served)


@pytest.mark.parametrize(
    "raw",
    [
        *(ADD[:end] for end in (1, 30, len(ADD) - len(BODY), len(ADD) - 1)),
        b"\r",
        b"\r\n",
        request("/add_task", b"", "Transfer-Encoding: chunked"),
        request("/add_task", b"", "Transfer-Encoding: chunked") + b"1a\r\n" + BODY,
        request("/add_task", b"", "Transfer-Encoding: chunked") + b"0\r\nX: y",
    ],
)
async def test_half_a_request_on_a_half_closed_connection_is_refused(
    tmp_path: Path, raw: bytes
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(ADD + raw)
        wire.say_no_more()
        assert (await wire.answer()).status == 200
        answer = await wire.answer()
        assert answer.problem["type"].endswith(":invalid")
        assert answer.headers["connection"] == "close"
        assert await wire.ended(2) == b""
        assert served.parts.queue.figures.last_history_num == 1


async def test_the_end_of_a_connection_is_no_request(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for raw in (b"", LIVE, LIVE * 2, ADD):
            for leave in (Wire.say_no_more, Wire.reset, Wire.close):
                async with served.wire() as wire:
                    await wire.send(raw)
                    for _ in range(raw.count(b"Host")):
                        assert (await wire.answer()).status == 200
                    leave(wire)
                    if leave is Wire.say_no_more:
                        assert await wire.ended(2) == b""
        await asyncio.sleep(0.1)
        counted = {
            (sample.labels["route"], sample.labels["status"]): sample.value
            for family in served.app.ctx.metrics.registry.collect()
            for sample in family.samples
            if sample.name.endswith(COUNT)
        }
        assert counted == {("/health/live", "200"): 9, ("/add_task", "200"): 3}


@pytest.mark.skipif(sys.platform != "linux", reason="only there the kernel is asked")
async def test_idle_clients_are_found_though_no_module_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When they have taken all descriptors, a first import fails, and nobody would be cut."""
    for name in ("fcntl", "termios"):
        monkeypatch.setitem(sys.modules, name, None)
    near, far = socket.socketpair()
    with near, far:
        assert connection._bytes_in_kernel(near.fileno()) == 0
        near.send(b"unread")
        assert connection._bytes_in_kernel(near.fileno()) > 0


async def test_half_closed_connections_leave_nothing_behind(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        await served.result()
        before = descriptors()
        for raw in (b"", READ, ADD[:30], ADD + ADD[:-1], request("/api/v1/events", method="GET")):
            for early in (False, True):
                async with AsyncExitStack() as stack:
                    wires = [await stack.enter_async_context(served.wire()) for _ in range(10)]
                    for wire in wires:
                        await wire.send(raw)
                        if not early:
                            await asyncio.sleep(0.005)
                        wire.say_no_more()
                    for wire in wires:
                        await wire.ended(2)
                # The service must end its side too, while the client lives on.
                while descriptors() > before:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.002)
        await until_quiet(served)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# Requests after one another.


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    bodies = [b'{"num": %d, "timeout": 600}' % number for number in range(20)]
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(b"".join(request("/add_task", body) for body in bodies))
        for number in range(20):
            answer = await wire.answer()
            task = json.loads(answer.body)
            assert (task["num"], task["history_num"]) == (number, number + 1)


LIVE = request("/health/live", method="GET")


async def test_requests_that_came_together_let_others_pass(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as many, served.wire() as other:
        await many.send(LIVE * 500)
        await other.send(request("/health/ready", method="GET"))
        assert (await other.answer()).status == 200
        labels = {"method": "GET", "route": "/health/live", "status": "200"}
        assert served.metric("http_request_duration_seconds_count", **labels) < 400
        for _ in range(500):
            assert (await many.answer()).status == 200


async def test_a_body_in_thousands_of_chunks_lets_others_pass(tmp_path: Path) -> None:
    head = request("/add_task", b"", "Transfer-Encoding: chunked")
    async with service(tmp_path) as served, served.wire() as many, served.wire() as other:
        await many.send(head + b"1\r\nx\r\n" * 8_000 + b"0\r\n\r\n")
        await other.send(LIVE)
        assert (await other.answer()).status == 200
        labels = {"method": "POST", "route": "/add_task", "status": "400"}
        assert served.metric("http_request_duration_seconds_count", **labels) == 0
        assert (await many.answer()).status == 400


async def test_a_refused_request_leaves_those_behind_it_alone(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        requests = [
            ADD,
            request("/add_task", b"{}"),
            request("/nothing", BODY),
            request("/add_task", BODY, method="PUT"),
            request("/add_task", BODY, "Sec-Fetch-Site: cross-site"),
            READ,
            ADD,
        ]
        await wire.send(b"".join(requests))
        answers = [await wire.answer() for _ in requests]
        assert [answer.status for answer in answers] == [200, 400, 404, 405, 403, 200, 200]
        assert json.loads(answers[-1].body)["history_num"] == 2


async def test_bodies_and_headers_that_are_too_large_are_counted(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        large = request("/add_task", b" " * 20_000)
        assert (await served.say(large)).status == 413
        assert served.metric(COUNT, method="POST", route="/add_task", status="413") == 1
        assert served.metric("adds_refused_total", reason="too_large") == 1
        async with served.wire() as wire:
            await wire.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)
            assert (await wire.answer()).status == 413
            assert await wire.ended() == b""
        assert served.metric(COUNT, method="other", route="unmatched", status="413") == 1


async def test_a_client_may_ask_before_it_sends_the_body(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        head = ADD.removesuffix(b"\r\n\r\n" + BODY)
        await wire.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await wire.send(BODY)
        assert (await wire.answer()).status == 200


JSON_LINE = "Content-Type: application/json"
NO_BODY_NEEDED: list[tuple[str, str, list[str], int]] = [
    ("POST", "/add_task", [JSON_LINE, "Content-Length: 20000"], 413),
    ("POST", "/api/v1/tasks/batch", [JSON_LINE, "Content-Length: 9999999"], 413),
    ("POST", "/add_task", ["Content-Type: text/plain", "Content-Length: 26"], 415),
    ("POST", "/add_task", [JSON_LINE, "Content-Encoding: gzip", "Content-Length: 26"], 415),
    ("POST", "/add_task", [JSON_LINE, "Transfer-Encoding: chunked", "Idempotency-Key:"], 400),
    ("POST", "/add_task?x=1", [JSON_LINE, "Content-Length: 26"], 400),
    ("POST", "/nothing", [JSON_LINE, "Content-Length: 26"], 404),
    ("PUT", "/add_task", [JSON_LINE, "Content-Length: 26"], 405),
    ("POST", "/add_task", [JSON_LINE, "Content-Length: 26", "Sec-Fetch-Site: cross-site"], 403),
    ("DELETE", "/api/v1/tasks/77", ["Content-Length: 26"], 404),
    ("POST", "/api/v1/queue/pause", ["Content-Length: 26"], 200),
    ("GET", "/api/v1/queue", ["Content-Length: 26"], 200),
    ("GET", "/api/v1/events", ["Content-Length: 26"], 200),
    ("OPTIONS", "/add_task", ["Content-Length: 26"], 204),
]


@pytest.mark.parametrize(("method", "path", "lines", "status"), NO_BODY_NEEDED)
async def test_nobody_is_asked_for_a_body_that_is_not_needed(
    tmp_path: Path, method: str, path: str, lines: list[str], status: int
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(request(path, b"", "Expect: 100-continue", *lines, method=method))
        found, headers = await wire.head()
        # Nobody can tell whether the body still comes, so the connection ends.
        assert (found, headers["connection"]) == (status, "close")
        if path != "/api/v1/events":
            await wire.ended(2)
        assert served.parts.queue.figures.last_history_num == 0


async def test_a_service_that_stops_asks_for_no_body(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        served.app.ctx.service.stopping.set()
        lines = ("Expect: 100-continue", JSON_LINE, "Content-Length: 26")
        answer = await served.say(request("/add_task", b"", *lines))
        assert answer.problem["type"].endswith(":stopping")


async def test_who_waits_to_be_asked_for_a_body_that_is_there_is_asked_as_well(
    tmp_path: Path,
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for num in (1, 2):
            await wire.send(request("/add_task", BODY, "Expect: 100-continue"))
            assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert json.loads((await wire.answer()).body)["history_num"] == num


async def test_who_sends_too_much_gets_to_know_why(tmp_path: Path) -> None:
    async with service(tmp_path, api_token=b"x") as served:
        for lines, status in (([], 401), (["Authorization: Bearer x"], 413)):
            for path in ("/add_task", "/api/v1/tasks/batch"):
                async with served.wire() as wire:
                    # More than any buffer on the way takes, and sent before anything is read.
                    await wire.send(request(path, b" " * 12_000_000, *lines))
                    assert (await wire.answer()).status == status


async def test_a_body_that_nobody_wants_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for method in ("OPTIONS", "GET", "HEAD"):
            await wire.send(request("/get_result", BODY, method=method) + READ)
            await wire.head()
            if method == "GET":
                await wire.reader.readexactly(len(b'{"result":[]}'))
            assert (await wire.answer()).body == b'{"result":[]}'
    assert "not consumed" not in caplog.text


BROKEN_BODIES = [
    request("/api/v1/queue", b"", "Content-Length: 26", method="GET") + BODY[:5],
    request("/health/live", b"", "Transfer-Encoding: chunked", method="GET") + b"x\r\n",
    request("/health/live", b"", "Transfer-Encoding: chunked", method="GET") + b"9000000\r\n",
    request("/get_result", b"", "Transfer-Encoding: chunked", method="GET") + b"x\r\n",
    request("/get_result", b"", "Content-Length: 26", method="GET"),
]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("end", ["closed", "half-closed", "reset", "late"])
async def test_a_broken_body_that_nobody_wants_is_no_error_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    async with service(tmp_path) as served:
        for raw in BROKEN_BODIES:
            async with served.wire() as wire:
                await wire.send(raw)
                assert (await wire.head())[0] == 200
                if end == "half-closed":
                    wire.say_no_more()
                elif end == "reset":
                    wire.reset()
                if end != "closed":
                    await wire.ended(3)
            await until_quiet(served)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


LINE = "\r\nContent-Encoding: "


async def test_a_compressed_body_is_not_taken_for_text(tmp_path: Path) -> None:
    body = gzip.compress(BODY)
    async with service(tmp_path) as served:
        for path in ("/add_task", "/api/v1/tasks", "/api/v1/tasks/batch"):
            for encoding in ("gzip", "GZIP", "br", "gzip, identity", f"identity{LINE}gzip"):
                raw = request(path, body, f"Content-Encoding: {encoding}")
                answer = await served.say(raw)
                assert answer.problem["type"].endswith(":media-type")
                assert "Content-Encoding" in answer.problem["detail"]
        plain = request("/add_task", BODY, "Content-Encoding: identity")
        assert (await served.say(plain)).status == 200


async def test_a_slash_at_the_end_changes_no_limit(tmp_path: Path) -> None:
    tasks = ",".join(['{"num": 1, "timeout": 600}'] * 1_000)
    body = f'{{"tasks": [{tasks}]}}'.encode()
    async with service(tmp_path) as served:
        for end in ("", "/", "//"):
            answer = await served.say(request(f"/api/v1/tasks/batch{end}", body))
            assert answer.status == 201, end
            large = request(f"/api/v1/tasks{end}", b" " * 17_000)
            assert (await served.say(large)).status == 413


async def test_whoever_expects_something_else_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        answer = await served.say(request("/add_task", BODY, "Expect: miracles"))
        assert answer.problem["type"].endswith(":invalid")
        assert served.parts.queue.figures.last_history_num == 0


def old(raw: bytes) -> bytes:
    return raw.replace(b"HTTP/1.1", b"HTTP/1.0")


@pytest.mark.parametrize("lines", [[], ["Connection: keep-alive"]], ids=["close", "keep-alive"])
async def test_an_old_client_gets_no_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    async def slice_of(after: int, _: int) -> Slice:
        return Slice(str(after), after + 1 if after < 3 else None)

    async with service(tmp_path) as served:
        monkeypatch.setattr(served.store, "results_slice", slice_of)
        async with served.wire() as wire:
            await wire.send(old(request("/get_result", b"", *lines, method="GET")))
            status, headers = await wire.head()
            assert (status, headers["connection"]) == (200, "close")
            assert not {"transfer-encoding", "content-length"} & headers.keys()
            assert json.loads(await wire.ended()) == {"result": [0, 1, 2, 3]}
        async with served.wire() as wire:
            await wire.send(old(request("/get_result", b"", *lines, method="HEAD")))
            assert "transfer-encoding" not in (await wire.head())[1]
            assert await wire.ended() == b""
        async with served.wire() as wire:
            await wire.send(old(request("/api/v1/events", b"", *lines, method="GET")))
            status, headers = await wire.head()
            assert (status, headers["connection"]) == (200, "close")
            assert "transfer-encoding" not in headers
            assert (await wire.reader.readuntil(b"\n\n")).startswith(b"retry: ")
            await served.add(1, 600)
            assert b".1.0\nevent: added\n" in await wire.reader.readuntil(b"\n\n")
            await served.stop()
            assert b"0\r\n" not in await wire.ended()


async def test_an_old_client_may_keep_its_connection(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        for _ in range(2):
            await wire.send(old(request("/add_task", BODY, "Connection: keep-alive")))
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")
        # What it expects it cannot know of.
        await wire.send(old(request("/add_task", BODY, "Expect: 100-continue")))
        assert (await wire.answer()).status == 200


async def test_an_old_client_cannot_send_chunks(tmp_path: Path) -> None:
    raw = old(request("/add_task", b"", "Transfer-Encoding: chunked", "Connection: keep-alive"))
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(raw + b"1a\r\n" + BODY + b"\r\n0\r\n\r\n")
        answer = await wire.answer()
        assert answer.problem["type"].endswith(":invalid")
        assert answer.headers["connection"] == "close"
        await wire.ended()
        assert served.parts.queue.figures.last_history_num == 0


async def test_an_old_client_is_answered_and_let_go(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await wire.send(ADD.replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.ended() == b""
