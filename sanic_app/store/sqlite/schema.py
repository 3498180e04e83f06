"""The schema of a database: made and brought up to date by the migrations."""

from __future__ import annotations

import sqlite3

from sanic_app.store.migrations import migrations
from sanic_app.store.sqlite import origin

APPLICATION_ID = 0x53517565
"""Marks a database as this service's (``SQue``)."""


def latest() -> int:
    """Return the number of the newest schema that this service knows."""
    return len(migrations("sqlite"))


def migrate(connection: sqlite3.Connection, until: int | None = None) -> list[str]:
    """Apply the migrations that the database lacks, up to this one or all; return their names.

    The number of the last one is ``user_version``. It lies in the database's header, so it is
    written in the same transaction as the migration: after a kill at any moment a database has a
    migration whole or not at all.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    applied = []
    for migration in migrations("sqlite")[version:until]:
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{migration.sql}\n"
                f"PRAGMA user_version = {migration.number};\n"
                f"PRAGMA schema_version = {origin.COOKIE};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        applied.append(migration.name)
    return applied
