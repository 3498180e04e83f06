"""Reads that are the same on every engine: one statement each, and so one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from sanic_app.clock import Clock
from sanic_app.errors import StoreFailed
from sanic_app.store import WAIT_SUM_MODULUS, Add, Added, Figures, Overview, Place, Slice
from sanic_app.store.keys import FIND_KEY, KeyRow, replay
from sanic_app.store.skipped import LEVELS
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Limits
from sanic_app.task import SECOND, STAMP_MAX, State, Task

P = ParamSpec("P")
T = TypeVar("T")

SLICE_ROWS = 250
"""Rows in one slice of a whole list: a quarter of a millisecond of a reader's time on SQLite.

Longer slices make a list come faster and all other answers later: with 5,000 rows adds took up to
4 times as long at their 99th percentile while a list was sent, with 250 rows twice as long.
"""

HISTORY_TASK = """
    SELECT history_num, num, timeout, created_at, outcome, started_at, finished_at FROM history
"""
QUEUE_TASK = """
    SELECT history_num, num, timeout, queue.created_at,
           CASE WHEN history_num = head THEN 'waiting' ELSE 'queued' END,
           CASE WHEN history_num = head THEN head_started_at END, CAST(NULL AS bigint) FROM
"""
STATE_FIGURES = ", ".join(f"state.{name}" for name in Figures._fields)
_STATES = {str(state): state for state in State}
_FINISHED = (State.DONE, State.CANCELLED)
_UNFINISHED = (State.QUEUED, State.WAITING)
_LEVELS = ", ".join(str(tuple(level)) for level in LEVELS)


def place_query(first: str, newest: str = "true", also: str = "") -> str:
    """Return the query of a task's place, see ``placed``; its two values are the history number.

    ``first`` reads the number of the first of the queue, ``newest`` chooses the state row, and the
    columns ``also`` come before the others.
    """
    # The skipped tasks before this task, less those before the first of the queue.
    return f"""
        WITH level (level, width, span) AS (VALUES {_LEVELS}),
             edge (history_num, sign) AS (VALUES (CAST(? AS bigint), 1), ({first}, -1))
        SELECT {also} mine.num, mine.timeout, mine.created_at, {STATE_FIGURES},
               first.history_num, first.timeout, mine.wait_sum - first.wait_sum,
               before.tasks, before.seconds, before.micros
        FROM state, queue AS mine, queue AS first, (
            SELECT CAST(coalesce(sum(sign * tasks), 0) AS bigint) AS tasks,
                   CAST(coalesce(sum(sign * seconds), 0) AS bigint) AS seconds,
                   CAST(coalesce(sum(sign * micros), 0) AS bigint) AS micros
            FROM edge CROSS JOIN level CROSS JOIN skipped
            WHERE skipped.level = level.level
            AND block >= edge.history_num / span * span / width AND block < edge.history_num / width
        ) AS before
        WHERE {newest} AND mine.history_num = ? AND first.history_num = {first}
    """


class Reads:
    """Reads by SQL that all engines understand, in which ``?`` stands for a value.

    An engine brings the statements that differ, and the methods that run a statement.
    """

    opened_full = False
    queue: str
    """The queue joined with the state row, as a FROM without a WHERE has it."""
    queue_item: str
    """An item of the queue's list as JSON text, as http/schemas.py has it."""
    queue_items: str
    """Where the items are read, up to a condition of the WHERE."""
    result_item = "CAST(num AS text)"
    """An item of the result list likewise. Of a row that is damaged, an item is NULL."""
    joined: str
    """The items of some rows as one text: comma-separated, in the order of ``history_num``."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        """Take the clock that stamps are taken from; nobody is told of anything yet."""
        self._limits = limits
        self.on_failure: Callable[[StoreFailed], None] = _nobody
        self.notice: Callable[[str], None] = _nobody
        self._stamps = Stamps(clock)

    def wall(self) -> int:
        """Return the clock that stamps are taken from, without asking the store."""
        return self._stamps.wall()

    def ahead(self, stamp: int) -> int:
        """Return by how many microseconds the store's own time is ahead of its clock."""
        return self._stamps.ahead(stamp)

    @property
    def prunes(self) -> bool:
        """Whether there is a retention."""
        return self._limits.retention is not None

    async def figures(self) -> Figures:
        """Return the state row."""
        return (await self.overview()).figures

    async def overview(self) -> Overview:
        """Return the state row and the head."""
        raise NotImplementedError

    async def _read(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def _read_list(self, sql: str, *values: object) -> list[Any]:
        """Read for a whole list: nobody else waits behind it."""
        raise NotImplementedError

    async def replay(self, add: Add) -> Added | None:
        """Look the key up without writing."""
        found = await self._read(FIND_KEY, add.key)
        now = (await self.overview()).now
        row = KeyRow(*found[0]) if found else None
        return replay(row, add, now, self._limits.idempotency_keep)

    async def queue_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the queue."""
        sql = f"{QUEUE_TASK} {self.queue} WHERE history_num > ? ORDER BY history_num LIMIT ?"
        return await self._tasks(sql, after, limit)

    async def results_page(self, after: int, limit: int) -> list[Task]:
        """Return a page of the done tasks: they finish in the order of the history number."""
        condition = "history_num > ? AND outcome = 'done' ORDER BY history_num LIMIT ?"
        return await self._tasks(f"{HISTORY_TASK} WHERE {condition}", after, limit)

    async def added(self, after: int, until: int) -> list[Task]:
        """Return tasks by history number from both tables."""
        within = "history_num > ? AND history_num <= ?"
        sql = f"""
            SELECT * FROM ({HISTORY_TASK} WHERE {within}) AS gone UNION ALL
            SELECT * FROM ({QUEUE_TASK} {self.queue} WHERE {within}) AS queued ORDER BY history_num
        """
        return await self._tasks(sql, after, until, after, until)

    async def finished(self, after: int, until: int) -> list[Task]:
        """Return tasks by finish number."""
        sql = f"{HISTORY_TASK} WHERE finish_num > ? AND finish_num <= ? ORDER BY finish_num"
        return await self._tasks(sql, after, until)

    async def queue_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the queue."""
        return await self._slice(self.queue_item, self.queue_items, after, until)

    async def results_slice(self, after: int, until: int) -> Slice:
        """Return a slice of the result list."""
        table = "history WHERE outcome = 'done'"
        return await self._slice(self.result_item, table, after, until)

    async def _slice(self, item: str, table: str, after: int, until: int) -> Slice:
        sql = f"""
            SELECT {self.joined}, count(*), count(item), max(history_num) FROM (
                SELECT {item} AS item, history_num FROM {table}
                AND history_num > ? AND history_num <= ? ORDER BY history_num LIMIT ?
            ) AS part
        """
        ((text, rows, items, last),) = await self._read_list(sql, after, until, SLICE_ROWS)
        if items != rows:
            raise self._failed(StoreFailed("corrupt", "a task of a list cannot be read"))
        return Slice(text or "", last if rows == SLICE_ROWS else None)

    async def _in_history(self, history_num: int) -> tuple[Task, None] | None:
        found = await self._tasks(f"{HISTORY_TASK} WHERE history_num = ?", history_num)
        return (found[0], None) if found else None

    async def _tasks(self, sql: str, *values: object) -> list[Task]:
        return self._made(tasks, await self._read(sql, *values))

    def _made(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what is made of rows that were read."""
        try:
            return make(*args, **kwargs)
        except StoreFailed as found:
            raise self._failed(found) from found.__cause__

    def _failed(self, found: StoreFailed) -> StoreFailed:
        """Tell who ends the process: what a reader cannot read, the next commit may rest on."""
        self.on_failure(found)
        return found


def tasks(rows: Sequence[Any]) -> list[Task]:
    """Return rows of either table as tasks.

    Raises:
        StoreFailed: one of them cannot be a task.
    """
    return [_task(row) for row in rows]


def _task(row: Sequence[Any]) -> Task:
    """Return a task; of a damaged page, SQLite returns any types and values."""
    history_num, num, timeout, created_at, state, started_at, finished_at = row
    if (
        type(num) is not int
        or type(timeout) is not int
        or timeout < 0
        or not _is_stamp(created_at)
        or not (started_at is None or _is_stamp(started_at))
        or not (finished_at is None or _is_stamp(finished_at))
        or state not in (_UNFINISHED if finished_at is None else _FINISHED)
    ):
        raise StoreFailed("corrupt", f"the task {history_num} cannot be read")
    return Task(history_num, num, timeout, created_at, _STATES[state], started_at, finished_at)


def _is_stamp(value: object) -> bool:
    return type(value) is int and 0 <= value <= STAMP_MAX


def head_of(figures: Figures, row: Sequence[Any]) -> Task | None:
    """Return the head; of its row in the queue: num, timeout and created_at.

    Raises:
        StoreFailed: it cannot be a task.
    """
    if figures.head is None:
        return None
    return _task((figures.head, *row, State.WAITING, figures.head_started_at, None))


def placed(history_num: int, row: Sequence[Any], wall: int) -> tuple[Task, Place]:
    """Return a task of the queue with its place; ``wall`` is the clock that stamps are taken from.

    The row is one of ``place_query``. The running sums count the skipped tasks between the first
    task and this one too (see ``skipped.py``).

    Raises:
        StoreFailed: they cannot be a task and its place.
    """
    num, timeout, created_at, *values = row
    size = len(Figures._fields)
    figures = Figures(*values[:size])
    first, first_timeout, waits, skipped, skipped_seconds, skipped_micros = values[size:]
    skipped_waits = skipped_seconds * SECOND + skipped_micros
    state, started_at = State.QUEUED, None
    if history_num == figures.head:
        state, started_at = State.WAITING, figures.head_started_at
    task = _task((history_num, num, timeout, created_at, state, started_at, None))
    if {*map(type, (first_timeout, waits))} != {int}:
        raise StoreFailed("corrupt", f"the place of the task {history_num} cannot be read")
    place = Place(
        figures,
        figures.stamp(wall),
        position=history_num - first - skipped,
        wait=(waits - skipped_waits) % WAIT_SUM_MODULUS + first_timeout,
        first_timeout=first_timeout,
    )
    return task, place


def _nobody(_: object) -> None:
    """Before somebody asks to be told, whoever opens the store meets a failure."""
