"""Receives the requests of a connection, and corrects what Sanic reads too generously."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from sanic.exceptions import BadRequest
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE

from sanic_app.http import framing
from sanic_app.http.request import OddRequest, ServiceRequest

DISCARD_MAX: Final = 2**25
"""How many bytes of a refused body are read before the connection is closed."""
CHUNK_LINE_MAX: Final = 64
"""The most bytes of a line with a chunk's length; as Sanic has it."""
TURN_CHUNKS: Final = 100
"""The event loop turns after so many chunks of a body. They take a millisecond."""


class Receiver(Http):
    """The requests of a connection, one after the other."""

    __slots__ = ("_chunks",)
    protocol: Any
    """The ``Connection``."""
    request_body: Any
    """What is left of the body: ``True``, ``"chunked"``, or ``None``."""
    request_bytes: Any

    def create_empty_request(self) -> None:
        """Make a request for the answer to a bad one. Its target may be what is bad."""
        self.url = None
        self.protocol.request_class = OddRequest
        super().create_empty_request()

    @staticmethod
    def _safe_int(value: str, base: int = 10) -> int:
        """Return a length. ``int`` alone would also accept signs and non-ASCII digits.

        It accepts ``0x1`` before a chunk, but ``_check_chunk`` has refused that by then.
        """
        digits = value.strip(" \t")
        if not (digits.isascii() and digits.isalnum()):
            raise ValueError
        return int(digits, base)

    async def http1_request_header(self) -> None:
        """Receive a head.

        Thousands of requests may have come together: others have their turn between two of them.
        """
        protocol = self.protocol
        if not protocol.turned:
            await asyncio.sleep(0)
        protocol.turned = False
        plain = framing.plain_head(self.recv_buffer)
        if plain is None:
            await self._receive_head()
            plain = framing.plain_head(self.recv_buffer)
            self._chunks = 0
        if plain is not None and plain.end() <= self.HEADER_MAX_SIZE:
            self._take_head(plain)
        else:
            protocol.request_class = OddRequest
            await super().http1_request_header()  # type: ignore[no-untyped-call] # Sanic's has no types
            # Methods have a case: a client of `head` waits for a body (RFC 9110, 9.1).
            self.head_only = self.request.method == "HEAD"
            # Sanic takes the last line, and only as a whole.
            options = self.request.headers.getall("connection", ())
            self.keep_alive = framing.goes_on(options, self.request.version)

    def _take_head(self, plain: re.Match[bytes]) -> None:
        """Make the request of a plain head, as Sanic does. Its general code takes twice as long."""
        method, target, fields = plain.groups()
        # First: also the refusal of a HEAD has no body.
        self.head_only = method == b"HEAD"
        protocol = self.protocol
        request = ServiceRequest(
            target,
            framing.plain_fields(fields),  # type: ignore[arg-type] # it makes its headers of them
            "1.1",
            method.decode(),
            protocol.transport,
            protocol.app,
        )
        headers = request.headers
        self.request_bytes_left = self.request_bytes = 0
        if lengths := headers.getall("content-length", ()):
            try:
                (length,) = lengths
                self.request_bytes_left = self.request_bytes = self._safe_int(length)
            except ValueError:
                raise BadRequest from None
            self.request_body = True
        options = headers.getall("connection", ())
        self.keep_alive = not options or framing.goes_on(options, "1.1")
        self.upgrade_websocket = False
        self.url = target.decode()
        self.request, request.stream = request, self
        del self.recv_buffer[: plain.end()]

    async def _skip_empty_line(self) -> None:
        buffer = self.recv_buffer
        while buffer == b"\r":
            await self._receive_more()
        if buffer[:2] == b"\r\n":
            del buffer[:2]
            if not buffer:
                await self._receive_more()

    async def _receive_head(self) -> None:
        """Receive the rest of a head; what will never be one is refused at once.

        A client that speaks TLS would otherwise wait in vain for an answer. One empty line before
        a head is ignored (RFC 9112, 2.2).
        """
        buffer, checked = self.recv_buffer, 0
        if buffer[:1] == b"\r":
            await self._skip_empty_line()
        while buffer.find(b"\r\n\r\n", checked) == -1 and len(buffer) <= self.HEADER_MAX_SIZE:
            if buffer[:1] == b"\r" or framing.has_stray(buffer, checked):
                raise BadRequest
            checked = max(0, len(buffer) - 3)
            await self._receive_more()

    def take_body(self) -> bytes | None:
        """Return the body if the whole of it came together with its head, as it mostly does."""
        buffer, size = self.recv_buffer, self.request_bytes
        if (
            self.request_body == "chunked"
            or self.expecting_continue
            or not len(buffer) >= size <= self.request_max_size
        ):
            return None
        body = bytes(buffer[:size])
        del buffer[:size]
        self.request_bytes_left = 0
        self.request_body = None
        return body

    async def read(self) -> bytes | None:
        """Return a piece of the body, as Sanic does, but accept trailer fields behind chunks.

        When the request is answered already, what still comes is thrown away. Closing at once would
        reset the connection, and the client might never see why it was refused.
        """
        if self.stage is Stage.IDLE:
            self.request_max_size = DISCARD_MAX
        if self.request_body == "chunked" and not self.request_bytes_left:
            await self._check_chunk()
        data: bytes | None = await super().read()
        return data

    async def _check_chunk(self) -> None:
        """Check the line before a chunk; remove the fields behind the last one.

        They mean nothing here (RFC 9112, 7.1.2). If they are not valid they stay, and Sanic
        refuses them.
        """
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        self._chunks += 1
        if self._chunks % TURN_CHUNKS == 0:
            await asyncio.sleep(0)
        buffer = self.recv_buffer
        while (
            buffer.find(b"\r\n", 2) == -1
            and len(buffer) <= CHUNK_LINE_MAX
            and not framing.has_stray(buffer)
        ):
            await self._receive_more()
        line = framing.chunk_line(buffer)
        if line is None:
            self.keep_alive = False
            raise BadRequest
        size, begin = line
        if size:
            return
        while (end := buffer.find(b"\r\n\r\n", begin - 2)) == -1:
            if len(buffer) - begin > self.HEADER_MAX_SIZE:
                return
            await self._receive_more()
        trailer = bytes(buffer[begin - 2 : end])
        if len(trailer) <= self.HEADER_MAX_SIZE and framing.is_trailer(trailer):
            del buffer[begin : end + 2]
