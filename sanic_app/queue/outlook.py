"""Ages, backlog and due times: pure arithmetic on figures that were read. Durations are seconds."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from sanic_app.store import Figures, Place
from sanic_app.task import SECOND, Task


class Outlook(NamedTuple):
    """What the queue is doing, as of one moment."""

    depth: int
    oldest_task_age: float
    backlog: float
    paused: bool
    head: Task | None
    pruned: int


class PlacedTask(NamedTuple):
    """A task, its place in the queue, and when it can be done at the earliest.

    Without a place it is finished. Without a due time, a pause keeps it from starting.
    """

    task: Task
    position: int | None = None
    seconds_until_due: float | None = None
    due_at: int | None = None
    """A stamp."""


def oldest_task_age(figures: Figures, now: int) -> float:
    """Return the age of the first task by the store's own time, 0 when the queue is empty."""
    created_at = figures.oldest_created_at
    return 0.0 if created_at is None else (now - created_at) / SECOND


def backlog(figures: Figures, head: Task | None, seconds_left: float) -> float:
    """Return the sum of the waits still ahead; of the head's, these seconds are left."""
    timeout = 0 if head is None else head.timeout
    return (figures.backlog - timeout) / SECOND + seconds_left


def placed(task: Task, place: Place, seconds_left: float) -> PlacedTask:
    """Return a task of the queue with its place; of the head's wait, these seconds are left."""
    head = place.figures.head
    if head is None or (place.figures.paused and task.history_num != head):
        return PlacedTask(task, place.position)
    until_due = (place.wait - place.first_timeout) / SECOND + seconds_left
    return PlacedTask(task, place.position, until_due, place.now + ceil(until_due * SECOND))
