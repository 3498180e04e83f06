"""The requests of a connection and their answers, one after the other.

It corrects what Sanic reads too generously, answers wrongly, or too slowly.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Any, Final

from sanic import Request
from sanic.compat import Header
from sanic.exceptions import BadRequest
from sanic.helpers import STATUS_CODES, has_message_body
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.response import BaseHTTPResponse

from sanic_app.errors import TooLarge
from sanic_app.http import framing
from sanic_app.log import accept_request_id, request_id

DISCARD_MAX: Final = 2**25
"""How many bytes of a refused body are read before the connection is closed."""
CHUNK_LINE_MAX: Final = 64
"""The most bytes of a line with a chunk's length; as Sanic has it."""
TURN_CHUNKS: Final = 100
"""The event loop turns after so many chunks of a body. They take a millisecond."""
SHARED_BYTES: Final = 16_384
"""Pieces of at least this size are sent without a copy."""
EVENT_STREAM: Final = "text/event-stream"
_DIGITS: Final = {10: re.compile(r"[0-9]+"), 16: re.compile(r"[0-9A-Fa-f]+")}
_NO_LINE_ENDS: Final = str.maketrans({"\r": None, "\n": None})


class ServiceRequest(Request):
    """A request whose body is read only when a handler wants it."""

    stream: RequestCycle

    def is_valid(self) -> bool:
        """Return whether its head is valid, and says clearly where the body ends."""
        return True

    async def receive_body(self) -> None:
        """Read a body that no handler wants, unless its client waits to be asked for it."""
        if not self.stream.expecting_continue:
            await super().receive_body()  # type: ignore[no-untyped-call] # Sanic's has no types

    async def read_body(self, limit: int | None = None) -> bytes:
        """Return the body, of at most so many bytes or of ``BODY_MAX``.

        Raises:
            TooLarge: a client that waits to be asked for the body announced a larger one.
        """
        stream = self.stream
        if limit is not None:
            # For this request only: the next one starts with the connection's limit.
            stream.request_max_size = limit
        if stream.request_body:
            if stream.expecting_continue and stream.request_bytes > stream.request_max_size:
                raise TooLarge
            if (whole := stream.take_body()) is None:
                await super().receive_body()  # type: ignore[no-untyped-call] # the same
            else:
                self.body = whole
        return self.body


class OddRequest(ServiceRequest):
    """A request whose head is invalid, or that Sanic would read wrongly.

    Its target may have no path, such as ``http://host`` (RFC 9112, 3.2.2).
    """

    def __init__(self, *, head: bytes = b"", **named: Any) -> None:
        """Take the request, its fields as they are in the head.

        Sanic leaves blanks behind values, removes more than blanks, and knows ``chunked`` in lower
        case only.
        """
        super().__init__(head=head, **{**named, "headers": Header(framing.fields(head))})

    def is_valid(self) -> bool:
        """Check the head. One of HTTP/1.0 knows no transfer codings (RFC 9112, 6.1)."""
        old = self.version == "1.0"
        return framing.is_head(self.head) and not (old and "transfer-encoding" in self.headers)

    @property
    def path(self) -> str:
        """The path; ``/`` if the target has none."""
        missing = self._parsed_url.path is None
        return "/" if missing else super().path


