"""One connection: the guard, the deadlines and the metrics of its requests.

Sanic's own timeouts restart with every byte. Here a request has one deadline, from its first byte
to the last byte of its body. A client that reads nothing of its answer is disconnected.
"""

from __future__ import annotations

import socket
import sys
from asyncio import CancelledError
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, Final

from sanic import HTTPResponse, Request
from sanic.exceptions import BadRequest, PayloadTooLarge, RequestTimeout
from sanic.http import Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.server.protocols.http_protocol import HttpProtocol

from sanic_app.errors import Invalid, ServiceError
from sanic_app.http.cycle import RequestCycle
from sanic_app.http.guard import Guard
from sanic_app.http.request import OddRequest, ServiceRequest
from sanic_app.http.routes import template
from sanic_app.log import accept_request_id, request_id
from sanic_app.metrics import Metrics

if sys.platform == "linux":
    # Now: later, the clients that it is for may have taken all descriptors.
    import fcntl
    import termios

REQUEST_SECONDS: Final = 10
"""From the first byte of a request to the last of its body."""
IDLE_SECONDS: Final = 15
"""How long a connection may be open before its first request; later it is ``KEEP_ALIVE``."""
UNREAD_SECONDS: Final = 15
"""How long a client may read nothing of its answer."""
CHECK_SECONDS: Final = 1
PROBE_SECONDS: Final = 5
"""How often a client that sends no more, and waits for its answer, is asked whether it lives."""


class Connection(HttpProtocol):
    """Sanic's protocol with a guard before routing, deadlines and metrics."""

    HTTP_CLASS = RequestCycle
    __slots__ = (
        *("_guard", "_idle_seconds", "_keep_alive", "_metrics", "_timed_out", "_unread"),
        *("_unread_since", "answering", "half_closed", "kept", "turned", "_probed_at"),
    )

    def _setup(self) -> None:
        super()._setup()  # type: ignore[no-untyped-call] # Sanic's has no types
        self._http: RequestCycle | None = None
        self._guard: Guard = self.app.ctx.guard
        self._metrics: Metrics = self.app.ctx.metrics
        self.request_class = OddRequest
        self.request_handler: Callable[[ServiceRequest], Any] = self._handle
        # Not Sanic's setting, because that also limits the headers.
        self.request_max_size: int = self.app.ctx.body_max
        self._keep_alive: int = self.app.ctx.keep_alive
        self._idle_seconds: float = IDLE_SECONDS
        self.kept = f"connection: keep-alive\r\nkeep-alive: timeout={self._keep_alive}"
        """The headers of an answer after which the connection stays open."""
        self.answering = False
        self.half_closed = False
        """Whether the client sends no more. It may still read."""
        self.turned = True
        """Whether the event loop has turned since the last request was received."""
        self._probed_at = 0.0
        self._timed_out = False
        self._unread = (0, 0.0)
        self._unread_since = 0.0

    async def _handle(self, request: ServiceRequest) -> None:
        begun = perf_counter()
        headers = request.headers
        request_id.set(accept_request_id(headers.get("x-request-id")))
        metrics = self._metrics
        metrics.in_flight += 1
        self.answering = True
        self._idle_seconds = self._keep_alive
        try:
            try:
                if request.version == "1.0" and self._http is not None:
                    # There was no 100 Continue yet (RFC 9110, 10.1.1).
                    self._http.expecting_continue = False
                if not request.is_valid():
                    self._close_after_answer()
                    raise Invalid(detail="The request is not valid HTTP.")
                self._guard.check(request.method, request.path, headers, request.raw_url)
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
            try:
                async for _ in http:
                    pass
            except (BadRequest, PayloadTooLarge):
                http.keep_alive = False
            finally:
                http.request_body = None

    def observe_error(self, request: Request, response: HTTPResponse) -> None:
        """Count the answer to a request that never became complete."""
        if not self.answering:
            series = self._metrics.http_seconds(request.method, route(request), response.status)
            series.observe(monotonic() - self._time)

    def data_received(self, data: bytes) -> None:
        """Receive data. Only the first byte of a request starts its clock."""
        http, begun = self._http, self._time
        silent = http is None or self._is_silent(http)
        self.turned = True
        super().data_received(data)
        if not silent:
            self._time = begun

    def eof_received(self) -> bool:
        """Answer a client that closes its sending side when it has asked.

        A stream of events ends: such a client looks like one that is gone.
        """
        self.half_closed = True
        self._probed_at = monotonic()
        self._data_received.set()
        http = self._http
        if http is not None and http.streams_events:
            return False
        return len(self.recv_buffer) > 0 or not self._between_requests()

    async def receive_more(self) -> None:
        """Wait for more of what the client sends.

        Raises:
            BadRequest: it ended in the middle of a request.
            CancelledError: it ended, and the connection is not used any more.
        """
        # Not the attribute itself: mypy believes that it cannot change in the wait.
        ended = self.half_closed
        if ended:
            self._close_after_answer()
            raise CancelledError if self._between_requests() else BadRequest
        await super().receive_more()  # type: ignore[no-untyped-call] # the same
        if self.half_closed and not self.recv_buffer and self._between_requests():
            # Woken by the end alone: no request begins.
            raise CancelledError

    def check_timeouts(self) -> None:
        """Check the deadlines, now and every second."""
        if self.transport is None:
            return
        now = monotonic()
        if self._timed_out or self._is_unread(now) or (self.half_closed and self._is_gone(now)):
            self.transport.abort()
            return
        http = self._http
        unread = self._unread[0] > 0
        if self._task is None:
            if not unread:
                return
        elif http is not None and not self._is_silent(http):
            receiving = http.stage is Stage.REQUEST or http.request_body
            if receiving and now - self._time > REQUEST_SECONDS:
                # Sanic still waits for the rest of the body; the next check aborts the connection.
                self._timed_out = True
                http.exception = RequestTimeout("Request Timeout")
                self._task.cancel()
        elif not unread and now - self._time > self._idle_seconds:
            if http is not None:
                # Also when an empty line came: it is no request that could be answered.
                http.stage = Stage.IDLE
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

    def _is_silent(self, http: RequestCycle) -> bool:
        """Return whether nothing of a request has come, except perhaps an empty line."""
        return self._between_requests() or (http.stage is Stage.REQUEST and not self.recv_buffer)

    def _is_unread(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size() if self.transport else 0
        # An equal size may belong to another piece of the answer, written at another time.
        if size == 0 or (size, self._time) != self._unread:
            self._unread = (size, self._time)
            self._unread_since = now
        return size > 0 and now - self._unread_since > UNREAD_SECONDS

    def _is_gone(self, now: float) -> bool:
        """Return whether a client that sends no more is gone altogether.

        That shows only when something is sent to it: its kernel resets the connection. A client
        that lives ignores 100 Continue (RFC 9110, 15.2).
        """
        http, transport = self._http, self.transport
        if transport is None or transport.is_closing() or http is None:
            return False
        waits = http.stage is Stage.HANDLER and http.request.version != "1.0"
        if waits and now - self._probed_at >= PROBE_SECONDS:
            self._probed_at = now
            transport.write(HTTP_CONTINUE)
        sock = transport.get_extra_info("socket")
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

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
    found = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(found, sys.byteorder)


def route(request: Request) -> str:
    """Return the template of the request's route as the OpenAPI document writes it."""
    return "unmatched" if request.route is None else template(f"/{request.route.path}")
