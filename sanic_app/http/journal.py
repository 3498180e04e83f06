"""The tables as a journal of adds and finishes, told as server-sent events.

A message's id is a cursor: the last history number and the last finish number that were told. Both
tables are in that order, so nothing else has to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sanic_app.http.schemas import task_object
from sanic_app.store import Overview
from sanic_app.task import Task

TASKS_MAX = 1_000
"""Tasks in one message; a summary tells the number of more."""


class Source(Protocol):
    """The tables, as the store's protocol has them."""

    async def overview(self) -> Overview:
        """Return the state row and the head."""

    async def added(self, after: int, until: int) -> Sequence[Task]:
        """Return tasks by history number."""

    async def finished(self, after: int, until: int) -> Sequence[Task]:
        """Return tasks by finish number."""


class Cursor(NamedTuple):
    """What a listener was told: adds and finishes up to these numbers."""

    added: int
    finished: int

    def __str__(self) -> str:
        """Return it as a message's id."""
        return f"{self.added}.{self.finished}"


class Lost(Exception):
    """What lies behind a cursor is not in the tables."""


class Journal:
    """Reads the tables by cursor."""

    def __init__(self, source: Source) -> None:
        """Take the tables."""
        self._source = source

    async def next(
        self, cursor: Cursor, until: Cursor, pruned: int, *, summarise: bool = False
    ) -> tuple[str, Mapping[str, Any], Cursor]:
        """Return kind and data of the next message behind a cursor, and the cursor behind it.

        It tells a page of tasks, or a summary of all of one kind. Finishes up to ``pruned`` are
        removed.

        Raises:
            Lost: retention has removed some, or the cursor is of another database.
        """
        if cursor.added > until.added or not (pruned <= cursor.finished <= until.finished):
            raise Lost
        if cursor.added < until.added:
            last = until.added if summarise else min(until.added, cursor.added + TASKS_MAX)
            tasks = () if summarise else await self._source.added(cursor.added, last)
            count = last - cursor.added
            # Retention may have removed some of them already.
            data = (
                tasks_data(tasks)
                if len(tasks) == count
                else _summary(cursor.added + 1, last, count)
            )
            return "added", data, cursor._replace(added=last)
        last = until.finished if summarise else min(until.finished, cursor.finished + TASKS_MAX)
        count = last - cursor.finished
        if summarise and count > 1:
            first_one = await self._source.finished(cursor.finished, cursor.finished + 1)
            tasks = (*first_one, *await self._source.finished(last - 1, last))
        else:
            tasks = await self._source.finished(cursor.finished, last)
        if len(tasks) < min(count, 2 if summarise else count):
            raise Lost
        first, final = tasks[0].history_num, tasks[-1].history_num
        data = _summary(first, final, count) if summarise else tasks_data(tasks)
        return "finished", data, cursor._replace(finished=last)


def message(kind: str, data: Mapping[str, Any], cursor: Cursor) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(data, separators=(",", ":"))
    return f"id: {cursor}\nevent: {kind}\ndata: {text}\n\n".encode()


def tasks_data(tasks: Sequence[Task]) -> Mapping[str, Any]:
    """Return the data of a message that tells tasks."""
    return {"tasks": [task_object(task) for task in tasks]}


def _summary(first: int, last: int, count: int) -> Mapping[str, Any]:
    return {"first": first, "last": last, "count": count}


def reset(cursor: Cursor) -> bytes:
    """Return the message for a listener that has to look at the lists anew."""
    return message("reset", cursor._asdict(), cursor)
