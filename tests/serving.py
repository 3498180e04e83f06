"""The application in this process, on a real socket, and clients that talk to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sanic import Sanic

from sanic_app import lifecycle
from sanic_app.app import create_app
from sanic_app.clock import Clock
from sanic_app.http.blueprints import App
from sanic_app.lifecycle import serving
from sanic_app.process import bind
from sanic_app.settings import Settings
from sanic_app.settings.values import PostgresUrl
from sanic_app.store import Commit, Lease, Store, Write
from tests import postgres

ON_UVLOOP = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"]),
]
"""Marks of a module whose tests are coroutines: they run on the loop that the service has."""

# The framework rewrites methods of its own when it starts, and only so can do that again.
Sanic.test_mode = True

ENGINE = os.environ.get("TEST_ENGINE", "sqlite")
"""The engine below the services of this run: see the target `test-postgres`."""

JSON = {"Content-Type": "application/json"}
URN = "urn:sanic-app:problem:"

STOP_SECONDS = 10.0
"""What a stop may take. It ends in 5 s, even if the disk does not answer."""
SECONDS = 30.0
"""What a test may take while the service runs; a deadlock fails instead of hanging."""


@dataclass
class Service:
    """The application while it serves; ``exits`` has what it would have ended the process with."""

    app: App
    client: httpx.AsyncClient
    port: int
    life: AsyncExitStack
    exits: list[int]
    _stop: asyncio.Task[None] | None = None

    @property
    def parts(self) -> lifecycle.Service:
        parts: lifecycle.Service = self.app.ctx.service
        return parts

    @property
    def store(self) -> Store:
        return self.parts.queue._store

    async def stop(self) -> None:
        """Stop it as a signal would; whoever asks again waits for the same stop."""
        if self._stop is None:
            self._stop = asyncio.create_task(self.life.aclose())
        await asyncio.shield(self._stop)

    def metric(self, name: str, **labels: str) -> float:
        """Return what a scrape would show of one series; 0 when it is not there yet."""
        value = self.app.ctx.metrics.registry.get_sample_value(f"sanic_app_{name}", labels)
        return value or 0.0

    async def add(self, num: int, timeout: float = 0, **headers: str) -> dict[str, Any]:  # noqa: ASYNC109 - the task's
        """Add a task and return it."""
        content = json.dumps({"num": num, "timeout": timeout})
        answer = await self.client.post("/add_task", content=content, headers={**JSON, **headers})
        assert answer.status_code == 200, answer.text
        task: dict[str, Any] = answer.json()
        return task

    async def get(self, path: str) -> Any:
        """Return the JSON of a 200."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def result(self) -> list[int]:
        numbers: list[int] = (await self.get("/get_result"))["result"]
        return numbers

    async def until_empty(self) -> None:
        """Return when the queue is empty, and the service knows it.

        A reader sees a commit a moment before the event loop does.
        """
        while self.parts.queue.figures.depth:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def wire(self, narrow: bool = False) -> AsyncIterator[Wire]:
        """Open a connection on which a test says every byte itself; little fits a narrow one."""
        sock = socket.socket()
        sock.setblocking(False)
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        limit = 4_096 if narrow else 65_536
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def say(self, data: bytes) -> Answer:
        """Send bytes on a connection of their own and return the first answer."""
        async with self.wire() as wire:
            await wire.send(data)
            return await wire.answer()


class Answer(NamedTuple):
    """An answer as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document, checked for what each has."""
        assert self.headers["content-type"] == "application/problem+json"
        return checked(self.status, json.loads(self.body))


