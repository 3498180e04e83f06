"""A running service as the command line sees it: requests, answers, events."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

ANSWER_SECONDS = 10.0
GATEWAY = frozenset({502, 503, 504})
"""What a proxy answers while it cannot reach the service."""
PROBLEM = "application/problem+json"
SILENT_SECONDS = 25.0
"""A stream of events without a heartbeat for so long is lost."""


class Failed(Exception):
    """The command cannot be done; its text is one line for the user."""


class Unreachable(Failed):
    """No service answers there, the connection was lost, or only a proxy answered."""


class Event(NamedTuple):
    """A message of the stream; of a heartbeat all three are empty."""

    id: str
    kind: str
    data: Mapping[str, Any]


class Service:
    """One service, by its URL and the token that it asks for."""

    def __init__(self, url: str, token: str | None) -> None:
        """Take the URL without the routes.

        Raises:
            ValueError: it is no URL of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"not a URL such as http://127.0.0.1:8000: {url}")
        self.url = url.rstrip("/")
        self._headers = {"Accept": "*/*"} if token is None else {"Authorization": f"Bearer {token}"}
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:
        """Return the JSON of a 2xx.

        Raises:
            Failed: the service refused, with what it said.
            Unreachable: it did not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._open(method, path, data, headers or {}, seconds) as answer:
                return json.load(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._lost(error)

    def events(self, after: str = "") -> Iterator[Event]:
        """Return what happens behind a message, or from now on; heartbeats are empty events.

        Raises:
            as ``ask``; also when the stream ends.
        """
        headers = {"Last-Event-ID": after} if after else {}
        try:
            with self._open("GET", "/api/v1/events", None, headers, SILENT_SECONDS) as answer:
                yield from _events(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._lost(error)
        raise Unreachable(f"{self.url} ended the stream")

    def _open(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            self.url + path, data, {**self._headers, **headers}, method=method
        )
        if data is not None:
            request.add_header("Content-Type", "application/json")
        return self._opener.open(request, timeout=seconds)

    def _lost(self, error: Exception) -> NoReturn:
        if isinstance(error, urllib.error.HTTPError):
            if error.code in GATEWAY and error.headers.get_content_type() != PROBLEM:
                error.close()
                error = ConnectionError(f"a proxy answered with status {error.code}")
            else:
                raise Failed(_told(error)) from None
        reason = getattr(error, "reason", None) or error
        raise Unreachable(f"no answer from {self.url}: {reason or type(error).__name__}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A service redirects nowhere, and the token is for it alone."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow nowhere."""


def _told(error: urllib.error.HTTPError) -> str:
    """Return what a problem document says, in one line."""
    with error:
        try:
            problem = json.load(error)
            faults = [
                f"{fault['pointer']}: {fault['message']}" if fault["pointer"] else fault["message"]
                for fault in problem.get("errors", ())
            ]
            text = " ".join(faults) or str(problem["detail"])
        except (ValueError, LookupError, TypeError, AttributeError, OSError):
            return f"status {error.code}, and not from this service"
    return text if problem.get("applied", False) is False else f"{text} (it may have been done)"


def _events(lines: Iterator[bytes]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif line.strip() == b"":
            data = json.loads(fields["data"]) if "data" in fields else {}
            yield Event(fields.get("id", ""), fields.get("event", ""), data)
            fields = {}
