"""The tables as a journal of adds and finishes, told as server-sent events.

A message's id is a cursor: the store's lineage, and the last history number and the last finish
number that were told. Both tables are in that order, so nothing else has to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from sanic_app.http.schemas import task_object
from sanic_app.store import Overview
from sanic_app.task import Task

TASKS_MAX = 1_000
"""Tasks in one message; a summary tells the number of more."""


class Source(Protocol):
    """The tables, as the store's protocol has them."""

    @property
    def lineage(self) -> str:
        """Which queue this is."""

    @property
    def shared(self) -> bool:
        """Whether other processes commit too."""

    def look(self) -> None:
        """Have it learn of them soon."""

    async def overview(self) -> Overview:
        """Return the state row and the head."""

    async def added(self, after: int, until: int) -> Sequence[Task]:
        """Return tasks by history number."""

    async def finished(self, after: int, until: int) -> Sequence[Task]:
        """Return tasks by finish number."""


class Cursor(NamedTuple):
    """What a listener was told of which queue: adds and finishes up to these numbers."""

    lineage: str
    """Empty in an id of a service that did not have it yet."""
    added: int
    finished: int

    def __str__(self) -> str:
        """Return it as a message's id."""
        numbers = f"{self.added}.{self.finished}"
        return f"{self.lineage}.{numbers}" if self.lineage else numbers

    def ahead_of(self, other: Cursor) -> bool:
        """Return whether it is of the same queue and was told something that the other was not."""
        return self.lineage == other.lineage and (
            self.added > other.added or self.finished > other.finished
        )


BEGINNING = Cursor("", 0, 0)
"""Of whoever was told nothing yet, of whatever queue."""


class Reason(StrEnum):
    """Why a listener has to look at the lists anew."""

    REMOVED = "removed"
    """Retention has removed finishes that it was not told of."""
    ANOTHER = "another"
    """Its cursor is of another queue."""


class Lost(Exception):
    """What lies behind a cursor is not in the tables."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Journal:
    """Reads the tables by cursor."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def page(
        self, cursor: Cursor, until: Cursor, pruned: int
    ) -> tuple[str, Mapping[str, Any], Cursor]:
        """Return kind and data of the next message for a listener, and the cursor after it.

        Finishes up to ``pruned`` are removed.

        Raises:
            Lost: finishes were removed that it was not told of, or its cursor is of another
                queue, such as the one that this is a copy of.
        """
        if (
            cursor.lineage != until.lineage
            or cursor.added > until.added
            or cursor.finished > until.finished
        ):
            raise Lost(Reason.ANOTHER)
        if cursor.finished < pruned:
            raise Lost(Reason.REMOVED)
        if cursor.added < until.added:
            last = min(until.added, cursor.added + TASKS_MAX)
            data = await self.added(cursor.added, last)
            return "added", data, cursor._replace(added=last)
        last = min(until.finished, cursor.finished + TASKS_MAX)
        data = await self.finished(cursor.finished, last)
        return "finished", data, cursor._replace(finished=last)

    async def added(self, after: int, until: int) -> Mapping[str, Any]:
        """Return the tasks between two history numbers, or a summary of them.

        They are summarised if they are too many, or if retention has removed some.
        """
        count = until - after
        tasks = await self._source.added(after, until) if count <= TASKS_MAX else ()
        return tasks_data(tasks) if len(tasks) == count else summary(after + 1, until, count)

    async def finished(self, after: int, until: int) -> Mapping[str, Any]:
        """Return the tasks between two finish numbers, or a summary of them if they are too many.

        Raises:
            Lost: retention has removed some.
        """
        count = until - after
        if count <= TASKS_MAX:
            tasks = await self._source.finished(after, until)
            if len(tasks) == count:
                return tasks_data(tasks)
        else:
            first = await self._source.finished(after, after + 1)
            last = await self._source.finished(until - 1, until)
            if first and last:
                return summary(first[0].history_num, last[0].history_num, count)
        raise Lost(Reason.REMOVED)


def message(kind: str, data: Mapping[str, Any], cursor: Cursor) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(data, separators=(",", ":"))
    return f"id: {cursor}\nevent: {kind}\ndata: {text}\n\n".encode()


def tasks_data(tasks: Sequence[Task]) -> Mapping[str, Any]:
    """Return the data of a message that tells tasks."""
    return {"tasks": [task_object(task) for task in tasks]}


def summary(first: int, last: int, count: int) -> Mapping[str, Any]:
    """Return the data of a message that tells only how many tasks there were."""
    return {"first": first, "last": last, "count": count}


def reset(cursor: Cursor, reason: Reason) -> bytes:
    """Return the message for a listener that has to look at the lists anew."""
    data = {"added": cursor.added, "finished": cursor.finished, "reason": reason}
    return message("reset", data, cursor)
