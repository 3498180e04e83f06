"""The hosts that a URL names, each with all that libpq needs to connect to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from sanic_app.errors import StartError

CONNECT_SECONDS = 2
"""The least that libpq takes."""

_DEFAULTS: Mapping[str, Any] = {
    "application_name": "sanic-app",
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_SECONDS,
    # A partition is noticed within a few seconds, not within hours.
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}


def hosts_of(url: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what to connect with, for each host; ``options`` count where the URL says nothing.

    Raises:
        StartError: it is no such URL.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        # The driver's text may quote a part of the URL, the password perhaps.
        raise StartError("DATABASE is not a URL that PostgreSQL understands") from None
    hidden = _service(given) and not (given.get("host") or given.get("hostaddr"))
    # Which host is the right one is decided here, whatever URL and environment say. Of the hosts in
    # a service file only libpq knows, and takes the first that is no standby.
    given["target_session_attrs"] = "primary" if hidden else "any"
    given["load_balance_hosts"] = "disable"
    lists = {}
    for name in ("host", "hostaddr", "port"):
        value = given.pop(name, None) or (not hidden and os.environ.get(f"PG{name.upper()}"))
        if value:
            lists[name] = str(value).split(",")
    count = max((len(lists.get(name, [])) for name in ("host", "hostaddr")), default=1) or 1
    for name, values in lists.items():
        if len(values) not in (1, count):
            raise StartError(
                f"DATABASE gives {len(values)} values of {name}, which does not fit its hosts"
                f" ({count})"
            )
    hosts = []
    for number in range(count):
        host = {**_DEFAULTS, **options, **given}
        for name, values in lists.items():
            value = values[number] if len(values) > 1 else values[0]
            if value:
                host[name] = value
        hosts.append(host)
    return hosts


def name_of(host: Mapping[str, Any]) -> str:
    """Return a host as an operator knows it, without secrets."""
    if host["target_session_attrs"] != "any":
        return f"the service {_service(host)}"
    name = host.get("host") or host.get("hostaddr") or "a local socket"
    return f"{name} port {host.get('port') or 5432}"


def _service(given: Mapping[str, Any]) -> str:
    """Return the name of the entry of a service file that is used besides, or nothing."""
    return str(given.get("service") or os.environ.get("PGSERVICE", ""))
