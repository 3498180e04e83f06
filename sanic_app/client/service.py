"""A client of a running service: requests, answers, events."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn
from urllib.parse import SplitResult, urlsplit

from sanic_app.client.transport import Http, Https, proxies_to
from sanic_app.errors import EXIT_START

ANSWER_SECONDS = 15.0
"""A write waits up to STORE_PATIENCE, which is 10 s, for PostgreSQL, and is answered then."""
ANSWER_BYTES = 4_194_304
"""More than any answer or message has. What never ends is not this service's."""
GATEWAY = frozenset({502, 503, 504})
"""What a proxy answers while it cannot reach the service."""
OVERLOADED = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
"""What a proxy answers when it has too much to do."""
PROBLEM = "application/problem+json"
EVENT_STREAM = "text/event-stream"
NO_EVENTS = "what it sends are no events"

Shape = type | tuple["Shape", ...] | list["Shape"] | Mapping[str, "Shape"]
"""What a value of an answer must be: of a type, one of several, a list, an object with fields."""
NUMBER, OR_NULL, OR_ABSENT = (int, float), type(None), type(...)
RESULT: Shape = {"history_num": int, "num": int, "date_finished": str}
TASK: Shape = {
    "history_num": int,
    "num": int,
    "timeout": NUMBER,
    "state": str,
    "date_finished": (str, OR_NULL),
    "seconds_until_due": (NUMBER, OR_NULL, OR_ABSENT),
}
QUEUE: Shape = {"depth": int, "backlog_seconds": NUMBER, "paused": bool, "head": (TASK, OR_NULL)}
"""By these an answer is known to be this service's: they have all that commands read."""
SILENT_SECONDS = 25.0
"""A stream of events is lost when it sends nothing for this long, not even a heartbeat."""

Json = Mapping[str, Any]


class Failed(Exception):
    """The command failed; the text is one line for the user."""

    exit_status = EXIT_START
    passes = False
    """Whether another try may succeed: the connection, the service or a proxy has failed."""


