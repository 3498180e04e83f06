"""What the parts of an audit ask for alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sanic_app.store import Figures
from sanic_app.store.snapshot import TABLES, Snapshot
from sanic_app.task import SECOND

Faults = Iterator[str]


def row_faults(snapshot: Snapshot, sql: str, text: str) -> Faults:
    """Return a fault for each row of a query: the text with the row's values put in."""
    for row in snapshot.select(sql):
        yield text.format(*row)


def broken(
    snapshot: Snapshot, state: Figures, table: str, rules: Mapping[str, str]
) -> Iterator[tuple[object, str]]:
    """Return the key of each row that meets a condition, and the text of the first that it meets.

    All conditions are tried in one pass. The figures of the state row are put in by name.
    """
    figures = {name: "NULL" if value is None else value for name, value in state._asdict().items()}
    conditions = [condition.format(**figures) for condition in rules]
    texts = list(rules.values())
    cases = " ".join(f"WHEN {condition} THEN {n}" for n, condition in enumerate(conditions))
    for key, rule in snapshot.select(
        f"SELECT {TABLES[table].key}, CASE {cases} END FROM {table} WHERE {' OR '.join(conditions)}"
    ):
        yield key, texts[rule]


def first_queued(snapshot: Snapshot) -> Iterator[tuple[int, int]]:
    """Return number and creation of the first of the queue, or nothing."""
    yield from snapshot.select(
        "SELECT history_num, created_at FROM queue"
        " WHERE history_num = (SELECT min(history_num) FROM queue)"
    )


def sum_of(column: str) -> str:
    """Return the SQL of a sum in seconds and microseconds: as one number it can be too great."""
    return f"coalesce(sum({column} / {SECOND}), 0), coalesce(sum({column} % {SECOND}), 0)"


def added_up(seconds: int, micros: int) -> int:
    """Return such a sum in microseconds."""
    return int(seconds) * SECOND + int(micros)
