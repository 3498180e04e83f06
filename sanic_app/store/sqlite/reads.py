"""What is read of a SQLite store. Each method is one statement, and so one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from sanic_app.clock import Clock
from sanic_app.errors import StoreFailed
from sanic_app.store import Figures, Overview, Place, Slice
from sanic_app.store.place import Standing, place
from sanic_app.store.skipped import LEVELS
from sanic_app.store.sqlite.connections import Connection, Connections
from sanic_app.store.sqlite.failures import failure
from sanic_app.store.sqlite.rows import FIGURES
from sanic_app.store.stamps import Stamps
from sanic_app.task import State, Task

SLICE_ROWS = 250
"""Rows in one slice of a whole list: a quarter of a millisecond of a reader's time.

Longer slices make a list come faster and all other answers later: with 5,000 rows adds took up to
4 times as long at their 99th percentile while a list was sent, with 250 rows twice as long.
"""

# An item of the queue's list as JSON, as http/schemas.py has it. SQLite writes it outside the
# interpreter's lock.
_QUEUE_ITEM = """
    json_object(
        'history_num', history_num,
        'date_created', strftime('%Y-%m-%dT%H:%M:%S', created_at / 1000000, 'unixepoch')
                        || printf('.%06dZ', created_at % 1000000),
        'num', num,
        'timeout', iif(timeout % 1000000 = 0, timeout / 1000000, timeout / 1000000.0)
    )
"""
_QUEUE_TASK = """
    SELECT history_num, num, timeout, created_at,
           iif(history_num = head, 'waiting', 'queued'),
           iif(history_num = head, head_started_at, NULL), NULL
    FROM queue, state
"""
_HISTORY_TASK = """
    SELECT history_num, num, timeout, created_at, outcome, started_at, finished_at FROM history
"""
_FIGURES = ", ".join(f"state.{name}" for name in Figures._fields)
_LEVELS = ", ".join(str(tuple(level)) for level in LEVELS)
# The skipped tasks before this task, less those before the first of the queue.
_PLACE = f"""
    WITH level (level, width, span) AS (VALUES {_LEVELS}),
         edge (history_num, sign) AS (VALUES (?, 1), ((SELECT min(history_num) FROM queue), -1))
    SELECT mine.num, mine.timeout, mine.created_at, {_FIGURES},
           first.history_num, first.timeout, mine.wait_sum - first.wait_sum,
           before.tasks, before.seconds, before.micros
    FROM state, queue AS mine, queue AS first, (
        SELECT coalesce(sum(sign * tasks), 0) AS tasks,
               coalesce(sum(sign * seconds), 0) AS seconds,
               coalesce(sum(sign * micros), 0) AS micros
        FROM edge CROSS JOIN level CROSS JOIN skipped
        WHERE skipped.level = level.level
        AND block >= history_num / span * span / width AND block < history_num / width
    ) AS before
    WHERE mine.history_num = ? AND first.history_num = (SELECT min(history_num) FROM queue)
