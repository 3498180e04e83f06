"""All tables of a store as of one moment: what `check` looks at, and what `copy` copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from sanic_app.store import Figures
from sanic_app.store.keys import KeyRow
from sanic_app.store.skipped import Block


class Table(NamedTuple):
    """A table of every engine: the column that it is ordered by, and all columns."""

    key: str
    columns: tuple[str, ...]

    @property
    def listed(self) -> str:
        """Return the columns as SQL lists them."""
        return ", ".join(self.columns)


_TASK = ("history_num", "num", "timeout", "created_at")

TABLES: Mapping[str, Table] = {
    "queue": Table("history_num", (*_TASK, "wait_sum")),
    "history": Table("history_num", (*_TASK, "outcome", "started_at", "finished_at", "finish_num")),
    "skipped": Table("level, block", Block._fields),
    "idempotency": Table("key", ("key", *KeyRow._fields)),
    "state": Table("last_history_num", Figures._fields),
}
"""What makes a queue, apart from the lineage: each copy has its own."""


class Snapshot(Protocol):
    """The tables as of one moment, only to be read."""

    @property
    def outdated(self) -> bool:
        """Whether its schema is older than this program's: it cannot be compared with the rules."""

    def select(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a query in the SQL that all engines understand, few at a time.

        Raises:
            StoreFailed: the tables are damaged.
        """

    def verify(self) -> None:
        """Look whether what was read is of one moment.

        Raises:
            StoreBusy: it may be of several: read it anew.
        """

    def engine_faults(self) -> Iterator[str]:
        """Return what the engine's own check finds, a line each."""
