"""Retention: which finished tasks are removed from the history, and when."""

from __future__ import annotations

from typing import Protocol

from sanic_app.store import PRUNE_MAX, Figures
from sanic_app.task import SECOND, Retention


class HistoryRows(Protocol):
    """The old end of the history in one open transaction. Its stamps never decrease."""

    def next_finished_at(self, finish_num: int) -> int | None:
        """Return the stamp of the first finish after this one."""

    def count_finished(self, finish_num: int, until: int, limit: int) -> int:
        """Count the finishes after this one and up to a stamp, not beyond the limit."""

    def prune(self, first: int, last: int, count: int) -> None:
        """Remove the finishes from one number to another.

        Raises:
            StoreFailed: they are not so many; an engine may find out when it commits.
        """


def prune(rows: HistoryRows, retention: Retention, figures: Figures) -> tuple[int, float | None]:
    """Remove the oldest finishes that are not kept, at most ``PRUNE_MAX``.

    ``figures`` are those at the end of the commit.

    Returns:
        The number of the last finish that is removed now, and the seconds until retention wants
        another commit, even an empty one; None when the next finish will do.

    Raises:
        StoreFailed: the history does not hold what it should.
    """
    prune_in = None
    pruned = figures.pruned
    if retention.age is None:
        due = figures.last_finish_num - pruned - (retention.tasks or 0)
    elif (oldest := rows.next_finished_at(pruned)) is None:
        due = 0
    else:
        until = figures.last_stamp - retention.age
        prune_in = max(oldest - until, 0) / SECOND
        due = 0 if prune_in else rows.count_finished(pruned, until, PRUNE_MAX + 1)
    if due <= 0:
        return pruned, prune_in
    through = pruned + min(due, PRUNE_MAX)
    rows.prune(pruned + 1, through, through - pruned)
    return through, 0.0 if due > PRUNE_MAX else prune_in
