"""One typed, frozen object: file < environment < flags.

Every source is passed in, so that nothing here reads the process's own state unasked.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import yaml

from sanic_app.errors import SettingsError
from sanic_app.task import SECOND, Retention

PREFIX = "SANIC_APP_"
CONFIG_FILE = "config_app.yaml"
TIMEOUT_LIMIT = 31_536_000
"""The greatest TIMEOUT_MAX in seconds: a year."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service runs with. Times ending in ``_us`` are microseconds, the others seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    logger_level: str = "INFO"
    database: Path = Path("queue.db")
    api_token: bytes | None = None
    metrics_token: bytes | None = None
    allow_anonymous: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    timeout_max_us: int = 86_400 * SECOND
    queue_max: int = 20_000_000
    body_max: int = 16_384
    batch_max: int = 10_000
    idempotency_keep_us: int = 86_400 * SECOND
    history_keep: Retention | None = None
    keep_alive: int = 75
    base_path: str = ""
    stop_delay: float = 0.0
    listeners_max: int = 1_000


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    folder: Path,
) -> Settings:
    """Return the settings from all sources, each beating the one before.

    ``flags`` has the parsed flags by key (``CONFIG`` names the file), ``folder`` is where the
    file is looked for when no flag names one.

    Raises:
        SettingsError: an unknown key, a bad value, or a combination that must not start; the
            detail is one line that names the source.
    """
    named = flags.get("CONFIG")
    found: dict[str, _Given] = {}
    found.update(
        _from_file(
            Path(named) if named is not None else folder / CONFIG_FILE, required=named is not None
        )
    )
    found.update(_from_environment(environ))
    for key, value in flags.items():
        if key != "CONFIG" and value is not None:
            found[key] = _Given(value, f"flag {KEYS[key].flag}")
    values = {key: _parse(key, given) for key, given in found.items()}
    fields: dict[str, Any] = {
        KEYS[key].field: value for key, value in values.items() if KEYS[key].field
    }
    settings = Settings(**fields, **_tokens(values, found))
    _check(settings, found)
    return settings


def is_loopback(host: str) -> bool:
    """Return whether every address that the host stands for is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(info[4][0]).split("%")[0]).is_loopback for info in found)


class _Given(NamedTuple):
    value: Any
    source: str


class Key(NamedTuple):
    """One key: how its value is read, and which field of the settings it fills."""

    parse: Callable[[Any], Any]
    field: str = ""
    flag: str = ""
    alias: str = ""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("must be a text that is not empty and has no control characters")
    return value.strip()


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value.strip()):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _number(high: int) -> Callable[[Any], Decimal]:
    def parse(value: Any) -> Decimal:
        msg = f"must be a number of seconds from 0 to {high}"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(msg)  # noqa: TRY004 - one kind of error for every bad value
        text = str(value).strip()
        try:
            number = Decimal(text if re.fullmatch(r"[0-9.eE+-]+", text) else "NaN")
        except InvalidOperation:
            raise ValueError(msg) from None
        if not number.is_finite() or not 0 <= number <= high:
            raise ValueError(msg)
        return number

    return parse


def _micros(high: int) -> Callable[[Any], int]:
    number = _number(high)
    return lambda value: int(number(value) * SECOND)


def _seconds(high: int) -> Callable[[Any], float]:
    number = _number(high)
    return lambda value: float(number(value))


def _history_keep(value: Any) -> Retention:
    """Read a number of tasks, or an age: a number with its unit."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    text = str(value).strip().lower() if type(value) in (int, str) else ""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd]?)", text)
    if match is None:
        raise ValueError("must be a number of tasks such as 100000, or an age such as 12h or 30d")
    count, unit = int(match[1]), match[2]
    return Retention(age=count * units[unit] * SECOND) if unit else Retention(tasks=count)


