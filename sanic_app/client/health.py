"""The health check for containers: is the service that these settings describe ready?"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import threading
from contextlib import suppress

from sanic_app.client.output import refuse
from sanic_app.client.service import fits, parsed
from sanic_app.errors import EXIT_USAGE
from sanic_app.settings import Settings

SECONDS = 3.0
"""The service must answer within this time."""
ANSWER_BYTES = 4_096
"""It has less to say."""


def check(settings: Settings) -> int:
    """Print one line, and return 0 when the service is ready, else 1."""
    if settings.port == 0:
        return refuse("PORT is 0: only the service knows its port", EXIT_USAGE)
    host = _reachable(settings.host)
    try:
        # Not urllib: it would go through a proxy that the environment names.
        connection = http.client.HTTPConnection(host, settings.port, timeout=SECONDS)
    except http.client.InvalidURL:
        return refuse(f"{host} is not a host name")
    try:
        connection.connect()
        # The limit of the socket begins anew with each byte.
        limit = threading.Timer(SECONDS, _cut, [connection.sock])
        limit.daemon = True
        limit.start()
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        found, status = parsed(answer.read(ANSWER_BYTES)), answer.status
    except OSError as error:
        return refuse(f"no answer from {host} port {settings.port}: {error.strerror or error}")
    except UnicodeError:
        return refuse(f"{host} is not a host name")
    except (http.client.HTTPException, ValueError):
        found, status = None, 0
    finally:
        connection.close()
    if not fits(found, {"status": str, "reason": str}):
        return refuse(f"what answers at {host} port {settings.port} is not this service")
    if status != http.client.OK:
        return refuse(f"unready: {found['reason']}")
    print(f"ready: {found['reason']}")
    return 0


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _reachable(host: str) -> str:
    """Return the address of a service that listens on this one, or on all."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if isinstance(address, ipaddress.IPv4Address) else "::1"
