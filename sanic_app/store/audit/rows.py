"""Each row by itself: tasks and keys."""

from __future__ import annotations

from sanic_app.store import Figures
from sanic_app.store.audit.queries import Faults, broken, row_faults
from sanic_app.store.snapshot import Snapshot


def rows(snapshot: Snapshot, state: Figures) -> Faults:
    """Look at each row of both tables by itself."""
    for number, text in broken(snapshot, state, "queue", _QUEUE_RULES):
        yield f"task {number}: {text}"
    for number, text in broken(snapshot, state, "history", _HISTORY_RULES):
        yield f"task {number}: {text}"


_QUEUE_RULES = {
    "history_num < 1": "has no number from 1 on",
    "timeout < 0": "has a negative timeout",
    "created_at < 0 OR created_at > {last_stamp}": "was created after the last stamp, or before"
    " 1970",
    "wait_sum < 0": "has a negative wait_sum",
}
_HISTORY_RULES = {
    "history_num < 1": "has no number from 1 on",
    "timeout < 0": "has a negative timeout",
    "created_at < 0": "was created before 1970",
    "outcome NOT IN ('done', 'cancelled')": "is neither done nor cancelled",
    "started_at < created_at": "was started before it was created",
    "finished_at < created_at OR finished_at < started_at": "was finished before it was created"
    " or started",
    "finished_at > {last_stamp}": "was finished after the last stamp",
    "outcome = 'done' AND started_at IS NULL": "is done, and was never started",
    "outcome = 'done' AND finished_at - started_at < timeout": "was done before its wait was over",
    "finish_num <= {pruned} OR finish_num > {last_finish_num}": "has a finish number that was"
    " removed or not given yet",
}


def keys(snapshot: Snapshot, state: Figures) -> Faults:
    """Compare what is known of adds with a key with the tasks that they added."""
    sql = """
        SELECT one.key, other.key FROM idempotency AS one
        JOIN idempotency AS other ON other.last = (
            SELECT min(last) FROM idempotency WHERE last > one.last
        )
        WHERE other.first <= one.last
    """
    yield from row_faults(snapshot, sql, "key {!r}: has tasks of the key {!r}")
    for each, text in broken(snapshot, state, "idempotency", _KEY_RULES):
        yield f"key {each!r}: {text}"


_OF_KEY = "history_num >= first AND history_num <= last"
_KEY_RULES = {
    "first < 1 OR last < first OR last > {last_history_num}": "has tasks that were never added",
    "created_at > {last_stamp} OR finished_at > {last_stamp}": "was used, or has ended, after the"
    " last stamp",
    "EXISTS (SELECT true FROM queue"
    f" WHERE {_OF_KEY} AND queue.created_at <> idempotency.created_at)"
    " OR EXISTS (SELECT true FROM history"
    f" WHERE {_OF_KEY} AND history.created_at <> idempotency.created_at)": "has tasks that were"
    " created at another time",
    f"finished_at IS NULL AND NOT EXISTS (SELECT true FROM queue WHERE {_OF_KEY})": "has not ended,"
    " and none of its tasks is in the queue",
    f"finished_at IS NOT NULL AND EXISTS (SELECT true FROM queue WHERE {_OF_KEY})": "has ended, and"
    " a task of it is in the queue",
    f"finished_at <> (SELECT max(history.finished_at) FROM history WHERE {_OF_KEY})": "has not"
    " ended with the last of its tasks",
    "started NOT IN (0, 1)": "has neither started its first task nor not",
    "started = 1 AND (EXISTS (SELECT true FROM queue WHERE history_num = first AND"
    " (history_num <> coalesce({head}, 0) OR created_at <> {head_started_at}))"
    " OR EXISTS (SELECT true FROM history WHERE history_num = first"
    " AND (started_at IS NULL OR started_at <> history.created_at)))": "has not started its first"
    " task, as it says",
}
