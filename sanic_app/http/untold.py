"""What commits have done since the last round of messages."""

from __future__ import annotations

from typing import NamedTuple

from sanic_app.queue.writer import Committed
from sanic_app.store import Cancelled, Done, Figures
from sanic_app.task import Task


class Finishes(NamedTuple):
    """The finishes of one commit: how many, and the history numbers of the first and the last."""

    after: int
    """The finish number before them."""
    tasks: int
    first: int
    last: int


class Start(NamedTuple):
    """A head, and the last finish number when it was started."""

    head: Task
    finish_num: int


class Untold:
    """Notes each commit. Of several starts only the newest is kept."""

    def __init__(self) -> None:
        self.adds = 0
        """How many commits added tasks."""
        self.finishes: list[Finishes] = []
        self.start: Start | None = None

    def note(self, before: Figures, committed: Committed) -> None:
        """Note a commit, by the figures before it and by what it did."""
        commit, last_finish_num = committed.commit, committed.finish_num
        after = commit.figures
        if last_finish_num is None:
            last_finish_num = after.last_finish_num
        self.adds += before.last_history_num < after.last_history_num
        done = [
            task
            for result in commit.results
            if isinstance(result, Done | Cancelled)
            for task in result.tasks
        ]
        if done:
            first, last = done[0].history_num, done[-1].history_num
            self.finishes.append(Finishes(last_finish_num - len(done), len(done), first, last))
        if commit.started is not None:
            self.start = Start(commit.started, after.last_finish_num)

    def summary(self, after: int, until: int) -> Finishes | None:
        """Return all between two finish numbers as one, if these are the finishes that were noted.

        What other nodes finish is learned of a little earlier or later than the figures.
        """
        last = after
        for each in self.finishes:
            if each.after != last:
                return None
            last += each.tasks
        if last != until or not self.finishes:
            return None
        return Finishes(after, until - after, self.finishes[0].first, self.finishes[-1].last)
