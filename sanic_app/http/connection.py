"""One connection: the guard, the deadlines and the metrics of its requests.

Sanic's own timeouts restart with every byte. Here a request has one deadline, from its first byte
to the last byte of its body. A client that reads nothing of its answer is disconnected.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from time import monotonic, perf_counter
from typing import Any, Final

from sanic import HTTPResponse, Request
from sanic.compat import Header
from sanic.exceptions import RequestTimeout
from sanic.helpers import STATUS_CODES, has_message_body
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.response import BaseHTTPResponse
from sanic.server.protocols.http_protocol import HttpProtocol

from sanic_app.errors import Invalid, ServiceError, TooLarge
from sanic_app.http.guard import Guard
from sanic_app.http.routes import template
from sanic_app.log import accept_request_id, request_id
from sanic_app.metrics import Metrics

REQUEST_SECONDS: Final = 10
"""From the first byte of a request to the last of its body."""
IDLE_SECONDS: Final = 15
"""How long a connection may be open before its first request; later it is ``KEEP_ALIVE``."""
UNREAD_SECONDS: Final = 15
"""How long a client may read nothing of its answer."""
CHECK_SECONDS: Final = 1

_NO_FIELD: Final = re.compile(rb"\r\n(?![!#$%&'*+.^_`|~0-9A-Za-z-]+:)")
"""A line that is not a name, a colon and a value (RFC 9112, section 5). Sanic and a proxy may read
different lengths of the body from it."""
DISCARD_MAX: Final = 2**25
"""How many bytes of a refused body are read before the connection is closed."""
CHUNK_LINE_MAX: Final = 64
"""The most bytes of a line with a chunk's length; as Sanic has it."""
_LAST_CHUNK: Final = re.compile(rb"\r\n0+[ \t]*(?:;[^\r\n]*)?\r\n")
_DIGITS: Final = {10: re.compile(r"[0-9]+"), 16: re.compile(r"[0-9A-Fa-f]+")}
_NO_LINE_ENDS: Final = str.maketrans({"\r": None, "\n": None})


class ServiceRequest(Request):
    """A request whose body is read only when a handler wants it.

    Its target may have no path, such as ``http://host`` (RFC 9112, 3.2.2).
    """

    stream: RequestCycle

    def __init__(self, url_bytes: bytes, headers: Header, head: bytes = b"", **named: Any) -> None:
        """Take the request. Blanks behind values are no part of them (RFC 9110, 5.5)."""
        if b" \r\n" in head or b"\t\r\n" in head or head.endswith((b" ", b"\t")):
            headers = Header([(name, value.rstrip(" \t")) for name, value in headers.items()])
        super().__init__(url_bytes, headers, head=head, **named)

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
            await super().receive_body()  # type: ignore[no-untyped-call] # the same
        return self.body

    @property
    def path(self) -> str:
        """The path; ``/`` if the target has none."""
        missing = self._parsed_url.path is None
        return "/" if missing else super().path


class RequestCycle(Http):
    """The requests of a connection and their answers, one after the other."""

    protocol: Connection
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
        super().create_empty_request()

    @staticmethod
    def _safe_int(value: str, base: int = 10) -> int:
        """Return a length. ``int`` alone would also accept signs and non-ASCII digits."""
        if not _DIGITS[base].fullmatch(value.strip(" \t")):
            raise ValueError
        return int(value, base)

    async def read(self) -> bytes | None:
        """Return a piece of the body, as Sanic does, but accept trailer fields behind chunks.

        When the request is answered already, what still comes is thrown away. Closing at once would
        reset the connection, and the client might never see why it was refused.
        """
        if self.stage is Stage.IDLE:
            self.request_max_size = DISCARD_MAX
        if self.request_body == "chunked" and not self.request_bytes_left:
            await self._remove_trailer()
        data: bytes | None = await super().read()
        return data

    async def _remove_trailer(self) -> None:
        """Remove the fields behind the last chunk, which mean nothing here (RFC 9112, 7.1.2).

        What is no valid trailer stays, and Sanic refuses it.
        """
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        buffer = self.recv_buffer
        while buffer.find(b"\r\n", 3) == -1 and len(buffer) <= CHUNK_LINE_MAX:
            await self._receive_more()
        last = _LAST_CHUNK.match(buffer)
        if last is None:
            return
        begin = last.end()
        while (end := buffer.find(b"\r\n\r\n", begin - 2)) == -1:
            if len(buffer) - begin > self.HEADER_MAX_SIZE:
                return
            await self._receive_more()
        trailer = bytes(buffer[begin - 2 : end])
        if len(trailer) <= self.HEADER_MAX_SIZE and not _NO_FIELD.search(trailer):
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


