"""Follows what others have committed to the same queue: see ``Store.changes``."""

from __future__ import annotations

import asyncio
from itertools import groupby

from sanic_app.clock import Clock
from sanic_app.errors import StoreFailed
from sanic_app.queue.head import HeadTimer
from sanic_app.queue.writer import Committed, Writer
from sanic_app.store import Cancelled, Change, Commit, Done, Result, Store
from sanic_app.task import State


class Follower:
    """Tells the listeners of commits what other nodes have committed, in the same way."""

    def __init__(self, store: Store, clock: Clock, timer: HeadTimer, writer: Writer) -> None:
        """Take the store, not open yet, and who tells the listeners."""
        self._store = store
        self._clock = clock
        self._timer = timer
        self._writer = writer
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; may be called twice."""
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="follower")

    async def stop(self) -> None:
        """End; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _loop(self) -> None:
        try:
            async for change in self._store.changes():
                self._writer.learn(self._committed(change))
        except StoreFailed as failure:
            self._writer.fail(failure)
        except Exception as error:
            self._writer.fail(StoreFailed("other", repr(error)))
            raise

    def _committed(self, change: Change) -> Committed:
        """Return what others did as if it were one commit, which has just ended."""
        overview = change.overview
        results: list[Result] = [
            Done(list(tasks)) if state is State.DONE else Cancelled(list(tasks))
            for state, tasks in groupby(change.finished, lambda task: task.state)
        ]
        head = self._timer.head
        started = overview.head
        if head is not None and started is not None and head.task == started:
            started = None
        now = self._clock.monotonic()
        commit = Commit(results, overview.figures, started)
        return Committed(
            commit, now, now, foreign=True, missing=change.missing, finish_num=change.finish_num
        )
