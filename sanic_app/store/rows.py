"""The tables in one open transaction, as far as all engines have the same SQL for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from sanic_app.store.keys import FIND_KEY, KeyRow
from sanic_app.store.skipped import Block
from sanic_app.store.transition import NewRow, QueuedRow, history_rows
from sanic_app.task import Task

QUEUED = "SELECT history_num, num, timeout, created_at FROM queue"

_ADD_TO_BLOCK = " ON CONFLICT (level, block) DO UPDATE SET " + ", ".join(
    f"{each} = skipped.{each} + excluded.{each}" for each in Block._fields[2:]
)
_PUT_KEY = f"""
    INSERT INTO idempotency (key, {", ".join(KeyRow._fields)})
    VALUES (?{", ?" * len(KeyRow._fields)}) ON CONFLICT (key) DO UPDATE SET
    ({", ".join(KeyRow._fields)}) = (excluded.{", excluded.".join(KeyRow._fields)})
"""


class SqlRows:
    """Part of ``Rows`` in ``transition.py``, by statements in which ``?`` stands for a value.

    An engine brings the rest, and the methods that run a statement.
    """

    def _read(self, sql: str, *values: object) -> list[Any]:
        """Return the rows of a statement."""
        raise NotImplementedError

    def _write(self, sql: str, *values: object) -> None:
        raise NotImplementedError

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], conflict: str = "") -> None:
        """Insert rows of all columns; ``conflict`` says what becomes of those that are there."""
        raise NotImplementedError

    def _delete(self, table: str, column: str, first: int, last: int, count: int) -> None:
        """Delete the rows between two values.

        Raises:
            StoreFailed: they are not so many; an engine may find out when it commits.
        """
        raise NotImplementedError

    # The queue.

    def queue(self, rows: Sequence[NewRow]) -> None:
        """Insert into the queue."""
        self._insert("queue", rows)

    def queued(self, first: int, limit: int) -> list[QueuedRow]:
        """Read the queue from a number on."""
        sql = f"{QUEUED} WHERE history_num >= ? ORDER BY history_num LIMIT ?"
        return self._read(sql, first, limit)

    def last_queued(self, first: int, last: int, limit: int) -> list[QueuedRow]:
        """Read the end of a range of the queue."""
        sql = f"{QUEUED} WHERE history_num BETWEEN ? AND ? ORDER BY history_num DESC LIMIT ?"
        return self._read(sql, first, last, limit)[::-1]

    def remove(self, first: int, last: int, count: int) -> None:
        """Delete from the queue."""
        self._delete("queue", "history_num", first, last, count)

    def skip(self, blocks: Sequence[Block]) -> None:
        """Add to the skipped."""
        self._insert("skipped", blocks, _ADD_TO_BLOCK)

    def forget_skipped(self, passed: Sequence[tuple[int, int]], limit: int) -> None:
        """Delete from the skipped."""
        sql = f"""
            WITH passed (level, ending) AS (VALUES {", ".join(["(?, ?)"] * len(passed))})
            DELETE FROM skipped WHERE (level, block) IN (
                SELECT skipped.level, block FROM passed CROSS JOIN skipped
                WHERE skipped.level = passed.level AND block < ending LIMIT ?
            )
        """
        self._write(sql, *chain.from_iterable(passed), limit)

    # The history.

    def append(self, tasks: Sequence[Task], finish_num: int) -> None:
        """Insert into the history."""
        self._insert("history", history_rows(tasks, finish_num))

    def in_history(self, history_num: int) -> bool:
        """Look into the history."""
        return bool(self._read("SELECT true FROM history WHERE history_num = ?", history_num))

    def next_finished_at(self, finish_num: int) -> int | None:
        """Read the next finish of the history."""
        sql = "SELECT finished_at FROM history WHERE finish_num > ? ORDER BY finish_num LIMIT 1"
        found = self._read(sql, finish_num)
        return found[0][0] if found else None

    def count_finished(self, finish_num: int, until: int, limit: int) -> int:
        """Count the next finishes of the history."""
        sql = """
            SELECT count(*) FROM (
                SELECT finished_at FROM history WHERE finish_num > ? ORDER BY finish_num LIMIT ?
            ) AS next WHERE finished_at <= ?
        """
        ((count,),) = self._read(sql, finish_num, limit, until)
        return int(count)

    def prune(self, first: int, last: int, count: int) -> None:
        """Delete from the history."""
        self._delete("history", "finish_num", first, last, count)

    # The keys.

    def find_key(self, key: str) -> KeyRow | None:
        """Read a key."""
        found = self._read(FIND_KEY, key)
        return KeyRow(*found[0]) if found else None

    def put_key(self, key: str, row: KeyRow) -> None:
        """Insert a key, or write over an expired one."""
        self._write(_PUT_KEY, key, *row)

    def end_keys(self, first: int, last: int, stamp: int) -> None:
        """Update the keys of removed tasks. Keys do not overlap: at most one reaches beyond."""
        sql = """
            UPDATE idempotency SET finished_at = ?
            WHERE last BETWEEN ? AND coalesce(
                (SELECT min(last) FROM idempotency WHERE last > ?), 9223372036854775807
            )
            AND finished_at IS NULL
            AND NOT EXISTS (SELECT true FROM queue WHERE history_num BETWEEN first AND last)
        """
        self._write(sql, stamp, first, last)
