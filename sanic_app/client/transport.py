"""The way to the service: proxies, and answers that come too early or too slowly."""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
import urllib.request
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult

WHOLE_SECONDS = 60.0
"""How much longer than a socket may be silent an answer may take, whatever comes now and then."""


class _Timed(io.RawIOBase):
    """What a socket receives until the time is over; its own limit begins anew with each byte."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._silence = sock.gettimeout() or 0.0
        self.begin()

    def begin(self) -> None:
        """Let the time begin."""
        self._end = time.monotonic() + self._silence + WHOLE_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(min(self._silence, left))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """Must be whole in time. Each message of a stream has a time of its own."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self._timed = _Timed(sock)
        self.fp.close()
        self.fp = io.BufferedReader(self._timed)

    def begin_anew(self) -> None:
        """Let the time for what comes next begin."""
        self._timed.begin()


class _Patient(http.client.HTTPConnection):
    """Reads an answer that came before the whole request was sent."""

    response_class = _Answer

    def send(self, data: Any) -> None:
        # A body that is too large is answered before its end, and the connection is closed. What
        # was answered is read next; without an answer that read fails instead.
        with suppress(BrokenPipeError, ConnectionResetError):
            super().send(data)


class _PatientTls(_Patient, http.client.HTTPSConnection):
    pass


class Http(urllib.request.HTTPHandler):
    """Opens patient connections."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Open the URL of a request."""
        return self.do_open(_Patient, request)


class Https(urllib.request.HTTPSHandler):
    """Opens patient connections over TLS."""

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Open the URL of a request."""
        return self.do_open(_PatientTls, request)


def proxies_to(service: SplitResult) -> dict[str, str]:
    """Return the proxy that the environment names for a service, by its scheme.

    There is none for a service on this machine, and none for those in ``NO_PROXY``.
    """
    proxy = urllib.request.getproxies().get(service.scheme)
    if not proxy or _is_here(service.hostname or "") or urllib.request.proxy_bypass(service.netloc):
        return {}
    return {service.scheme: proxy}


def _is_here(host: str) -> bool:
    # Names are not looked up: perhaps only the proxy can do that.
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