class Wire:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: Iterable[int]) -> int:
        """Send a byte at a time until the service answers or ends it; return how many it took."""
        sent = 0
        for byte in data:
            try:
                await self.send(bytes([byte]))
            except ConnectionError:
                break
            sent += 1
            if await self.hears(0.01):
                break
        return sent

    def say_no_more(self) -> None:
        """Close the sending side; answers still come."""
        self.writer.write_eof()

    def close(self) -> None:
        """Close both sides, as clients do that have their answer."""
        self.writer.close()

    def reset(self) -> None:
        """Drop the connection, so that the service is told at once that nobody reads."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Return status and headers of the next answer; its body is still to come."""
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = raw.rstrip("\r\n").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header stands twice: {raw}"
        assert first.startswith("HTTP/1.1 "), raw
        return int(first.split(" ")[1]), headers

    async def answer(self) -> Answer:
        """Return the next answer."""
        status, headers = await self.head()
        body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def hears(self, seconds: float) -> bool:
        """Return whether something comes in so many seconds, the connection's end included.

        What comes is left to be read. The reader has no public way to look without taking.
        """
        reader, transport = self.reader, self.writer.transport
        if reader._buffer or reader.at_eof() or transport.is_closing():  # type: ignore[attr-defined]
            return True
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                await reader._wait_for_data("hears")  # type: ignore[attr-defined]
                return True
        return transport.is_closing()

    async def ended(self, seconds: float = 5) -> bytes:
        """Return what still comes, once the service has closed the connection."""
        rest = bytearray()
        async with asyncio.timeout(seconds):
            with suppress(ConnectionError):
                while data := await self.reader.read(2**16):
                    rest += data
        return bytes(rest)


def request(
    path: str, body: bytes = b"", *headers: str, method: str = "POST", host: str = "localhost"
) -> bytes:
    """Return a request's bytes; a body brings its length along."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def checked(status: int, document: dict[str, Any]) -> dict[str, Any]:
    """Return a problem document after checking what each of them has, in its order."""
    assert list(document)[:4] == ["type", "title", "status", "detail"], document
    assert document["type"].startswith(URN), document
    assert document["status"] == status, document
    assert set(document) <= {"type", "title", "status", "detail", "applied", "errors"}, document
    assert all(document[name] for name in ("title", "detail")), document
    return document


def problem(answer: httpx.Response, slug: str, status: int) -> dict[str, Any]:
    """Return the answer's problem document: it must be this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = checked(status, answer.json())
    assert document["type"] == URN + slug
    write = answer.request.method not in ("GET", "HEAD", "OPTIONS")
    assert ("applied" in document) == write
    assert answer.headers["x-request-id"]
    return document


def place(folder: Path) -> dict[str, Any]:
    """Return the settings of the queue of a folder, on the engine that this run is for."""
    if ENGINE == "sqlite":
        return {"database": folder / "queue.db"}
    name = "served_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return {"database": PostgresUrl(postgres.shared().url()), "database_schema": name}


@asynccontextmanager
async def service(
    folder: Path, *, clock: Clock | None = None, stop_delay: float = 0.0, **settings: Any
) -> AsyncIterator[Service]:
    """Serve with a queue in the folder as long as the context lasts."""
    if "database" not in settings:
        settings |= place(folder)
    exits: list[int] = []
    async with asyncio.timeout(SECONDS):
        app = create_app(Settings(**settings), clock=clock, exit_process=exits.append)
        sock = bind("127.0.0.1", 0)
        port = sock.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        try:
            async with (
                AsyncExitStack() as life,
                httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as client,
            ):
                await life.enter_async_context(serving(app, sock, stop_delay))
                served = Service(app, client, port, life, exits)
                try:
                    yield served
                finally:
                    async with asyncio.timeout(STOP_SECONDS):
                        await served.stop()
        finally:
            # After a failure the service leaves its store open on purpose.
            await app.ctx.service.queue._store.close()


class Gate:
    """Holds commits: ``entered`` says that one has come."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()


@asynccontextmanager
async def held(served: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    """Let no commit begin before the gate is opened, or the context left."""
    gate = Gate()
    commit = served.store.commit

    async def hold(lease: Lease, writes: Sequence[Write]) -> Commit:
        gate.entered.set()
        await gate.opened.wait()
        return await commit(lease, writes)

    monkeypatch.setattr(served.store, "commit", hold)
    try:
        yield gate
    finally:
        gate.opened.set()
