"""The schema of one queue: made, migrated, and agreed on by all nodes that start."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from psycopg import sql

from sanic_app.errors import StartError
from sanic_app.store import Figures
from sanic_app.store.consistency import Ends, agrees
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres.foreseen import NEWEST
from sanic_app.store.postgres.link import fetch
from sanic_app.store.postgres.opening import AGREED, LINEAGE, SCHEMA_NUMBER
from sanic_app.store.postgres.servers import Connection
from sanic_app.store.transition import Limits

LOCK_CLASS = 0x51756575
"""The first half of the advisory locks: ``Queu``. The second is the schema's own number."""
KEPT_COMMITS = 1_000_000
"""So far behind the newest commit nobody waits for an answer any more."""
MIGRATE_SECONDS = 60
"""How long a start waits for another one that migrates."""


_STATE_AND_ENDS = f"""
    SELECT commit_num, {", ".join(f"newest.{name}" for name in Figures._fields)},
           first.history_num, first.created_at, first.timeout, first.wait_sum,
           last.history_num, last.created_at, last.wait_sum,
           (SELECT max(history_num) FROM history),
           -- Not the least: the rows that retention has removed may be dead ones still.
           (SELECT min(finish_num) FROM history WHERE finish_num > newest.pruned),
           finish.finish_num, finish.finished_at
    FROM (SELECT * FROM state WHERE {NEWEST}) AS newest
    LEFT JOIN LATERAL (
        SELECT * FROM queue WHERE history_num >= first_history_num ORDER BY history_num LIMIT 1
    ) AS first ON true
    LEFT JOIN LATERAL (SELECT * FROM queue ORDER BY history_num DESC LIMIT 1) AS last ON true
    LEFT JOIN LATERAL (SELECT * FROM history ORDER BY finish_num DESC LIMIT 1) AS finish ON true
"""


class Schema(NamedTuple):
    """What a node has to know of the schema."""

    number: int
    """PostgreSQL's own number of it."""
    lineage: str

    @property
    def lock(self) -> int:
        """The key of the advisory lock that each commit takes."""
        return LOCK_CLASS << 32 | self.number


def prepare(connection: Connection, name: str, node: uuid.UUID, limits: Limits) -> Schema:
    """Make the schema or bring it up to date, and make sure that all nodes agree.

    Raises:
        StartError: one line that says why this schema cannot be used.
    """
    # Several nodes start at once, and CREATE IF NOT EXISTS would fail in all but one.
    connection.execute(
        f"BEGIN; SET LOCAL lock_timeout = '{MIGRATE_SECONDS}s';"
        f" SET LOCAL idle_in_transaction_session_timeout = '{MIGRATE_SECONDS}s';"
        " SET LOCAL synchronous_commit = on;"
        f" SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)"
    )
    require_usage(connection, name)
    version = _version(connection, name)
    known = migrations("postgres")
    if version == 0 and not exists(connection, name):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    for migration in known[version:]:
        connection.execute(migration.sql)
        connection.execute(f"UPDATE meta SET schema = {migration.number}")
    _agree(connection, limits)
    ((lineage, number),) = fetch(connection, f"SELECT {LINEAGE}, {SCHEMA_NUMBER} FROM meta")
    connection.execute(
        "INSERT INTO node (node) VALUES (%s) ON CONFLICT (node) DO UPDATE SET resolves = 0", (node,)
    )
    connection.execute("DELETE FROM node WHERE seen_at < clock_timestamp() - interval '30 days'")
    # Not by the clock alone: that of a server which was promoted may be days ahead.
    connection.execute(
        "DELETE FROM node_commit WHERE committed_at < clock_timestamp() - interval '1 day'"
        f" AND commit_num < (SELECT max(commit_num) FROM state) - {KEPT_COMMITS}"
    )
    connection.execute("COMMIT")
    return Schema(number, lineage)


def newest(connection: Connection) -> tuple[int, Figures]:
    """Return the newest commit, and the state row after it.

    Raises:
        StartError: the state row is missing, or contradicts itself or the two tables.
    """
    for commit_num, *values in fetch(connection, _STATE_AND_ENDS):
        size = len(Figures._fields)
        figures = Figures(*values[:size])
        if agrees(figures, Ends(*values[size:])):
            return commit_num, figures
    ((name,),) = fetch(connection, "SELECT current_schema()")
    raise StartError(f"the schema {name} is damaged: its state row is wrong, see `sanic-app check`")


def exists(connection: Connection, name: str) -> bool:
    """Return whether there is such a schema."""
    return bool(fetch(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", name))


def tables(connection: Connection, name: str) -> list[str]:
    """Return the names of a schema's tables; none when there is no such schema."""
    found = fetch(
        connection,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
        " (SELECT oid FROM pg_namespace WHERE nspname = %s)",
        name,
    )
    return [table for (table,) in found]


def require_usage(connection: Connection, name: str) -> None:
    """Look whether the role may see the tables of a schema: else it seems to have none.

    Raises:
        StartError: there is such a schema, and the role may not use it.
    """
    for (role,) in fetch(
        connection,
        "SELECT current_user FROM pg_namespace"
        " WHERE nspname = %s AND NOT has_schema_privilege(oid, 'USAGE')",
        name,
    ):
        raise StartError(
            f"the role {role} may not use the schema {name}: grant it the rights that"
            " RELIABILITY.md lists"
        )


def _version(connection: Connection, name: str) -> int:
    """Return the number of the last migration, 0 for a schema without tables.

    Raises:
        StartError: the schema is of a newer service, or holds something else.
    """
    found = tables(connection, name)
    if not found:
        return 0
    if "meta" not in found:
        raise StartError(f"the schema {name} holds other tables than this service's")
    rows = fetch(connection, "SELECT schema, compatible_from FROM meta")
    if not rows:
        raise StartError(f"the schema {name} is damaged: its meta row is missing")
    version, compatible_from = rows[0]
    known = len(migrations("postgres"))
    if compatible_from > known:
        raise StartError(
            f"the schema {name} has version {version}, newer than this service's {known}:"
            " use a newer service"
        )
    return int(version)


def _agree(connection: Connection, limits: Limits) -> None:
    """Keep the settings that concern the whole queue, or compare them with those that are kept."""
    mine = agreed(limits)
    (theirs,) = fetch(connection, f"SELECT {AGREED} FROM meta")
    if theirs == mine:
        return
    others = fetch(
        connection,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
        " AND objsubid = 2 AND granted"
        " AND objid = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        LOCK_CLASS,
    )
    if theirs[0] is not None and others[0][0]:
        raise StartError(
            "IDEMPOTENCY_KEEP and HISTORY_KEEP differ from those of the nodes that are running:"
            " give all nodes the same, or stop them all to change them"
        )
    connection.execute(f"UPDATE meta SET ({AGREED}) = (%s, %s, %s)", mine)


def agreed(limits: Limits) -> tuple[int | None, ...]:
    """Return the settings that concern the whole queue, as they are kept."""
    retention = limits.retention
    return (
        limits.idempotency_keep,
        retention.tasks if retention else None,
        retention.age if retention else None,
    )


def present(connection: Connection) -> None:
    """Let other nodes see that this one runs, as long as the connection lasts."""
    connection.execute(
        f"SELECT pg_advisory_lock_shared({LOCK_CLASS}, oid::bigint::bit(32)::integer)"
        " FROM pg_namespace WHERE nspname = current_schema()"
    )