"""


class SqliteReads:
    """The reads of the store's protocol."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        """Take the connections, not open yet, and the clock that stamps are taken from."""
        self._connections = connections
        self._stamps = Stamps(clock)
        self.on_failure: Callable[[StoreFailed], None] = _nobody

    def wall(self) -> int:
        """Return the wall clock, or what goes on in its place while stamps are ahead of it."""
        return self._stamps.wall()

    async def figures(self) -> Figures:
        """Return the state row."""
        return Figures(*await self._read_state(FIGURES))

    async def overview(self) -> Overview:
        """Return the state row and the head."""
        *state, num, timeout, created_at = await self._read_state(
            f"SELECT {_FIGURES}, num, timeout, created_at FROM state"
            " LEFT JOIN queue ON history_num = head"
        )
        figures = Figures(*state)
        head = None
        if figures.head is not None:
            started_at = figures.head_started_at
            head = Task(figures.head, num, timeout, created_at, State.WAITING, started_at)
        return Overview(figures, head, figures.stamp(self.wall()))

    async def task(self, history_num: int) -> tuple[Task, Place | None] | None:
        """Look into the queue, then into the history: a task moves from the first to the second."""
        rows = await self._read(_PLACE, history_num, history_num)
        if not rows:
            tasks = await self._tasks(f"{_HISTORY_TASK} WHERE history_num = ?", history_num)
            return (tasks[0], None) if tasks else None
        num, timeout, created_at, *values = rows[0]
        figures = Figures(*values[: len(Figures._fields)])
        standing = Standing(history_num, *values[len(Figures._fields) :])
        state, started_at = State.QUEUED, None
        if history_num == figures.head:
            state, started_at = State.WAITING, figures.head_started_at
        task = Task(history_num, num, timeout, created_at, state, started_at)
        return task, place(figures, self.wall(), standing)

    async def queue_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the queue."""
        return await self._tasks(
            f"{_QUEUE_TASK} WHERE history_num > ? ORDER BY history_num LIMIT ?", after, limit
        )

    async def results_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the done tasks: they finish in the order of the history number."""
        return await self._tasks(
            f"{_HISTORY_TASK} WHERE history_num > ? AND outcome = 'done'"
            " ORDER BY history_num LIMIT ?",
            after,
            limit,
        )

    async def added(self, after: int, until: int) -> list[Task]:
        """Return tasks by history number from both tables."""
        return await self._tasks(
            f"SELECT * FROM ({_HISTORY_TASK} WHERE history_num > ? AND history_num <= ?)"
            f" UNION ALL SELECT * FROM ({_QUEUE_TASK} WHERE history_num > ? AND history_num <= ?)"
            " ORDER BY history_num",
            after,
            until,
            after,
            until,
        )

    async def finished(self, after: int, until: int) -> list[Task]:
        """Return tasks by finish number."""
        return await self._tasks(
            f"{_HISTORY_TASK} WHERE finish_num > ? AND finish_num <= ? ORDER BY finish_num",
            after,
            until,
        )

    async def queue_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the queue."""
        return await self._slice(_QUEUE_ITEM, "queue WHERE true", after, until)

    async def results_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the result list."""
        return await self._slice("num", "history WHERE outcome = 'done'", after, until)

    async def read_lineage(self) -> str:
        """Return which queue this is."""
        for (uuid,) in await self._read("SELECT uuid FROM lineage"):
            return str(uuid)
        raise self._failed(StoreFailed("corrupt", "the lineage is missing"))

    async def _read(self, sql: str, *values: object) -> list[Any]:
        return await self._read_by(self._connections.reader, sql, values)

    async def _read_state(self, sql: str) -> Any:
        for row in await self._read(sql):
            return row
        raise self._failed(StoreFailed("corrupt", "the state row is missing"))

    async def _tasks(self, sql: str, *values: object) -> list[Task]:
        rows = await self._read(sql, *values)
        try:
            return [
                Task(number, num, timeout, created_at, State(state), started_at, finished_at)
                for number, num, timeout, created_at, state, started_at, finished_at in rows
            ]
        except ValueError as error:
            raise self._failed(StoreFailed("corrupt", f"a task cannot be read: {error}")) from error

    async def _slice(self, item: str, table: str, after: int, until: int) -> Slice:
        ((text, rows, last),) = await self._read_by(
            self._connections.list_reader,
            f"SELECT group_concat(item), count(*), max(history_num) FROM"
            f" (SELECT {item} AS item, history_num FROM {table}"
            "  AND history_num > ? AND history_num <= ? ORDER BY history_num LIMIT ?)",
            (after, until, SLICE_ROWS),
        )
        return Slice(text or "", last if rows == SLICE_ROWS else None)

    async def _read_by(
        self, connection: Connection, sql: str, values: Sequence[object]
    ) -> list[Any]:
        try:
            return list(await connection.execute_fetchall(sql, values))
        except sqlite3.Error as error:
            found = failure(error)
            if not isinstance(found, StoreFailed):
                raise
            raise self._failed(found) from error

    def _failed(self, found: StoreFailed) -> StoreFailed:
        """Tell who ends the process: what a reader cannot read, the next commit may rest on."""
        self.on_failure(found)
        return found


def _nobody(_: StoreFailed) -> None:
    """Before somebody asks to be told, whoever opens the store meets the failure."""
