"""All tables of a store as of one moment: what `check` looks at, and what `copy` copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from sanic_app.errors import StartError
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


Progress = Callable[[int, int], object]
"""Told how much of how much is done."""


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


class Target(Protocol):
    """The place of a copy: the copy is there whole and checked, or not at all."""

    def empty(self) -> None:
        """Begin anew."""

    def fill(self, source: Snapshot, progress: Progress) -> None:
        """Copy all tables, and make them a queue of its own.

        Raises:
            StoreFailed: the source is damaged.
            StartError: the place cannot be written.
        """

    def made(self) -> AbstractContextManager[Snapshot]:
        """Return what was copied, to be checked."""

    def publish(self) -> None:
        """Let it be seen.

        Raises:
            StartError: the place is not empty any more, or cannot be written.
        """


ROWS = 1_000
"""Rows that are copied between two reports."""


def rows_of(
    source: Snapshot, progress: Progress
) -> Iterator[tuple[str, Table, Iterator[tuple[Any, ...]]]]:
    """Return the rows of one table after the other, each in the order of its key.

    Raises:
        StartError: its schema is older than this program's.
    """
    if source.outdated:
        raise StartError("its schema is that of an older release: start the service there once")
    ((total,),) = source.select("SELECT (SELECT count(*) FROM queue) + count(*) FROM history")
    done = 0

    def counted(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        nonlocal done
        for row in rows:
            yield row
            done += 1
            if done % ROWS == 0:
                progress(min(done, total), total)

    for name, table in TABLES.items():
        sql = f"SELECT {table.listed} FROM {name} ORDER BY {table.key}"
        yield name, table, counted(source.select(sql))
    progress(total, total)
