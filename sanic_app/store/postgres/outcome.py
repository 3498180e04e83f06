"""What became of a commit: the warnings of the server, and a look at it later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.servers import Connection


def was_applied(lock: int, node: str, number: int, connection: Connection) -> bool:
    """Look for a node's commit under the lock, and make sure that what was found is durable.

    Raises:
        psycopg.Error, Lost: that cannot be told now.
    """
    connection.execute(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on;"
        f" SELECT pg_advisory_xact_lock({lock})"
    )
    found = connection.execute(
        f"SELECT 1 FROM node_commit WHERE node = '{node}' AND commit_num = {number}"
    ).fetchall()
    # A row for certain: without a write COMMIT would wait for nothing.
    connection.execute(
        f"INSERT INTO node (node, resolves) VALUES ('{node}', 1) ON CONFLICT (node) DO"
        " UPDATE SET resolves = node.resolves + 1, seen_at = clock_timestamp()"
    )
    with warned(connection) as warnings:
        connection.execute("COMMIT")
    if warnings:
        raise Lost(warnings[0])
    return bool(found)


@contextmanager
def warned(connection: Connection) -> Iterator[list[str]]:
    """Collect the warnings that the server sends meanwhile.

    Not that its transaction ids come to an end, which it says with each of the last 40 million.
    """
    found: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        ids = diagnostic.source_function == "GetNewTransactionId"
        if diagnostic.severity_nonlocalized == "WARNING" and not ids:
            found.append(diagnostic.message_primary or "a warning")

    connection.add_notice_handler(note)
    try:
        yield found
    finally:
        connection.remove_notice_handler(note)
