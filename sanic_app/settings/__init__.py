"""The settings, and where they come from: flags override the environment, which overrides the file.

The caller passes in the flags, the environment and the folder of the file.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sanic_app.errors import SettingsError
from sanic_app.settings import file, values
from sanic_app.settings.values import Database
from sanic_app.task import SECOND, Retention

PREFIX = "SANIC_APP_"
CONFIG_FILE = "config_app.yaml"
TIMEOUT_LIMIT = 31_536_000
"""The upper limit of TIMEOUT_MAX in seconds: a year."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service runs with. Times ending in ``_us`` are microseconds, the others seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    logger_level: str = "INFO"
    database: Database = Path("queue.db")
    database_schema: str = "sanic_app"
    store_patience: float = 10.0
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
    stop_delay: float = 0.0
    keep_alive: int = 75
    base_path: str = ""
    listeners_max: int = 1_000

    @property
    def batch_limit(self) -> int:
        """How many tasks one batch may have: more than ``queue_max`` never fit."""
        return min(self.batch_max, self.queue_max)


def load(flags: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> Settings:
    """Return the settings from the file, the environment and the flags.

    ``flags`` are the parsed flags by key; ``CONFIG`` is the path of the file. Without it, the
    file is looked for in ``folder``.

    Raises:
        SettingsError: an unknown key, a bad value, or a combination that is not allowed. The text
            is one line that names the source.
    """
    config = flags.get("CONFIG")
    path = folder / CONFIG_FILE if config is None else Path(config)
    from_flags = {
        key: _Given(value, f"flag {KEYS[key].flag}")
        for key, value in flags.items()
        if key != "CONFIG" and value is not None
    }
    found: dict[str, _Given] = {}
    parsed: dict[str, Any] = {}
    for source in (
        _from_file(path, required=config is not None),
        _from_environment(environ),
        from_flags,
    ):
        # A bad value is refused even where another source overrides it.
        parsed |= {KEYS[key].field: _parse(key, given) for key, given in source.items()}
        found |= source
    settings = Settings(**parsed)
    _check(settings, found)
    return settings


def _addresses(host: str, source: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(
            f"{source}: HOST {host} is not known: {error.strerror or error}"
        ) from None
    except UnicodeError:
        raise SettingsError(f"{source}: HOST {host} is not known: not a host name") from None
    return [str(info[4][0]).split("%")[0] for info in found]


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    # ::ffff:127.0.0.1 is 127.0.0.1. Not every Python knows.
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


class _Given(NamedTuple):
    value: Any
    source: str


class Key(NamedTuple):
    """One key: the parser of its value, and the field of the settings that it fills."""

    parse: Callable[[Any], Any]
    field: str
    flag: str = ""
    alias: str = ""


KEYS: Mapping[str, Key] = {
    "HOST": Key(values.host, "host", "--host", "HOST_APP"),
    "PORT": Key(values.integer(0, 65_535), "port", "--port", "PORT_APP"),
    "LOGGER_LEVEL": Key(values.log_level, "logger_level", "--logger-level"),
    "DATABASE": Key(values.database, "database", "--database"),
    "DATABASE_FILE": Key(values.database_file, "database"),
    "DATABASE_SCHEMA": Key(values.schema, "database_schema"),
    "STORE_PATIENCE": Key(values.seconds(3_600), "store_patience"),
    "API_TOKEN": Key(values.token, "api_token"),
    "API_TOKEN_FILE": Key(values.token_file, "api_token"),
    "METRICS_TOKEN": Key(values.token, "metrics_token"),
    "METRICS_TOKEN_FILE": Key(values.token_file, "metrics_token"),
    "ALLOW_ANONYMOUS": Key(values.switch, "allow_anonymous", "--allow-anonymous"),
    "ALLOWED_HOSTS": Key(values.host_names, "allowed_hosts"),
    "TIMEOUT_MAX": Key(values.microseconds(TIMEOUT_LIMIT), "timeout_max_us"),
    "QUEUE_MAX": Key(values.integer(1, 2**62), "queue_max"),
    "BODY_MAX": Key(values.integer(1, 2**30), "body_max"),
    "BATCH_MAX": Key(values.integer(1, 1_000_000), "batch_max"),
    "IDEMPOTENCY_KEEP": Key(values.microseconds(TIMEOUT_LIMIT), "idempotency_keep_us"),
    "HISTORY_KEEP": Key(values.retention, "history_keep"),
    "KEEP_ALIVE": Key(values.integer(1, 3_600), "keep_alive"),
    "BASE_PATH": Key(values.base_path, "base_path"),
    "STOP_DELAY": Key(values.seconds(3_600), "stop_delay"),
    "LISTENERS_MAX": Key(values.integer(1, 1_000_000), "listeners_max"),
}
"""Every key. In the environment its name has the prefix."""

_BY_ALIAS = {spec.alias: key for key, spec in KEYS.items() if spec.alias}


def _from_file(path: Path, *, required: bool) -> dict[str, _Given]:
    try:
        entries = file.read(path)
    except FileNotFoundError:
        if required:
            raise SettingsError(f"file {path}: not found") from None
        return {}
    found: dict[str, _Given] = {}
    for name, value, text, line in entries:
        source = f"file {path}, line {line}:"
        key: Any = _BY_ALIAS.get(name, name)
        if key not in KEYS:
            raise SettingsError(f"{source} unknown key {name!r}")
        if key in found:
            raise SettingsError(f"{source} {key} is given twice")
        if isinstance(value, bool) and KEYS[key].parse is not values.switch:
            raise SettingsError(
                f"{source} {name}: YAML reads {text} as {str(value).lower()}: put a text in quotes"
            )
        found[key] = _Given(value, f"{source} {name}")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    unknown: list[str] = []
    for name, value in sorted(environ.items()):
        key = name.removeprefix(PREFIX)
        # The commands read SANIC_APP_URL. Kubernetes sets SANIC_APP_PORT=tcp://... for a Service
        # with the name sanic-app.
        is_setting = key != "URL" and not (key == "PORT" and value.startswith("tcp://"))
        if key == name or not is_setting:
            continue
        if key in KEYS:
            found[key] = _Given(value, f"environment: {name}")
        else:
            unknown.append(name)
    if unknown:
        log.warning("ignored unknown environment variables: %s", ", ".join(unknown))
    return found


def _parse(key: str, given: _Given) -> Any:
    try:
        return KEYS[key].parse(given.value)
    except ValueError as error:
        raise SettingsError(f"{given.source} {error}") from None


def _check(settings: Settings, found: Mapping[str, _Given]) -> None:
    for key in ("DATABASE", "API_TOKEN", "METRICS_TOKEN"):
        key_file = f"{key}_FILE"
        if key in found and key_file in found:
            source = found[key_file].source
            raise SettingsError(f"{source}: give either {key} or {key_file}, not both")
    if settings.queue_max * settings.timeout_max_us >= 2**63:
        sources = ", ".join(
            found[key].source for key in ("QUEUE_MAX", "TIMEOUT_MAX") if key in found
        )
        raise SettingsError(
            f"{sources}: QUEUE_MAX times TIMEOUT_MAX must be below 2^63 microseconds"
        )
    if settings.api_token or settings.allow_anonymous or "HOST" not in found:
        return
    source = found["HOST"].source
    if not all(map(_is_loopback, _addresses(settings.host, source))):
        raise SettingsError(
            f"{source}: HOST {settings.host} can be reached from elsewhere: set API_TOKEN or"
            " API_TOKEN_FILE, or ALLOW_ANONYMOUS to serve without a token"
        )
