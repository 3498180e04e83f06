"""The way to the service: proxies, and answers that come before the request is sent."""

from __future__ import annotations

import http.client
import ipaddress
import urllib.request
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult


class _Patient(http.client.HTTPConnection):
    """Reads an answer that came before the whole request was sent."""

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
