"""Who may send requests: the token, the Host, and the rule against pages of other sites.

All is checked before routing and before the body is read. The health routes are exempt. See
ARCHITECTURE.md, "Access".
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from sanic.compat import Header

from sanic_app.errors import Fault, Forbidden, Invalid, Unauthorized
from sanic_app.http import routes
from sanic_app.http.shape import printable
from sanic_app.settings import Settings


class Guard:
    """Lets a request pass or refuses it."""

    def __init__(self, settings: Settings) -> None:
        self._api = settings.api_token
        self._metrics = settings.metrics_token
        self._names = settings.allowed_hosts
        self._host_allowed = lru_cache(maxsize=256)(_host_rule(settings.allowed_hosts))

    def check(self, method: str, path: str, headers: Header, target: bytes) -> None:
        """Let the request pass or refuse it.

        If its target is a whole URL, the host is that of the URL (RFC 9112, 3.2.2).

        Raises:
            Invalid: there is not exactly one Host.
            Unauthorized: no valid token.
            Forbidden: the Host is not served, or a page of another site sent the request.
        """
        if path.rstrip("/") in routes.HEALTH:
            return
        hosts = headers.getall("host", [])
        if len(hosts) != 1:
            raise Invalid(Fault("", "There must be exactly one Host header."))
        host = hosts[0] if target[:1] in b"/*" else _authority(target.decode("latin-1"))
        if not self._host_allowed(host) and self._api is None:
            raise Forbidden(f"The Host '{printable(host)}' is not served: add it to ALLOWED_HOSTS.")
        if self._api is not None or self._metrics is not None:
            self._check_token(path, headers)
        if "sec-fetch-site" in headers or "origin" in headers:
            self._check_site(method, host, headers)

    def _check_token(self, path: str, headers: Header) -> None:
        path = path.rstrip("/")
        if path in ("", routes.DOCS) or path.startswith((routes.DOCS_FILES, routes.PAGE_FILES)):
            # The documentation and the files of the page contain nothing about the queue.
            return
        accepted = [self._api] if self._api else []
        if path == routes.METRICS and self._metrics:
            accepted.append(self._metrics)
        if not accepted:
            return
        given = headers.getall("authorization", [])
        if len(given) != 1:
            raise Unauthorized
        scheme, _, token = given[0].partition(" ")
        presented = token.strip(" ").encode("utf-8", "surrogateescape")
        # All tokens are compared in any case, so that the time says nothing about them.
        matches = [hmac.compare_digest(presented, expected) for expected in accepted]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized

    def _check_site(self, method: str, host: str, headers: Header) -> None:
        site = ",".join(headers.getall("sec-fetch-site", ())).strip(" \t,").lower()
        if site:
            navigation = (
                method == "GET"
                and headers.get("sec-fetch-mode") == "navigate"
                and headers.get("sec-fetch-dest") == "document"
            )
            if site not in ("same-origin", "none") and not navigation:
                raise Forbidden("Pages of other sites may not send requests.")
            return
        if method in ("GET", "HEAD", "OPTIONS"):
            return
        for origin in headers.getall("origin", []):
            authority = _authority(origin)
            # Behind a proxy the Host may be one that the proxy made up.
            if authority != host.strip(" \t").lower() and _name(authority) not in self._names:
                raise Forbidden(
                    "Pages of other sites may not send requests: the Origin"
                    f" '{printable(origin)}' is not the Host '{printable(host)}'. If this is the"
                    " service's own page behind a proxy, add the Origin's host to ALLOWED_HOSTS,"
                    " or let the proxy pass on the Host."
                )


def _authority(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _name(authority: str) -> str:
    """Return a host without its port."""
    return re.sub(r":[0-9]*$", "", authority.strip(" \t").lower())


def _host_rule(allowed: frozenset[str]) -> Callable[[str], bool]:
    def rule(host: str) -> bool:
        """Return whether DNS rebinding is impossible: it needs a name of the attacker's own."""
        name = _name(host)
        if name == "localhost" or name in allowed:
            return True
        try:
            ipaddress.ip_address(name[1:-1] if name[:1] + name[-1:] == "[]" else name)
        except ValueError:
            return False
        return name[:1] == "[" or ":" not in name

    return rule
