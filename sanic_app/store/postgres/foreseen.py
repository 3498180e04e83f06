"""What the writes of a commit are going to read, read together with the state row.

It is kept as the commit's own writes leave it, so that a commit needs no third message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sanic_app.store import Add, Cancel, Figures, Finish, Write
from sanic_app.store.keys import KeyRow
from sanic_app.store.rows import QUEUED
from sanic_app.store.transition import Limits, NewRow, QueuedRow

NEWEST = "commit_num = (SELECT commit_num FROM state ORDER BY commit_num DESC LIMIT 1)"
"""Not ``max``: where statistics say that there is one row, its plan reads all dead ones too."""
FRONT = 2
"""Tasks that are read with the lock: the head, and the one that starts next."""

KEY = f"SELECT key, {', '.join(KeyRow._fields)} FROM idempotency"


class Foreseen:
    """The first rows of the queue, single rows, and keys."""

    def __init__(self, writes: Sequence[Write], limits: Limits) -> None:
        """Find out what the writes need."""
        cancelled = {write.history_num for write in writes if isinstance(write, Cancel)}
        keys = {write.key for write in writes if isinstance(write, Add)} - {None}
        self._fronts = FRONT if any(isinstance(write, Cancel | Finish) for write in writes) else 0
        self.rows: dict[int, QueuedRow | None] = dict.fromkeys(sorted(cancelled))
        """Tasks of the queue by history number; None: it has no such task."""
        self.in_history = dict.fromkeys(self.rows, False)
        """Whether the history has a task."""
        # With a lifetime of 0 a key may end in the commit that looks it up.
        self.keys: dict[str, KeyRow | None] = dict.fromkeys(
            sorted(map(str, keys)) if limits.idempotency_keep else ()
        )
        """Keys with what the first adds with them did; None: there was none."""
        self.first = 0
        """No task of the queue has a history number below this one."""
        # The first tasks of the queue, in order, and whether there are no others.
        self._front: list[QueuedRow] = []
        self._front_is_all = False

    def statements(self, text: Callable[[str], str]) -> Mapping[str, str]:
        """Return a statement for each kind of what is needed; ``text`` writes a string in SQL."""
        found = {}
        if self._fronts:
            first = f"(SELECT first_history_num FROM state WHERE {NEWEST})"
            found["front"] = (
                f"{QUEUED} WHERE history_num >= {first} ORDER BY history_num LIMIT {self._fronts}"
            )
        if self.rows:
            chosen = f"history_num = ANY('{{{','.join(map(str, self.rows))}}}'::bigint[])"
            found["rows"] = f"{QUEUED} WHERE {chosen}"
            found["history"] = f"SELECT history_num FROM history WHERE {chosen}"
        if self.keys:
            texts = ", ".join(map(text, self.keys))
            found["keys"] = f"{KEY} WHERE key = ANY(ARRAY[{texts}]::text[])"
        return found

    def take(self, found: Mapping[str, list[Any]], first: int, figures: Figures) -> None:
        """Take what the statements returned, and what the state row says."""
        self.first = first
        self._front = found.get("front", [])
        self._front_is_all = len(self._front) < self._fronts or figures.depth == 0
        self.rows.update((row[0], row) for row in found.get("rows", ()))
        self.in_history.update((number, True) for (number,) in found.get("history", ()))
        self.keys.update((key, KeyRow(*row)) for key, *row in found.get("keys", ()))

    def front(self, first: int, limit: int) -> list[QueuedRow] | None:
        """Return the first tasks of the queue from a history number on; None: not foreseen."""
        known = [row for row in self._front if row[0] >= first][:limit]
        return known if len(known) == limit or self._front_is_all else None

    def read_front(self, rows: list[QueuedRow], limit: int) -> None:
        """Take the first tasks of the queue, as they were read later."""
        self._front, self._front_is_all = rows, len(rows) < limit
        self._step()

    def queue(self, rows: Sequence[NewRow]) -> None:
        """Note new tasks."""
        if self.rows:
            self.rows.update((row[0], row[:4]) for row in rows)
        if self._front_is_all:
            self._front += [row[:4] for row in rows]

    def remove(self, first: int, last: int) -> None:
        """Note that tasks have left the queue."""
        self._front = [row for row in self._front if not first <= row[0] <= last]
        self.rows.update((number, None) for number in self.rows if first <= number <= last)
        if first <= self.first <= last:
            self.first = last + 1
        self._step()

    def append(self, history_nums: Iterable[int]) -> None:
        """Note that the history has these tasks."""
        self.in_history.update((number, True) for number in history_nums)

    def _step(self) -> None:
        if self._front:
            self.first = max(self.first, self._front[0][0])
