"""The messages of one round: what commits did, for those who follow live."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sanic_app.http.journal import (
    TASKS_MAX,
    Cursor,
    Journal,
    Lost,
    Source,
    message,
    reset,
    summary,
    tasks_data,
)
from sanic_app.http.untold import Untold
from sanic_app.store import Figures
from sanic_app.task import Task


class News:
    """Adds and finishes from the tables; starts and pauses from the figures."""

    def __init__(self, source: Source, figures: Figures) -> None:
        """Begin with the head and the pause of these figures as told."""
        self._source = source
        self._journal = Journal(source)
        self._head = (figures.head, figures.head_started_at)
        self._paused = figures.paused

    async def since(
        self, cursor: Cursor, figures: Figures, untold: Untold
    ) -> AsyncGenerator[tuple[bytes, Cursor], None]:
        """Return the messages of one round, each with the cursor after it."""
        start = untold.start
        added, finished = figures.last_history_num, figures.last_finish_num
        if cursor.added < added:
            if untold.adds > 1 and added - cursor.added > 1:
                data = summary(cursor.added + 1, added, added - cursor.added)
            else:
                data = await self._journal.added(cursor.added, added)
            cursor = cursor._replace(added=added)
            yield message("added", data, cursor), cursor
        if start is not None and start.finish_num == cursor.finished < finished:
            # The head that was started before it finished.
            yield self._started(start.head, cursor), cursor
        if cursor.finished < finished:
            text = await self._finished(cursor, finished, untold)
            cursor = cursor._replace(finished=finished)
            yield text, cursor
        if (
            start is not None
            and start.finish_num == finished
            and _start_of(start.head) != self._head
        ):
            yield self._started(start.head, cursor), cursor
        elif figures.head is not None and self._head != (figures.head, figures.head_started_at):
            # Another process has started it.
            head = (await self._source.overview()).head
            if head is not None and _start_of(head) == (figures.head, figures.head_started_at):
                yield self._started(head, cursor), cursor
        if figures.paused != self._paused:
            self._paused = figures.paused
            kind = "paused" if figures.paused else "resumed"
            yield message(kind, tasks_data(()), cursor), cursor

    async def _finished(self, cursor: Cursor, until: int, untold: Untold) -> bytes:
        known = untold.summary(cursor.finished, until)
        after = cursor._replace(finished=until)
        try:
            if known is None or (len(untold.finishes) == 1 and known.tasks <= TASKS_MAX):
                data = await self._journal.finished(cursor.finished, until)
                return message("finished", data, after)
        except Lost as lost:
            if known is None:
                return reset(after, lost.reason)
        assert known is not None  # noqa: S101 - else it was returned above
        return message("finished", summary(known.first, known.last, known.tasks), after)

    def _started(self, head: Task, cursor: Cursor) -> bytes:
        self._head = _start_of(head)
        return message("started", tasks_data([head]), cursor)


def _start_of(head: Task) -> tuple[int, int | None]:
    return head.history_num, head.started_at
