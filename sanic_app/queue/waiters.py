"""Who waits for which task to be finished."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from sanic_app.queue.writer import Committed
from sanic_app.store import Cancelled, Done


class Waiters:
    """Events by history number, set when a commit finishes the task."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._events: dict[int, set[asyncio.Event]] = {}

    @contextmanager
    def waiting_for(self, history_num: int) -> Iterator[asyncio.Event]:
        """Return an event that is set when the task is finished, or all are woken.

        Enter before looking at the task, so that no finish falls between the look and the wait.
        """
        finished = asyncio.Event()
        events = self._events.setdefault(history_num, set())
        events.add(finished)
        try:
            yield finished
        finally:
            events.discard(finished)
            if not events and self._events.get(history_num) is events:
                del self._events[history_num]

    def follow(self, committed: Committed) -> None:
        """Wake those whose task a commit finished."""
        if not self._events:
            return
        for result in committed.commit.results:
            if isinstance(result, Done | Cancelled):
                for task in result.tasks:
                    for finished in self._events.pop(task.history_num, ()):
                        finished.set()

    def wake_all(self) -> None:
        """Wake everybody, to look again: the service stops, the store failed, or it cannot tell."""
        for events in self._events.values():
            for finished in events:
                finished.set()