def _switch(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("must be true or false")


def _level(value: Any) -> str:
    names = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    name = value.strip().upper() if isinstance(value, str) else ""
    if name not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return name


def _database(value: Any) -> Path:
    text = _text(value)
    scheme, separator, _ = text.partition("://")
    if not separator:
        if text == ":memory:" or text.startswith("file:"):
            raise ValueError("must be a file: a queue in memory would not survive a restart")
        return Path(text)
    url = urlsplit(text)
    if scheme != "sqlite" or url.netloc or len(url.path) < 2 or url.query or url.fragment:  # noqa: PLR2004
        raise ValueError(
            "must be a path or a URL such as sqlite:///queue.db or sqlite:////data/queue.db"
        )
    return Path(_text(unquote(url.path[1:])))


def _token(value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value.strip()):
        raise ValueError("must be a token of visible ASCII characters, not empty")
    return value.strip().encode()


def _token_file(value: Any) -> bytes:
    path = _text(value)
    try:
        return _token(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("must name a file with a token of visible ASCII characters") from None


def _base_path(value: Any) -> str:
    text = _text(value).rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", text):
        raise ValueError("must be a path such as /queue")
    return text


def _hosts(value: Any) -> frozenset[str]:
    parts = value if isinstance(value, list) else _text(value).split(",")
    names = set()
    for part in parts:
        name = re.sub(r":[0-9]+$", "", part.strip().lower()) if isinstance(part, str) else ""
        if not re.fullmatch(r"[a-z0-9._-]+", name):
            raise ValueError("must be a comma list of host names")
        names.add(name)
    return frozenset(names)


KEYS: Mapping[str, Key] = {
    "HOST": Key(_text, "host", "--host", "HOST_APP"),
    "PORT": Key(_whole(0, 65_535), "port", "--port", "PORT_APP"),
    "LOGGER_LEVEL": Key(_level, "logger_level", "--logger-level"),
    "DATABASE": Key(_database, "database", "--database"),
    "API_TOKEN": Key(_token),
    "API_TOKEN_FILE": Key(_token_file),
    "METRICS_TOKEN": Key(_token),
    "METRICS_TOKEN_FILE": Key(_token_file),
    "ALLOW_ANONYMOUS": Key(_switch, "allow_anonymous", "--allow-anonymous"),
    "ALLOWED_HOSTS": Key(_hosts, "allowed_hosts"),
    "TIMEOUT_MAX": Key(_micros(TIMEOUT_LIMIT), "timeout_max_us"),
    "QUEUE_MAX": Key(_whole(1, 2**62), "queue_max"),
    "BODY_MAX": Key(_whole(1, 2**30), "body_max"),
    "BATCH_MAX": Key(_whole(1, 1_000_000), "batch_max"),
    "IDEMPOTENCY_KEEP": Key(_micros(TIMEOUT_LIMIT), "idempotency_keep_us"),
    "HISTORY_KEEP": Key(_history_keep, "history_keep"),
    "KEEP_ALIVE": Key(_whole(1, 3_600), "keep_alive"),
    "BASE_PATH": Key(_base_path, "base_path"),
    "STOP_DELAY": Key(_seconds(3_600), "stop_delay"),
    "LISTENERS_MAX": Key(_whole(1, 1_000_000), "listeners_max"),
}
"""Every key, by its name in the file; the environment's has the prefix."""

_BY_ALIAS = {spec.alias: key for key, spec in KEYS.items() if spec.alias}


def _from_file(path: Path, *, required: bool) -> dict[str, _Given]:
    source = f"file {path}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise SettingsError(f"{source}: not found") from None
        return {}
    except OSError as error:
        raise SettingsError(f"{source}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):
        # The library lets through what its conversions raise: `PORT: 2001-99-99`, `!!bool x`.
        raise SettingsError(f"{source}: is not valid YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{source}: must hold keys and values")
    found: dict[str, _Given] = {}
    for name, value in content.items():
        key: Any = _BY_ALIAS.get(name, name)
        if key not in KEYS:
            raise SettingsError(f"{source}: unknown key {name!r}")
        if key in found:
            raise SettingsError(f"{source}: {key} is given twice")
        found[key] = _Given(value, f"{source}: {name}")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    unknown: list[str] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX)
        value = environ[name]
        if key == "URL":
            # The command line's: where the service is.
            continue
        if key == "PORT" and value.startswith("tcp://"):
            # Kubernetes sets it for a Service of the name "sanic-app": it is not meant for us.
            continue
        if key not in KEYS:
            unknown.append(name)
            continue
        found[key] = _Given(value, f"environment: {name}")
    if unknown:
        log.warning("ignored unknown environment variables: %s", ", ".join(unknown))
    return found


def _parse(key: str, given: _Given) -> Any:
    try:
        return KEYS[key].parse(given.value)
    except ValueError as error:
        raise SettingsError(f"{given.source} {error}") from None


def _tokens(values: Mapping[str, Any], found: Mapping[str, _Given]) -> dict[str, Any]:
    tokens: dict[str, Any] = {}
    for key in ("API_TOKEN", "METRICS_TOKEN"):
        file = f"{key}_FILE"
        if key in values and file in values:
            raise SettingsError(f"{found[file].source}: give either {key} or {file}, not both")
        tokens[key.lower()] = values.get(key, values.get(file))
    return tokens


def _check(settings: Settings, found: Mapping[str, _Given]) -> None:
    if settings.queue_max * settings.timeout_max_us >= 2**63:
        sources = ", ".join(
            found[key].source for key in ("QUEUE_MAX", "TIMEOUT_MAX") if key in found
        )
        raise SettingsError(
            f"{sources}: QUEUE_MAX times TIMEOUT_MAX must be below 2^63 microseconds"
        )
    if not settings.api_token and not settings.allow_anonymous and not is_loopback(settings.host):
        raise SettingsError(
            f"HOST {settings.host} can be reached from elsewhere: set API_TOKEN or"
            " API_TOKEN_FILE, or ALLOW_ANONYMOUS to serve without a token"
        )
