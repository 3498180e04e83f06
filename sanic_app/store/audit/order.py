"""Each task and the one before it: stamps rise, and one task waits at a time."""

from __future__ import annotations

from sanic_app.store import Figures
from sanic_app.store.audit.queries import Faults, first_queued, row_faults
from sanic_app.store.snapshot import Snapshot


def order(snapshot: Snapshot, _: Figures) -> Faults:
    """Look whether stamps rise along the numbers, and whether one task waited at a time."""
    for table, neighbours in (
        ("queue", "queue"),
        ("history", "history"),
        # Behind the first of the queue, cancelled tasks stand between the others.
        ("queue", "history"),
    ):
        sql = f"""
            SELECT history_num FROM {table} AS task WHERE created_at < (
                SELECT created_at FROM {neighbours} AS before
                WHERE before.history_num < task.history_num ORDER BY history_num DESC LIMIT 1
            )
        """
        yield from row_faults(
            snapshot, sql, "task {}: was created before a task with a lower number"
        )
    sql = """
        SELECT history_num FROM queue AS task WHERE created_at > (
            SELECT created_at FROM history AS behind
            WHERE behind.history_num > task.history_num ORDER BY history_num LIMIT 1
        )
    """
    yield from row_faults(snapshot, sql, "task {}: was created after a task with a higher number")
    yield from _finishes(snapshot)
    for first, _created_at in first_queued(snapshot):
        sql = f"""
            SELECT history_num, {first} FROM history
            WHERE history_num > {first} AND started_at IS NOT NULL
        """
        yield from row_faults(
            snapshot, sql, "task {}: was started, and task {} still waits before it"
        )


def _finishes(snapshot: Snapshot) -> Faults:
    """Look along the finish numbers: the start before that of a task is that of the finish before.

    If that one was not started, all between were cancelled in the queue, and are looked through
    once.
    """
    for number, before, finished in snapshot.select(
        """
        SELECT task.history_num, before.history_num, task.finished_at < before.finished_at
        FROM history AS task
        JOIN history AS before ON before.finish_num = task.finish_num - 1
        WHERE task.finished_at < before.finished_at OR task.started_at IS NOT NULL AND (
            before.started_at IS NOT NULL AND (
                task.started_at < before.finished_at OR task.history_num < before.history_num
            )
            OR before.started_at IS NULL AND EXISTS (
                SELECT true FROM history AS started WHERE started.finish_num = (
                    SELECT max(finish_num) FROM history
                    WHERE finish_num < before.finish_num AND started_at IS NOT NULL
                ) AND (
                    task.started_at < started.finished_at OR task.history_num < started.history_num
                )
            )
        )
        """
    ):
        if finished:
            yield f"task {number}: was finished before task {before}, whose finish number is lower"
        else:
            yield f"task {number}: was started before another was finished, or out of its turn"
