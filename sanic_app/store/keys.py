"""Idempotency keys: what an add with a key was answered, and for how long that is known."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sanic_app.errors import KeyReused
from sanic_app.store import Add, Added

SWEEP = 10
"""How many expired keys are removed by each commit that writes a key."""


class KeyRow(NamedTuple):
    """What is kept of an add with a key."""

    request: str
    first: int
    last: int
    created_at: int
    started: int
    """1 when the add's own commit started its first task, else 0."""
    finished_at: int | None
    """When its last unfinished task ended."""


FIND_KEY = f"SELECT {', '.join(KeyRow._fields)} FROM idempotency WHERE key = ?"


class KeyRows(Protocol):
    """The table of keys in one open transaction."""

    def find_key(self, key: str) -> KeyRow | None:
        """Return what is kept under the key."""

    def put_key(self, key: str, row: KeyRow) -> None:
        """Keep this under the key, instead of what was kept."""

    def end_keys(self, first: int, last: int, stamp: int) -> None:
        """Start the lifetime of keys whose last unfinished task was just removed.

        It was among those with history numbers from ``first`` to ``last``.
        """

    def sweep_keys(self, until: int, limit: int) -> None:
        """Remove keys that ended up to this stamp, the oldest first."""


def replay(row: KeyRow | None, add: Add, now: int, keep: int) -> Added | None:
    """Return what the first add with a key did, by what is kept of it; None when it has expired.

    ``keep`` is the lifetime of a key in microseconds.

    Raises:
        KeyReused: the first add with this key was another request.
    """
    if row is None or (row.finished_at is not None and row.finished_at + keep <= now):
        return None
    if row.request != add.request:
        raise KeyReused
    return Added(row.first, row.last, row.created_at, bool(row.started), replayed=True)


class Keys:
    """The keys in one open transaction."""

    def __init__(self, rows: KeyRows, keep: int) -> None:
        """Take the table and the lifetime of a key, in microseconds."""
        self._rows = rows
        self._keep = keep

    def find(self, add: Add, now: int) -> Added | None:
        """Return what the first add with this key did, None when there was none.

        Raises:
            KeyReused: the first add with this key was another request.
        """
        return replay(self._rows.find_key(add.key or ""), add, now, self._keep)

    def remember(self, add: Add, added: Added, now: int) -> None:
        """Keep what the add did, and remove some keys that have expired."""
        first, last, created_at, started, _ = added
        row = KeyRow(add.request, first, last, created_at, int(started), None)
        self._rows.put_key(add.key or "", row)
        self._rows.sweep_keys(now - self._keep, SWEEP)
