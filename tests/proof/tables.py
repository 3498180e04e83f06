"""What a database holds after a run, read without changing a byte of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sanic_app.store.audit import faults
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from tests.proof.history import Row, Snapshot


def snapshot(database: Path) -> Snapshot:
    """Return every row, as of one moment."""
    with closing(_open(database)) as connection:
        connection.execute("BEGIN")
        queue = connection.execute(
            "SELECT history_num, num, timeout, created_at,"
            " iif(history_num = head, head_started_at, NULL) FROM queue, state"
        ).fetchall()
        history = connection.execute(
            "SELECT history_num, num, timeout, created_at, started_at, finished_at,"
            " finish_num, outcome FROM history"
        ).fetchall()
    return Snapshot(tuple(Row(*row) for row in queue), tuple(Row(*row) for row in history))


def contradictions(database: Path) -> list[str]:
    """Return where the state row says something else than the tables, counted afresh.

    And what `sanic-app check` finds, which knows more rules and is no judge of itself.
    """
    with closing(_open(database)) as connection:
        connection.execute("BEGIN")
        state = _one(connection, "SELECT * FROM state")
        counted = _one(
            connection,
            """
            SELECT count(*) AS depth, coalesce(sum(timeout), 0) AS backlog,
                   min(history_num) AS first, (SELECT count(*) FROM history) AS last_finish_num,
                   count(*) + (SELECT count(*) FROM history) AS last_history_num,
                   (SELECT created_at FROM queue ORDER BY 1 LIMIT 1) AS oldest_created_at,
                   (SELECT coalesce(max(wait_sum), 0) FROM queue) AS wait_sum
            FROM queue
            """,
        )
        (damage,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    if not state["depth"]:
        counted["wait_sum"] = state["wait_sum"]
    counted["head"] = counted.pop("first")
    wrong = [
        f"the state row's {name} is {state[name]}, the tables say {value}"
        for name, value in counted.items()
        if state[name] != value
    ]
    if damage != "ok":
        wrong.append(f"integrity_check: {damage}")
    if orphans:
        wrong.append("foreign_key_check finds orphans")
    with SqliteSnapshot(database) as store:
        wrong += faults(store)
    return wrong


def _one(connection: sqlite3.Connection, sql: str) -> dict[str, Any]:
    cursor = connection.execute(sql)
    names = [column[0] for column in cursor.description]
    return dict(zip(names, cursor.fetchone(), strict=True))


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, isolation_level=None)
