"""The requests of a connection and their answers, one after the other.

It corrects what Sanic answers wrongly, or too slowly.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import Final

from sanic.helpers import STATUS_CODES, has_message_body
from sanic.http import Stage
from sanic.response import BaseHTTPResponse

from sanic_app.http.receiver import Receiver
from sanic_app.log import accept_request_id, request_id

SHARED_BYTES: Final = 16_384
"""Pieces of at least this size are sent without a copy."""
EVENT_STREAM: Final = "text/event-stream"
NOT_CACHED: Final = "no-store"
"""Without it a cache may keep what is true now alone (RFC 9111, 4.2.2)."""
_NO_LINE_ENDS: Final = str.maketrans({"\r": None, "\n": None})


class RequestCycle(Receiver):
    """Answers each request before the next one is received."""

    __slots__ = ()

    def respond(self, response: BaseHTTPResponse) -> BaseHTTPResponse:
        """Add the request id to every answer."""
        response.headers["x-request-id"] = request_id.get() or accept_request_id(
            self.request.headers.get("x-request-id")
        )
        return super().respond(response)

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
        headers = self.response.headers
        headers["date"] = _date(int(time()))
        headers.setdefault("cache-control", NOT_CACHED)
        if self.keep_alive:
            name, _, value = self.protocol.kept.rpartition("\r\n")[2].partition(": ")
            headers[name] = value
        await super().http1_response_header(data, end_stream)

    def _head(self, framing: str = "") -> bytes:
        response = self.response
        headers = response.headers
        head = (
            f"HTTP/1.1 {_status_line(response.status)}\r\n"
            f"date: {_date(int(time()))}\r\n"
            f"content-type: {response.content_type}\r\n"
            f"{self.protocol.kept if self.keep_alive else 'connection: close'}\r\n"
        )
        if framing:
            head += f"{framing}\r\n"
        if "cache-control" not in headers:
            head += f"cache-control: {NOT_CACHED}\r\n"
        for name, value in headers.items():
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


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """Return a time as HTTP has it (RFC 9110, 6.6.1)."""
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"{status} {STATUS_CODES[status].decode()}"
