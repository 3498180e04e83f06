"""What is read of a queue on PostgreSQL, always on the server that is written to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from sanic_app.clock import Clock
from sanic_app.errors import DiskFull, StartError, StoreBusy, StoreFailed, StoreUnavailable
from sanic_app.store import Figures, Overview, Place
from sanic_app.store.isolation import WriteFailed
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.foreseen import NEWEST
from sanic_app.store.postgres.link import Link, fetch
from sanic_app.store.postgres.opening import LINEAGE, SCHEMA_NUMBER
from sanic_app.store.postgres.servers import Connection
from sanic_app.store.reads import STATE_FIGURES, Reads, head_of, place_query, placed
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Limits
from sanic_app.task import Task

READ_SECONDS = 2.0
"""After so long without an answer a read is given up."""

log = logging.getLogger(__name__)

_QUEUE_ITEM = """
    '{"history_num":' || history_num || ',"date_created":"'
    || to_char(to_timestamp(created_at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    || '.' || lpad((created_at %% 1000000)::text, 6, '0') || 'Z","num":' || num || ',"timeout":'
    || trim_scale(timeout / 1000000.0) || '}'
"""
_QUEUE = f"""
    (SELECT * FROM state WHERE {NEWEST}) AS state JOIN queue ON history_num >= first_history_num
"""
_FIRST = f"""
    (SELECT queue.history_num FROM queue
     WHERE queue.history_num >= (SELECT first_history_num FROM state WHERE {NEWEST})
     ORDER BY queue.history_num LIMIT 1)
"""
_PLACE = place_query(_FIRST, NEWEST, "{now}, state.last_stamp,")
OVERVIEW = f"""
    SELECT commit_num, {LINEAGE}, {SCHEMA_NUMBER}, compatible_from, {{now}}, {STATE_FIGURES},
           num, timeout, created_at
    FROM meta, state LEFT JOIN queue ON history_num = head WHERE {NEWEST}
"""


def overview(row: Sequence[Any], shown: int, stamps: Stamps, asked: int) -> Overview:
    """Return the state row with the head's row behind it; ``shown`` is the server's clock.

    Raises:
        StoreFailed: the head has no row.
    """
    size = len(Figures._fields)
    figures = Figures(*row[:size])
    if figures.head is not None and row[size] is None:
        raise StoreFailed("corrupt", "the head is not in the queue")
    now = figures.stamp(stamps.follow_server(shown, figures.last_stamp, asked))
    return Overview(figures, head_of(figures, row[size:]), now)


class PostgresReads(Reads):
    """The reads of the store's protocol."""

    queue = _QUEUE
    queue_item = _QUEUE_ITEM
    queue_items = f"queue WHERE history_num >= (SELECT first_history_num FROM state WHERE {NEWEST})"
    joined = "string_agg(item, ',' ORDER BY history_num)"

    def __init__(
        self, reader: Link, list_reader: Link, clock: Clock, limits: Limits, now: Callable[[], str]
    ) -> None:
        """Take the connections, the local clock, and what the server calls its time."""
        super().__init__(clock, limits)
        self._reader = reader
        self._list_reader = list_reader
        # Those whose last read got no answer.
        self._unanswered: set[Link] = set()
        self._now = now

    async def overview(self) -> Overview:
        """Return the state row and the head."""
        asked = self._stamps.asking()
        rows = await self._read(OVERVIEW.format(now=self._now()))
        if not rows:
            raise self._failed(StoreFailed("corrupt", "the state row is missing"))
        _, _, _, _, shown, *values = rows[0]
        return self._made(overview, values, shown, self._stamps, asked)

    async def task(self, history_num: int) -> tuple[Task, Place | None] | None:
        """Look into the queue, then into the history: a task moves from the first to the second."""
        sql = _PLACE.format(now=self._now())
        asked = self._stamps.asking()
        for shown, last_stamp, *row in await self._read(sql, history_num, history_num):
            now = self._stamps.follow_server(shown, last_stamp, asked)
            return self._made(placed, history_num, row, now)
        return await self._in_history(history_num)

    async def _read(self, sql: str, *values: object) -> list[Any]:
        return await self._read_by(self._reader, sql, *values)

    async def _read_list(self, sql: str, *values: object) -> list[Any]:
        return await self._read_by(self._list_reader, sql, *values)

    async def _read_by(self, link: Link, sql: str, *values: object) -> list[Any]:
        def read(connection: Connection) -> list[Any]:
            return fetch(connection, sql.replace("?", "%s"), *values)

        try:
            found = await _run(link, read)
        except (Lost, DiskFull, StoreBusy, StartError) as error:
            # Commits may have an answer all the same, where connections are limited.
            if link not in self._unanswered:
                log.warning("reads get no answer: %s", error)
            self._unanswered.add(link)
            raise StoreUnavailable from error
        except WriteFailed as error:
            # It computes with what it reads: nothing that a client sends could do this.
            raise self._failed(StoreFailed("corrupt", str(error))) from error.__cause__
        except StoreFailed as failed:
            raise self._failed(failed) from failed.__cause__
        self._unanswered.discard(link)
        return found


async def _run(link: Link, read: Callable[[Connection], list[Any]]) -> list[Any]:
    end = time.monotonic() + READ_SECONDS
    # The connection may have been lost while nobody used it.
    again = link.connected
    while True:
        try:
            return await link.run(read, end - time.monotonic())
        except Lost:
            # One that has just been made is still to be used.
            if not (again or link.connected) or time.monotonic() >= end:
                raise
            again = False
