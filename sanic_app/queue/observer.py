"""What the metrics show of the queue: each commit once, after it is durable."""

from __future__ import annotations

from collections.abc import Sequence

from sanic_app.metrics import Metrics
from sanic_app.queue.head import HeadTimer
from sanic_app.queue.outlook import backlog, oldest_task_age
from sanic_app.queue.writer import Committed
from sanic_app.store import Added, Cancelled, Done, Figures, Overview, Store
from sanic_app.task import SECOND, Task


class Observer:
    """Observes the commits of one queue, and keeps its gauges current."""

    _figures: Figures

    def __init__(self, metrics: Metrics, store: Store, timer: HeadTimer) -> None:
        """Take the series, the store for its clock, and the head before the observed commit."""
        self._metrics = metrics
        self._store = store
        self._timer = timer

    def begin(self, overview: Overview) -> None:
        """Show the store as it was opened."""
        self._figures = overview.figures
        self._metrics.queue_depth.set_function(lambda: self._figures.depth)
        self._metrics.queue_paused.set_function(lambda: self._figures.paused)
        self._metrics.show_build(self._store.engine)
        self._metrics.oldest_task_age.set_function(self._oldest_task_age)
        self._metrics.backlog.set_function(self._backlog)
        self._metrics.head_overdue.set_function(self._timer.overdue)
        self._metrics.stamp_ahead.set_function(self._stamp_ahead)
        self._metrics.store_up.set_function(lambda: self._store.up)

    def follow(self, committed: Committed) -> None:
        """Observe a commit."""
        commit, metrics = committed.commit, self._metrics
        self._figures = commit.figures
        if committed.foreign or not commit.results:
            # Of another node, which counts it, or retention alone.
            return
        if commit.lock_wait is not None:
            metrics.lock_wait.observe(commit.lock_wait)
        metrics.commit_seconds.observe(committed.ended - committed.begun)
        metrics.commit_writes.observe(len(commit.results))
        added = 0
        for result in commit.results:
            if isinstance(result, Added):
                added += 0 if result.replayed else result.last - result.first + 1
            elif isinstance(result, Done):
                self._observe_done(result.tasks, committed.ended)
            elif isinstance(result, Cancelled):
                metrics.tasks_finished["cancelled"].inc(len(result.tasks))
        if added:
            metrics.tasks_added.inc(added)

    def _observe_done(self, tasks: Sequence[Task], ended: float) -> None:
        metrics, now = self._metrics, self._now()
        metrics.tasks_finished["done"].inc(len(tasks))
        lateness = self._timer.lateness(tasks[0], ended)
        for task in tasks:
            metrics.task_latency.observe((now - task.created_at) / SECOND)
            metrics.task_queue.observe(((task.started_at or 0) - task.created_at) / SECOND)
            metrics.task_lateness.observe(lateness)
            # Those behind the first of a run start and end in this commit.
            lateness = 0.0

    def _now(self) -> int:
        """Return the store's own time."""
        return self._figures.stamp(self._store.wall())

    def _oldest_task_age(self) -> float:
        return oldest_task_age(self._figures, self._now())

    def _stamp_ahead(self) -> float:
        return self._store.ahead(self._figures.last_stamp) / SECOND

    def _backlog(self) -> float:
        head = self._timer.head
        return backlog(self._figures, head and head.task, self._timer.remaining())
