"""The parsers of the settings' values. Each raises ``ValueError`` with what the value must be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from sanic_app.task import SECOND, Retention

AGE_MAX = 2**63 - 1
"""The greatest age in microseconds that every engine can store."""


def text(value: Any) -> str:
    """Parse a text that is not empty."""
    _refuse_other_types(value)
    if not isinstance(value, str) or not value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("must be a text that is not empty and has no control characters")
    return value.strip()


def _refuse_other_types(value: Any) -> None:
    """Refuse a number of YAML, such as a token of digits, and say what makes a text of it."""
    if value is not None and not isinstance(value, str):
        raise ValueError("must be a text: put it in quotes")


def host(value: Any) -> str:
    """Return a host as sockets take it."""
    found = text(value)
    if found.startswith("[") or found.endswith("]"):
        raise ValueError(f"must be an address without brackets: {found.strip('[]')}")
    return found


def integer(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of integers from ``low`` to ``high``."""

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value.strip()):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def decimal(high: int) -> Callable[[Any], Decimal]:
    """Return a parser of numbers of seconds from 0 to ``high``."""

    def parse(value: Any) -> Decimal:
        written = str(value).strip() if type(value) in (int, float, str) else ""
        try:
            number = Decimal(written if re.fullmatch(r"[0-9.eE+-]+", written) else "NaN")
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or not 0 <= number <= high:
            raise ValueError(f"must be a number of seconds from 0 to {high}")
        return number

    return parse


def microseconds(high: int) -> Callable[[Any], int]:
    """Return a parser of seconds, whose result is in microseconds."""
    number = decimal(high)
    return lambda value: int(number(value) * SECOND)


def seconds(high: int) -> Callable[[Any], float]:
    """Return a parser of seconds."""
    number = decimal(high)
    return lambda value: float(number(value))


def retention(value: Any) -> Retention:
    """Parse a number of tasks, or an age: a number with its unit."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    written = str(value).strip().lower() if type(value) in (int, str) else ""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd]?)", written)
    if match is None:
        raise ValueError("must be a number of tasks such as 100000, or an age such as 12h or 30d")
    count, unit = int(match[1]), match[2]
    if not unit:
        return Retention(tasks=count)
    age = count * units[unit] * SECOND
    if age > AGE_MAX:
        raise ValueError(f"must be an age of at most {AGE_MAX // (86_400 * SECOND)}d")
    return Retention(age=age)


def switch(value: Any) -> bool:
    """Parse true or false."""
    word = str(value).strip().lower() if isinstance(value, bool | str) else ""
    if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ValueError("must be true or false")
    return word in ("true", "yes", "on", "1")


def log_level(value: Any) -> str:
    """Parse the name of a log level."""
    names = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    name = value.strip().upper() if isinstance(value, str) else ""
    if name not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return name


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A URL of PostgreSQL, whose password shows nowhere, and the schema that it names, if any."""

    url: str = field(repr=False)
    schema: str | None = None

    def __str__(self) -> str:
        """Return the URL without user, password and parameters."""
        found = _POSTGRES.fullmatch(self.url)
        return f"postgresql://{found['host']}{found['name']}" if found else "postgresql://"


_HOST = r"(\[[^]]*\]|[^][/?@:,]*)(:[0-9]*)?"
_POSTGRES = re.compile(
    rf"(?P<start>postgres(ql)?://([^/@]*@)?(?P<host>{_HOST}(,{_HOST})*)(?P<name>(/[^?@]*)?))"
    r"(\?(?P<query>.*))?"
)
"""As libpq reads a URL: what is before an ``@`` is user and password, unless there is a ``/``."""


_KEYWORD = r"(host|hostaddr|port|dbname|user|password|passfile|service|sslmode|options)\s*="
"""How the other form begins that libpq has."""


Database = Path | PostgresUrl


def database(value: Any) -> Database:
    """Parse a path, a URL of SQLite, or one of PostgreSQL as libpq has it."""
    place = text(value)
    scheme, separator, _ = place.partition("://")
    if scheme in ("postgresql", "postgres") and separator:
        return _postgres(place)
    path = _path_of(urlsplit(place)) if separator else place
    # A URL that lacks its slashes would be a path, and begin a new queue. So would libpq's
    # other form, and the log would show its password as a name.
    if path is None or re.match(r"(sqlite|postgres(ql)?):|" + _KEYWORD, path):
        raise ValueError(
            "must be a path or a URL such as sqlite:////data/queue.db or postgresql://host/name"
        )
    if path == ":memory:" or path.startswith("file:"):
        raise ValueError("must be a file: a queue in memory would not survive a restart")
    return Path(path)


def _path_of(url: SplitResult) -> str | None:
    """Return the path that a URL of SQLite names, or None if it is no such URL."""
    other = url.scheme != "sqlite" or url.netloc or url.query or url.fragment
    return None if other or url.path in ("", "/") else text(unquote(url.path[1:]))


def _postgres(url: str) -> PostgresUrl:
    found = _POSTGRES.fullmatch(url)
    if found is None:
        raise ValueError(
            "must be a URL such as postgresql://user@host:5432/name, with %2F and %40 for / and @"
            " in a password"
        )
    # libpq refuses parameters that it does not know.
    named = [part for part in (found["query"] or "").split("&") if part]
    schemas = [part.removeprefix("schema=") for part in named if part.startswith("schema=")]
    if len(schemas) > 1:
        raise ValueError("must name one schema")
    query = "&".join(part for part in named if not part.startswith("schema="))
    return PostgresUrl(
        found["start"] + (f"?{query}" if query else ""), schema(schemas[0]) if schemas else None
    )


def database_file(value: Any) -> Database:
    """Read a path or URL from the file with this path."""
    path = text(value)
    try:
        return database(Path(path).read_text(encoding="utf-8-sig").strip())
    except OSError as error:
        raise ValueError(f"cannot be read: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("must name a file with a path or a URL") from None


def schema(value: Any) -> str:
    """Parse the name of a schema of PostgreSQL."""
    name = text(value)
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) or name.startswith("pg_"):
        raise ValueError("must be a name of lower-case letters, digits and _, not beginning pg_")
    return name


def token(value: Any) -> bytes:
    """Parse a token."""
    _refuse_other_types(value)
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value.strip()):
        raise ValueError("must be a token of visible ASCII characters, not empty")
    return value.strip().encode()


def token_file(value: Any) -> bytes:
    """Read a token from the file with this path."""
    path = text(value)
    try:
        return token(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"cannot be read: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("must name a file with a token of visible ASCII characters") from None


def base_path(value: Any) -> str:
    """Parse the path that a proxy puts before every path."""
    path = text(value).rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", path):
        raise ValueError("must be a path such as /queue")
    return path


def host_names(value: Any) -> frozenset[str]:
    """Parse a list of host names; ports are ignored. Addresses of IPv6 are in brackets."""
    parts = value if isinstance(value, list) else text(value).split(",")
    names = set()
    for part in parts:
        name = re.sub(r":[0-9]+$", "", part.strip().lower()) if isinstance(part, str) else ""
        if not re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f]*:[0-9a-f:.]*\]", name):
            raise ValueError("must be a comma list of host names")
        names.add(name)
    return frozenset(names)
