"""What commits have done since the last round of messages."""

from __future__ import annotations

from typing import NamedTuple

from sanic_app.store import Cancelled, Commit, Done, Figures
from sanic_app.task import Task


class Finishes(NamedTuple):
    """The finishes of one commit: how many, and the history numbers of the first and the last."""

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

    def note(self, before: Figures, commit: Commit) -> None:
        """Note a commit, by the figures before it and by what it did."""
        after = commit.figures
        self.adds += before.last_history_num < after.last_history_num
        done = [
            task
            for result in commit.results
            if isinstance(result, Done | Cancelled)
            for task in result.tasks
        ]
        if done:
            first, last = done[0].history_num, done[-1].history_num
            self.finishes.append(Finishes(len(done), first, last))
        if commit.started is not None:
            self.start = Start(commit.started, after.last_finish_num)

    def summary(self, tasks: int) -> Finishes | None:
        """Return all finishes as one, if it was this process that made so many."""
        if not self.finishes or sum(each.tasks for each in self.finishes) != tasks:
            return None
        return Finishes(tasks, self.finishes[0].first, self.finishes[-1].last)
