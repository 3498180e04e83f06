"""What is read of a SQLite store. Each method is one statement, and so one snapshot."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from sanic_app.clock import Clock
from sanic_app.errors import StoreFailed
from sanic_app.store import Figures, Overview, Place
from sanic_app.store.reads import STATE_FIGURES, Reads, head_of, place_query, placed
from sanic_app.store.sqlite.connections import Connection, Connections
from sanic_app.store.sqlite.failures import failure
from sanic_app.store.transition import Limits
from sanic_app.task import STAMP_MAX, Task

# SQLite makes the JSON outside the interpreter's lock.
_QUEUE_ITEM = f"""
    CASE WHEN typeof(num) = 'integer' AND typeof(timeout) = 'integer' AND timeout >= 0
    AND typeof(created_at) = 'integer' AND created_at BETWEEN 0 AND {STAMP_MAX} THEN json_object(
        'history_num', history_num,
        'date_created', strftime('%Y-%m-%dT%H:%M:%S', created_at / 1000000, 'unixepoch')
                        || printf('.%06dZ', created_at % 1000000),
        'num', num,
        'timeout', iif(timeout % 1000000 = 0, timeout / 1000000, timeout / 1000000.0)
    ) END
"""
_OVERVIEW = f"""
    SELECT {STATE_FIGURES}, num, timeout, created_at FROM state
    LEFT JOIN queue ON history_num = head
"""
LINEAGE = re.compile("[0-9a-f]{32}")
"""A UUID without its dashes."""
_PLACE = place_query("(SELECT min(history_num) FROM queue)")


class SqliteReads(Reads):
    """The reads of the store's protocol."""

    queue = "queue, state"
    queue_item = _QUEUE_ITEM
    queue_items = "queue WHERE true"
    result_item = "CASE typeof(num) WHEN 'integer' THEN CAST(num AS text) END"
    joined = "group_concat(item)"

    def __init__(self, connections: Connections, clock: Clock, limits: Limits) -> None:
        """Take the connections, not open yet, and the clock that stamps are taken from."""
        super().__init__(clock, limits)
        self._connections = connections

    async def overview(self) -> Overview:
        """Return the state row and the head."""
        for *state, num, timeout, created_at in await self._read(_OVERVIEW):
            figures = Figures(*state)
            head = self._made(head_of, figures, (num, timeout, created_at))
            return Overview(figures, head, figures.stamp(self.wall()))
        raise self._failed(StoreFailed("corrupt", "the state row is missing"))

    async def task(self, history_num: int) -> tuple[Task, Place | None] | None:
        """Look into the queue, then into the history: a task moves from the first to the second."""
        for row in await self._read(_PLACE, history_num, history_num):
            return self._made(placed, history_num, row, self.wall())
        return await self._in_history(history_num)

    async def read_lineage(self) -> str:
        """Return which queue this is."""
        for (uuid,) in await self._read("SELECT uuid FROM lineage"):
            if isinstance(uuid, str) and LINEAGE.fullmatch(uuid):
                return uuid
        raise self._failed(StoreFailed("corrupt", "the lineage is missing or damaged"))

    async def _read(self, sql: str, *values: object) -> list[Any]:
        return await self._read_by(self._connections.reader, sql, values)

    async def _read_list(self, sql: str, *values: object) -> list[Any]:
        return await self._read_by(self._connections.list_reader, sql, values)

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
