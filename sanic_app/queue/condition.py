"""What keeps a queue from its work: told without asking the store."""

from __future__ import annotations

from sanic_app.queue.writer import Writer
from sanic_app.store import Store

UNKNOWN = "it is not known yet whether a commit was applied"
"""Of a commit on PostgreSQL whose answer is missing."""


class Condition:
    """How a queue and its store are, as far as this process knows."""

    def __init__(self, store: Store, writer: Writer, queue_max: int) -> None:
        """Take the store, who writes to it, and how many tasks fit."""
        self._store = store
        self._writer = writer
        self._queue_max = queue_max

    @property
    def problem(self) -> str | None:
        """Why no commit is to be expected now, in a few words; None: one is."""
        if not self._store.up:
            return "the store is unavailable"
        if self._store.unknown:
            return UNKNOWN
        if self._writer.tries.stuck:
            # Another program holds the database's lock, or the disk does not answer.
            return "no commit has returned for 10 s"
        return None

    @property
    def reason(self) -> str:
        """What keeps it from adding or starting tasks, in a few words, or ``ok``."""
        if self._writer.disk_full:
            return "the disk is full"
        figures = self._writer.figures
        if figures.depth >= self._queue_max or not self.has_room(1):
            return "the queue is full"
        return "paused" if figures.paused else "ok"

    def has_room(self, tasks: int) -> bool:
        """Return whether so many tasks fit beside those that wait for a commit."""
        # Where others commit too, the figures are old. Only the commit can tell.
        depth = 0 if self._store.shared else self._writer.figures.depth
        return depth + self._writer.uncommitted + tasks <= self._queue_max