class Refused(Failed):
    """The service, or something in its place, answered with a status of 400 or above."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status
        self.passes = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in OVERLOADED


class Unreachable(Failed):
    """No service answers, the connection was lost, or something else answered."""

    passes = True


class Event(NamedTuple):
    """A message of the stream. A heartbeat has three empty fields."""

    id: str
    kind: str
    data: Mapping[str, Any]


class Service:
    """One service, with its URL and token."""

    def __init__(self, url: str, token: str | None) -> None:
        """Take the base URL.

        Raises:
            ValueError: it is not an HTTP URL, or a proxy could read the token.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError("the URL must not have a user: the token is in SANIC_APP_API_TOKEN")
        if not _is_base(parts, url):
            raise ValueError(f"not a URL such as http://127.0.0.1:8000: {url}")
        proxies = proxies_to(parts)
        if token is not None and "http" in proxies:
            # The whole request would be in clear, the token included, in the hands of another host.
            raise ValueError(
                f"http_proxy could read the token on its way to {parts.hostname}:"
                " use https, or add the host to NO_PROXY"
            )
        self.url = url.rstrip("/")
        self._headers = {"Accept": "*/*"} if token is None else {"Authorization": f"Bearer {token}"}
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), _NoRedirect, Http, Https
        )

    def ask(
        self,
        method: str,
        path: str,
        shape: Shape,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:
        """Send a request, its body as JSON, and return the JSON of its 2xx answer.

        Raises:
            Refused: the service did; the text is what it said.
            Unreachable: it did not answer, or another program did: the answer has another shape.
        """
        data = None if body is None else body.encode()
        try:
            with self._open(method, path, data, headers or {}, seconds) as answer:
                content = answer.read(ANSWER_BYTES)
                if answer.length and len(content) < ANSWER_BYTES:
                    # Only ``read()`` without a limit would say so itself.
                    raise http.client.IncompleteRead(content, answer.length)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._raise(error)
        found = parsed(content)
        if not fits(found, shape):
            raise self._another()
        return found

    def queue_page(self, limit: int) -> list[Json]:
        """Return the first tasks of the queue."""
        path = f"/api/v1/tasks?limit={limit}"
        found: list[Json] = self.ask("GET", path, {"tasks": [TASK]})["tasks"]
        return found

    def results(self, after: int, limit: int) -> list[Json]:
        """Return results behind a history number, in order."""
        path = f"/api/v1/results?limit={limit}&after={after}"
        found: list[Json] = self.ask("GET", path, {"results": [RESULT]})["results"]
        return found

    def events(self, after: str = "") -> Generator[Event, None, None]:
        """Return the events after a message, or from now on. A heartbeat is an empty event.

        Raises:
            as ``ask``; also when the stream ends.
        """
        headers = {"Last-Event-ID": after} if after else {}
        try:
            with self._open("GET", "/api/v1/events", None, headers, SILENT_SECONDS) as answer:
                if answer.headers.get_content_type() != EVENT_STREAM:
                    raise self._another()
                for event in _events(iter(partial(answer.readline, ANSWER_BYTES), b"")):
                    yield event
                    answer.begin_anew()
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                # It stops, or has enough listeners: both pass.
                raise Unreachable(_refusal(error)) from None
            self._raise(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._raise(error)
        raise Unreachable(f"{self.url} ended the stream")

    def _open(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> Any:
        request = urllib.request.Request(
            self.url + path, data, {**self._headers, **headers}, method=method
        )
        if data is not None:
            request.add_header("Content-Type", "application/json")
        return self._opener.open(request, timeout=seconds)

    def _another(self) -> Unreachable:
        return Unreachable(f"what answers at {self.url} is not this service")

    def _raise(self, error: Exception) -> NoReturn:
        if isinstance(error, urllib.error.HTTPError):
            if error.code in GATEWAY and error.headers.get_content_type() != PROBLEM:
                error.close()
                error = ConnectionError(f"a proxy answered with status {error.code}")
            else:
                raise Refused(_refusal(error), error.code) from None
        reason = getattr(error, "reason", None) or error
        raise Unreachable(f"no answer from {self.url}: {reason or type(error).__name__}") from None


def _is_base(parts: SplitResult, url: str) -> bool:
    """Return whether paths can follow the URL. A wrong one would look like a lost connection."""
    try:
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return False
    sound = url.isprintable() and " " not in url and parts.path.isascii()
    return bool(known) and sound and "?" not in url and "#" not in url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for this service only."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Do not follow."""


def parsed(content: bytes | str) -> Any:
    """Return the JSON; None when it is none, has a number that is none, or is nested too deep."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def fits(value: Any, shape: Shape) -> bool:
    """Return whether a value of JSON has this shape. No text has a line end or the like."""
    if isinstance(shape, type):
        # True is an integer, too.
        return type(value) is shape and (not isinstance(value, str) or value.isprintable())
    if isinstance(shape, tuple):
        return any(fits(value, each) for each in shape)
    if isinstance(shape, list):
        return type(value) is list and all(fits(each, shape[0]) for each in value)
    return type(value) is dict and all(fits(value.get(name, ...), shape[name]) for name in shape)


def _refusal(error: urllib.error.HTTPError) -> str:
    """Return the text of a problem document as one line."""
    with error:
        try:
            problem = parsed(error.read(ANSWER_BYTES))
            faults = [
                f"{fault['pointer']}: {fault['message']}" if fault["pointer"] else fault["message"]
                for fault in problem.get("errors", ())
            ]
            text = " ".join(faults) or str(problem["detail"])
        except (LookupError, TypeError, AttributeError, OSError, http.client.HTTPException):
            # The last two: the connection was lost within the answer.
            return f"status {error.code}, and not from this service"
    return text if problem.get("applied", False) is False else f"{text} (it may have been done)"


def _events(lines: Iterator[bytes]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if len(line) == ANSWER_BYTES:
            raise ValueError(NO_EVENTS)
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif line.strip() == b"":
            data = parsed(fields.get("data", "{}"))
            if not fits(data, {}) or not fits(data.get("tasks", []), [TASK]):
                raise ValueError(NO_EVENTS)
            yield Event(fields.get("id", ""), fields.get("event", ""), data)
            fields = {}
