"""Where a task of the queue stands: arithmetic on running sums, for every engine."""

from __future__ import annotations

from typing import NamedTuple

from sanic_app.store import WAIT_SUM_MODULUS, Figures, Place
from sanic_app.task import SECOND


class Standing(NamedTuple):
    """What an engine reads of a task and of the first of the queue, in one snapshot.

    ``waits`` is the running sum of the task less that of the first. It counts the skipped tasks
    between them too (see ``skipped.py``), whose timeouts are summed in seconds and microseconds.
    """

    history_num: int
    first: int
    first_timeout: int
    waits: int
    skipped: int
    skipped_seconds: int
    skipped_micros: int


def place(figures: Figures, wall: int, standing: Standing) -> Place:
    """Return the place of a task; ``wall`` is the clock that stamps are taken from."""
    skipped = standing.skipped_seconds * SECOND + standing.skipped_micros
    return Place(
        figures,
        figures.stamp(wall),
        position=standing.history_num - standing.first - standing.skipped,
        wait=(standing.waits - skipped) % WAIT_SUM_MODULUS + standing.first_timeout,
        first_timeout=standing.first_timeout,
    )
