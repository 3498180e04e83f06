"""A connection for whole tables: the limits of a node are for its short transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from sanic_app.errors import StartError
from sanic_app.store.postgres.failures import Lost, line_of
from sanic_app.store.postgres.servers import Connection, Servers

PATIENCE_MS = 120_000
"""How long a server may take nothing of what is sent, as one does whose disk is busy."""


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
            " SET enable_seqscan = on"
        )
    except Lost as error:
        raise StartError(f"cannot connect to {servers.where}: {error}") from None
    return connection


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