class RequestCycle(Http):
    """The requests of a connection and their answers, one after the other."""

    __slots__ = ("_chunks",)
    protocol: Any
    """The ``Connection``."""
    request_body: Any
    """What is left of the body: ``True``, ``"chunked"``, or ``None``."""
    request_bytes: Any

    def respond(self, response: BaseHTTPResponse) -> BaseHTTPResponse:
        """Add the request id to every answer."""
        response.headers["x-request-id"] = request_id.get() or accept_request_id(
            self.request.headers.get("x-request-id")
        )
        return super().respond(response)

    def create_empty_request(self) -> None:
        """Make a request for the answer to a bad one. Its target may be what is bad."""
        self.url = None
        self.protocol.request_class = OddRequest
        super().create_empty_request()

    @staticmethod
    def _safe_int(value: str, base: int = 10) -> int:
        """Return a length. ``int`` alone would also accept signs and non-ASCII digits."""
        if not _DIGITS[base].fullmatch(value.strip(" \t")):
            raise ValueError
        return int(value, base)

    async def http1_request_header(self) -> None:
        """Receive a head.

        Thousands of requests may have come together: others have their turn between two of them.
        """
        protocol = self.protocol
        if not protocol.turned:
            await asyncio.sleep(0)
        protocol.turned = False
        plain = framing.is_plain(self.recv_buffer)
        if not plain:
            await self._receive_head()
            plain = framing.is_plain(self.recv_buffer)
            self._chunks = 0
        protocol.request_class = ServiceRequest if plain else OddRequest
        await super().http1_request_header()  # type: ignore[no-untyped-call] # the same
        request = self.request
        # Methods have a case: a client of `head` waits for a body (RFC 9110, 9.1).
        self.head_only = request.method == "HEAD"
        if len(request.headers.getall("connection", ())) > 1:
            # Sanic takes the last one, and `close` may be in another (RFC 9112, 9.3).
            self.keep_alive = False

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

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        """Send a complete answer in one piece, and what Sanic would frame wrongly.

        Sanic's general code takes a fifth of the time of a whole request. It fails when a stream
        that answers HEAD ends, and it sends chunks to HTTP/1.0 clients, which don't know them.
        """
        if self.expecting_continue:
            # The answer needs no body. Whether the client sends it all the same is not known, so
            # the connection cannot go on (RFC 9110, 10.1.1).
            self.expecting_continue = self.keep_alive = False
            # Sanic leaves one line end before chunks.
            if self.recv_buffer == (b"\r\n" if self.request_body == "chunked" else b""):
                self.request_body = None
        if self.protocol.half_closed and not self.request_body and not self.recv_buffer:
            self.keep_alive = False
        response = self.response
        body: bytes = getattr(response, "body", None) or b""
        if not has_message_body(response.status):
            await self._leave_to_sanic(data, end_stream)
        elif not data and (body or end_stream):
            self.response_size = len(body)
            head = self._head(f"content-length: {len(body)}")
            await self._send_last(head if self.head_only else head + body)
        elif self.request.version == "1.0":
            # The end of the connection is the end of the body.
            self.keep_alive = False
            head = self._head()
            if self.head_only:
                await self._send_last(head)
            else:
                self.response_func = self._send_unframed
                self.stage = Stage.RESPONSE
                await self._send_unframed(head + data, end_stream)
        elif self.head_only:
            await self._send_last(self._head("transfer-encoding: chunked"))
        else:
            await self._leave_to_sanic(data, end_stream)
        if self.protocol.half_closed and self.streams_events:
            self.protocol.close()

    @property
    def streams_events(self) -> bool:
        """Whether the answer is a stream without an end of its own."""
        return self.stage is Stage.RESPONSE and self.response.content_type == EVENT_STREAM

    async def _leave_to_sanic(self, data: bytes, end_stream: bool) -> None:
        if self.keep_alive:
            name, _, value = self.protocol.kept.rpartition("\r\n")[2].partition(": ")
            self.response.headers[name] = value
        await super().http1_response_header(data, end_stream)

    def _head(self, framing: str = "") -> bytes:
        response = self.response
        head = (
            f"HTTP/1.1 {_status_line(response.status)}\r\n"
            f"content-type: {response.content_type}\r\n"
            f"{self.protocol.kept if self.keep_alive else 'connection: close'}\r\n"
        )
        if framing:
            head += f"{framing}\r\n"
        for name, value in response.headers.items():
            head += f"{name}: {value.translate(_NO_LINE_ENDS)}\r\n"
        return f"{head}\r\n".encode()

    async def http1_response_chunked(self, data: bytes, end_stream: bool) -> None:
        """Send a piece of a stream. A large one is not copied: many listeners share its bytes."""
        if len(data) < SHARED_BYTES:
            await super().http1_response_chunked(data, end_stream)
            return
        await self._send(b"%x\r\n" % len(data))
        await self._send(data)
        await self._send(b"\r\n")
        if end_stream:
            await super().http1_response_chunked(b"", end_stream)

    async def _send_unframed(self, data: bytes, end_stream: bool) -> None:
        if data:
            await self._send(data)
        if end_stream:
            self.response_func = None  # type: ignore[assignment] # as Sanic does
            self.stage = Stage.IDLE

    async def _send_last(self, data: bytes) -> None:
        self.response_func = None  # type: ignore[assignment] # as Sanic does
        await self._send(data)
        self.stage = Stage.IDLE


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"{status} {STATUS_CODES[status].decode()}"
