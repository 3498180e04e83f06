"""What a commit begins with: the state row under the lock, and what is known only there."""

from __future__ import annotations

from typing import Any, NamedTuple

from sanic_app.errors import StoreFailed
from sanic_app.store import Figures
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres.foreseen import NEWEST
from sanic_app.task import SECOND

NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The server's clock in microseconds."""
LINEAGE = "replace(lineage::text, '-', '')"
SCHEMA_NUMBER = "current_schema()::regnamespace::oid::bigint"
"""A schema that a dump was restored into has another one, and the lock of the commits too."""
AGREED = "idempotency_keep, history_keep_tasks, history_keep_age"
"""The settings that concern the whole queue."""

STATE_COLUMNS = f"commit_num, first_history_num, {', '.join(Figures._fields)}"


class Opening(NamedTuple):
    """The state row under the lock."""

    commit_num: int
    first_history_num: int
    figures: Figures
    now: int
    """The server's clock after the wait for the lock."""
    lineage: str
    schema_number: int
    agreed: tuple[int | None, ...]
    """The settings that concern the whole queue."""
    lock_wait: float
    """In seconds."""


def newest_state(now: str) -> str:
    """Return the query of it; ``now`` is what the server calls its time."""
    return (
        f"SELECT {STATE_COLUMNS}, {now}, {LINEAGE}, {SCHEMA_NUMBER}, {AGREED}, compatible_from,"
        f" {NOW} FROM state, meta WHERE {NEWEST}"
    )


def opened(rows: list[Any], before: int) -> Opening:
    """Return what the query found; ``before`` is the server's clock before the wait for the lock.

    Raises:
        StoreFailed: the state row is missing, or of a newer service.
    """
    if not rows:
        raise StoreFailed("corrupt", "the state row is missing")
    commit_num, first, *figures, now, lineage, schema, keep, tasks, age, known_from, after = rows[0]
    if known_from > len(migrations("postgres")):
        raise StoreFailed(
            "other", "the schema was migrated by a newer service, which this one cannot join"
        )
    return Opening(
        commit_num,
        first,
        Figures(*figures),
        now,
        lineage,
        schema,
        (keep, tasks, age),
        max(after - before, 0) / SECOND,
    )
