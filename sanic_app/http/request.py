"""A request: whether its head is valid, and its body when a handler wants it."""

from __future__ import annotations

from typing import Any

from sanic import Request
from sanic.compat import Header

from sanic_app.errors import TooLarge
from sanic_app.http import framing


class ServiceRequest(Request):
    """A request whose body is read only when a handler wants it."""

    stream: Any
    """The ``RequestCycle``."""

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
