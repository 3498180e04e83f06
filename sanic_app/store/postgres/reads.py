"""What is read of a queue on PostgreSQL, always on the server that is written to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sanic_app.clock import Clock
from sanic_app.errors import StartError, StoreBusy, StoreFailed, StoreUnavailable
from sanic_app.store import Figures, Overview, Place, Slice
from sanic_app.store.place import Standing, place
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.link import Link, fetch
from sanic_app.store.postgres.rows import LINEAGE, NEWEST
from sanic_app.store.postgres.servers import Connection
from sanic_app.store.skipped import LEVELS
from sanic_app.task import State, Task

READ_SECONDS = 2.0
"""After so long without an answer a read is given up."""
SLICE_ROWS = 250
"""Rows in one slice of a whole list, as on SQLite."""

FIGURES = ", ".join(f"state.{name}" for name in Figures._fields)
# An item of the queue's list as JSON, as http/schemas.py has it.
_QUEUE_ITEM = """
    '{"history_num":' || history_num || ',"date_created":"'
    || to_char(to_timestamp(created_at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    || '.' || lpad((created_at %% 1000000)::text, 6, '0') || 'Z","num":' || num || ',"timeout":'
    || trim_scale(timeout / 1000000.0) || '}'
"""
_QUEUE_TASK = f"""
    SELECT history_num, num, timeout, queue.created_at,
           CASE WHEN history_num = head THEN 'waiting' ELSE 'queued' END,
           CASE WHEN history_num = head THEN head_started_at END, NULL::bigint
    FROM (SELECT * FROM state WHERE {NEWEST}) AS state
    JOIN queue ON history_num >= first_history_num
"""
_HISTORY_TASK = """
    SELECT history_num, num, timeout, created_at, outcome, started_at, finished_at FROM history
"""
_LEVELS = ", ".join(str(tuple(level)) for level in LEVELS)
_FIRST = f"""
    (SELECT min(queue.history_num) FROM queue
     WHERE queue.history_num >= (SELECT first_history_num FROM state WHERE {NEWEST}))
"""
# The skipped tasks before this task, less those before the first of the queue.
_PLACE = f"""
    WITH level (level, width, span) AS (VALUES {_LEVELS}),
         edge (history_num, sign) AS (VALUES (%s::bigint, 1), ({_FIRST}, -1))
    SELECT mine.num, mine.timeout, mine.created_at, {{now}}, {FIGURES},
           first.history_num, first.timeout, mine.wait_sum - first.wait_sum,
           before.tasks, before.seconds, before.micros
    FROM state, queue AS mine, queue AS first, (
        SELECT coalesce(sum(sign * tasks), 0)::bigint AS tasks,
               coalesce(sum(sign * seconds), 0)::bigint AS seconds,
               coalesce(sum(sign * micros), 0)::bigint AS micros
        FROM edge CROSS JOIN level CROSS JOIN skipped
        WHERE skipped.level = level.level
        AND block >= edge.history_num / span * span / width AND block < edge.history_num / width
    ) AS before
    WHERE {NEWEST} AND mine.history_num = %s AND first.history_num = {_FIRST}
"""
OVERVIEW = f"""
    SELECT commit_num, {LINEAGE}, compatible_from, {{now}}, {FIGURES}, num, timeout, created_at
    FROM meta, state LEFT JOIN queue ON history_num = head WHERE {NEWEST}
"""


def overview(figures: Figures, now: int, head: Sequence[Any]) -> Overview:
    """Return the state row with the head; ``now`` is the server's clock."""
    task = None
    if figures.head is not None:
        num, timeout, created_at = head
        started_at = figures.head_started_at
        task = Task(figures.head, num, timeout, created_at, State.WAITING, started_at)
    return Overview(figures, task, figures.stamp(now))


def tasks(rows: list[Any]) -> list[Task]:
    """Return rows of either table as tasks.

    Raises:
        StoreFailed: one of them cannot be a task.
    """
    try:
        return [
            Task(number, num, timeout, created_at, State(state), started_at, finished_at)
            for number, num, timeout, created_at, state, started_at, finished_at in rows
        ]
    except ValueError as error:
        raise StoreFailed("corrupt", f"a task cannot be read: {error}") from error


class PostgresReads:
    """The reads of the store's protocol."""

    def __init__(
        self, reader: Link, list_reader: Link, clock: Clock, now: Callable[[], str]
    ) -> None:
        """Take the connections, the local clock, and what the server calls its time."""
        self._reader = reader
        # Whole lists have a connection of their own, so that no other read waits behind a slice.
        self._list_reader = list_reader
        self._clock = clock
        self._now = now
        # The server's clock less the local one, in microseconds.
        self._offset = 0
        self.on_failure: Callable[[StoreFailed], None] = _nobody

    def wall(self) -> int:
        """Return the server's clock, as far as this process knows it."""
        return self._clock.wall() + self._offset

    def _tell_time(self, now: int) -> None:
        self._offset = now - self._clock.wall()

    async def figures(self) -> Figures:
        """Return the state row."""
        return (await self.overview()).figures

    async def overview(self) -> Overview:
        """Return the state row and the head."""
        rows = await self._read(OVERVIEW.format(now=self._now()))
        if not rows:
            raise self._failed(StoreFailed("corrupt", "the state row is missing"))
        _, _, _, now, *values = rows[0]
        self._tell_time(now)
        size = len(Figures._fields)
        return overview(Figures(*values[:size]), now, values[size:])

    async def task(self, history_num: int) -> tuple[Task, Place | None] | None:
        """Look into the queue, then into the history: a task moves from the first to the second."""
        sql = _PLACE.format(now=self._now())
        rows = await self._read(sql, history_num, history_num)
        if not rows:
            found = await self._tasks(f"{_HISTORY_TASK} WHERE history_num = %s", history_num)
            return (found[0], None) if found else None
        num, timeout, created_at, now, *values = rows[0]
        figures = Figures(*values[: len(Figures._fields)])
        standing = Standing(history_num, *values[len(Figures._fields) :])
        state, started_at = State.QUEUED, None
        if history_num == figures.head:
            state, started_at = State.WAITING, figures.head_started_at
        task = Task(history_num, num, timeout, created_at, state, started_at)
        return task, place(figures, now, standing)

    async def queue_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the queue."""
        return await self._tasks(
            f"{_QUEUE_TASK} WHERE history_num > %s ORDER BY history_num LIMIT %s", after, limit
        )

    async def results_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the done tasks: they finish in the order of the history number."""
        return await self._tasks(
            f"{_HISTORY_TASK} WHERE history_num > %s AND outcome = 'done'"
            " ORDER BY history_num LIMIT %s",
            after,
            limit,
        )

    async def added(self, after: int, until: int) -> list[Task]:
        """Return tasks by history number from both tables."""
        return await self._tasks(
            f"SELECT * FROM ({_HISTORY_TASK} WHERE history_num > %s AND history_num <= %s) AS done"
            f" UNION ALL SELECT * FROM ({_QUEUE_TASK} WHERE history_num > %s"
            "  AND history_num <= %s) AS queued ORDER BY history_num",
            after,
            until,
            after,
            until,
        )

    async def finished(self, after: int, until: int) -> list[Task]:
        """Return tasks by finish number."""
        return await self._tasks(
            f"{_HISTORY_TASK} WHERE finish_num > %s AND finish_num <= %s ORDER BY finish_num",
            after,
            until,
        )

    async def queue_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the queue."""
        first = f"(SELECT first_history_num FROM state WHERE {NEWEST})"
        return await self._slice(_QUEUE_ITEM, f"queue WHERE history_num >= {first}", after, until)

    async def results_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the result list."""
        return await self._slice("num::text", "history WHERE outcome = 'done'", after, until)

    async def _slice(self, item: str, table: str, after: int, until: int) -> Slice:
        ((text, rows, last),) = await self._read(
            f"SELECT string_agg(item, ',' ORDER BY history_num), count(*), max(history_num) FROM"
            f" (SELECT {item} AS item, history_num FROM {table}"
            "  AND history_num > %s AND history_num <= %s ORDER BY history_num LIMIT %s) AS part",
            after,
            until,
            SLICE_ROWS,
            link=self._list_reader,
        )
        return Slice(text or "", last if rows == SLICE_ROWS else None)

    async def _tasks(self, sql: str, *values: object) -> list[Task]:
        try:
            return tasks(await self._read(sql, *values))
        except StoreFailed as found:
            raise self._failed(found) from found.__cause__

    async def _read(self, sql: str, *values: object, link: Link | None = None) -> list[Any]:
        def read(connection: Connection) -> list[Any]:
            return fetch(connection, sql, *values)

        link = link or self._reader
        stale = link.connected
        end = time.monotonic() + READ_SECONDS
        try:
            try:
                return await link.run(read, READ_SECONDS)
            except Lost:
                if not stale or time.monotonic() >= end:
                    raise
                # The connection was lost while nobody used it.
                return await link.run(read, end - time.monotonic())
        except (Lost, StoreBusy, StartError):
            raise StoreUnavailable from None
        except StoreFailed as found:
            raise self._failed(found) from found.__cause__

    def _failed(self, found: StoreFailed) -> StoreFailed:
        self.on_failure(found)
        return found


def _nobody(_: StoreFailed) -> None:
    """Before somebody asks to be told, whoever opens the store meets the failure."""
