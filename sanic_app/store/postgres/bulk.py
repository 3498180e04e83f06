"""A connection for whole tables: the limits of a node are for its short transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import psycopg

from sanic_app.errors import StartError
from sanic_app.store.postgres.failures import Lost, line_of
from sanic_app.store.postgres.servers import Connection, Servers

PATIENCE_MS = 120_000
"""How long either side may take nothing of what is sent, as one does whose disk is busy."""

_connections: WeakSet[Connection] = WeakSet()


def servers(url: str, schema: str) -> Servers:
    """Return the servers of a URL, which are given more time than those of a node."""
    return Servers(url, schema, tcp_user_timeout=PATIENCE_MS)


def connect(servers: Servers, lock_seconds: int) -> Connection:
    """Connect; a statement waits so long for a lock, and a transaction as long as it likes.

    Raises:
        StartError: there is no server that can be used.
    """
    try:
        connection = servers.connect()
        connection.execute(
            f"SET lock_timeout = '{lock_seconds}s'; SET idle_in_transaction_session_timeout = 0;"
            f" SET enable_seqscan = on; SET tcp_user_timeout = {PATIENCE_MS}"
        )
        _connections.add(connection)
    except Lost as error:
        raise StartError(f"cannot connect to {servers.where}: {error}") from None
    return connection


def leave() -> None:
    """Close all connections, because the process is to end.

    On an interrupt the driver would ask the server to cancel, and wait for it: one that is frozen
    has no answer. The server itself notices that its client is gone.
    """
    for connection in list(_connections):
        connection.close()


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Let an error of the server be one line that begins with these words.

    Raises:
        StartError: instead of the error.
    """
    try:
        yield
    except psycopg.Error as error:
        raise StartError(f"{what}: {line_of(error)}") from None
