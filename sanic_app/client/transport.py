"""Connections that read the answer even when the service did not want the whole request."""

from __future__ import annotations

import http.client
import urllib.request
from contextlib import suppress
from typing import Any


class _Patient(http.client.HTTPConnection):
    def send(self, data: Any) -> None:
        # A body that is too large is answered before its end, and the connection is closed. What
        # was answered is read next; without an answer that read fails instead.
        with suppress(BrokenPipeError, ConnectionResetError):
            super().send(data)


class _PatientTls(_Patient, http.client.HTTPSConnection):
    pass


class Http(urllib.request.HTTPHandler):
    """Opens such connections."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Open the URL of a request."""
        return self.do_open(_Patient, request)


class Https(urllib.request.HTTPSHandler):
    """Opens such connections over TLS."""

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Open the URL of a request."""
        return self.do_open(_PatientTls, request)