class Connection(HttpProtocol):
    """Sanic's protocol with a guard before routing, deadlines and metrics."""

    HTTP_CLASS = RequestCycle
    __slots__ = (
        *("_guard", "_idle_seconds", "_keep_alive", "_metrics", "_timed_out", "_unread"),
        *("_unread_since", "answering", "kept"),
    )

    def _setup(self) -> None:
        super()._setup()  # type: ignore[no-untyped-call] # Sanic's has no types
        self._http: RequestCycle | None = None
        self._guard: Guard = self.app.ctx.guard
        self._metrics: Metrics = self.app.ctx.metrics
        self.request_class = ServiceRequest
        self.request_handler: Callable[[Request], Any] = self._handle
        # Not Sanic's setting, because that also limits the headers.
        self.request_max_size: int = self.app.ctx.body_max
        self._keep_alive: int = self.app.ctx.keep_alive
        self._idle_seconds: float = IDLE_SECONDS
        self.kept = f"connection: keep-alive\r\nkeep-alive: timeout={self._keep_alive}"
        """The headers of an answer after which the connection stays open."""
        self.answering = False
        self._timed_out = False
        self._unread = (0, 0.0)
        self._unread_since = 0.0

    async def _handle(self, request: Request) -> None:
        begun = perf_counter()
        headers = request.headers
        request_id.set(accept_request_id(headers.get("x-request-id")))
        metrics = self._metrics
        metrics.in_flight += 1
        self.answering = True
        self._idle_seconds = self._keep_alive
        try:
            try:
                if _NO_FIELD.search(request.head) or (
                    request.version == "1.0" and not self._is_valid_old(headers)
                ):
                    self._close_after_answer()
                    raise Invalid(detail="The request is not valid HTTP.")
                self._guard.check(request.method, request.path, headers)
            except ServiceError as refusal:
                await self.app.handle_exception(request, refusal, run_middleware=False)
            else:
                await self.app.handle_request(request)
        finally:
            self.answering = False
            metrics.in_flight -= 1
            request_id.set(None)
            http = self._http
            if http is not None and http.response is not None:
                series = metrics.http_seconds(request.method, route(request), http.response.status)
                series.observe(perf_counter() - begun)
        if http is not None and http.request_body and http.stage is Stage.IDLE:
            # A body that no handler wanted. Sanic would log an error about it.
            async for _ in http:
                pass

    def observe_error(self, request: Request, response: HTTPResponse) -> None:
        """Count the answer to a request that never became complete."""
        if not self.answering:
            series = self._metrics.http_seconds(request.method, route(request), response.status)
            series.observe(monotonic() - self._time)

    def data_received(self, data: bytes) -> None:
        """Receive data. Only the first byte of a request starts its clock."""
        begun = self._time
        super().data_received(data)
        if not self._between_requests():
            self._time = begun

    def check_timeouts(self) -> None:
        """Check the deadlines, now and every second."""
        if self.transport is None:
            return
        now = monotonic()
        if self._timed_out or self._is_unread(now):
            self.transport.abort()
            return
        http = self._http
        unread = self._unread[0] > 0
        if self._task is None:
            if not unread:
                return
        elif http is not None and not self._between_requests():
            receiving = http.stage is Stage.REQUEST or http.request_body
            if receiving and now - self._time > REQUEST_SECONDS:
                # Sanic still waits for the rest of the body; the next check aborts the connection.
                self._timed_out = True
                http.exception = RequestTimeout("Request Timeout")
                self._task.cancel()
        elif not unread and now - self._time > self._idle_seconds:
            self._task.cancel()
            return
        elif not unread and now - self._time > UNREAD_SECONDS and self._is_unacknowledged():
            self.transport.abort()
            return
        self._callback_check_timeouts = self.loop.call_later(CHECK_SECONDS, self.check_timeouts)

    def close(self, timeout: float | None = None) -> None:
        """Close when the answer is sent. A client that reads nothing is still disconnected."""
        transport = self.transport
        begins = transport is not None and not transport.is_closing()
        super().close(timeout)
        if begins and self.transport is not None and self.transport.get_write_buffer_size():
            self._callback_check_timeouts = self.loop.call_later(CHECK_SECONDS, self.check_timeouts)

    def _between_requests(self) -> bool:
        http = self._http
        if http is None or http.stage is not Stage.IDLE:
            return http is None
        # After an early answer Sanic still waits for the rest of the body.
        return not getattr(http, "request_body", None)

    def _is_unread(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size() if self.transport else 0
        # An equal size may belong to another piece of the answer, written at another time.
        if size == 0 or (size, self._time) != self._unread:
            self._unread = (size, self._time)
            self._unread_since = now
        return size > 0 and now - self._unread_since > UNREAD_SECONDS

    def _is_valid_old(self, headers: Header) -> bool:
        """Return whether an HTTP/1.0 request has a clear length (RFC 9112, 6.1)."""
        if self._http is not None:
            # There was no 100 Continue yet (RFC 9110, 10.1.1).
            self._http.expecting_continue = False
        return "transfer-encoding" not in headers

    def _is_unacknowledged(self) -> bool:
        """Return whether the kernel still holds an answer that the client does not read."""
        sock = self.transport.get_extra_info("socket") if self.transport else None
        return sock is not None and _bytes_in_kernel(sock.fileno()) > 0

    def _close_after_answer(self) -> None:
        if self._http is not None:
            self._http.keep_alive = False


def _bytes_in_kernel(descriptor: int) -> int:
    """Return how many sent bytes the other side has not acknowledged; 0 where nobody can tell."""
    if sys.platform != "linux":
        return 0
    import fcntl  # noqa: PLC0415 - not there on Windows
    import termios  # noqa: PLC0415 - the same

    found = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(found, sys.byteorder)


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"{status} {STATUS_CODES[status].decode()}"


def route(request: Request) -> str:
    """Return the template of the request's route as the OpenAPI document writes it."""
    return "unmatched" if request.route is None else template(f"/{request.route.path}")
