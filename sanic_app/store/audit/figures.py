"""The figures of the state row against the tables."""

from __future__ import annotations

from sanic_app.store import WAIT_SUM_MODULUS, Figures
from sanic_app.store.audit.queries import Faults, added_up, first_queued, row_faults, sum_of
from sanic_app.store.snapshot import Snapshot
from sanic_app.task import STAMP_MAX


def state(snapshot: Snapshot, state: Figures) -> Faults:
    """Compare each figure of the state row with the others and with the queue."""
    ((depth, backlog_s, backlog_us, newest),) = snapshot.select(
        f"SELECT count(*), {sum_of('timeout')}, max(created_at) FROM queue"
    )
    first = next(first_queued(snapshot), (None, None))
    for name, value, found in (
        ("depth", state.depth, depth),
        ("backlog", state.backlog, added_up(backlog_s, backlog_us)),
        ("oldest_created_at", state.oldest_created_at, first[1]),
    ):
        if value != found:
            yield f"state: {name} is {value}, and the queue says {found}"
    if state.depth != state.last_history_num - state.last_finish_num:
        yield (
            f"state: depth is {state.depth}, and {state.last_history_num} tasks were added and"
            f" {state.last_finish_num} finished"
        )
    if state.paused not in (0, 1):
        yield f"state: paused is {state.paused}, neither 0 nor 1"
    if not 0 <= state.pruned <= state.last_finish_num:
        yield f"state: pruned is {state.pruned}, and {state.last_finish_num} tasks were finished"
    if not 0 <= state.wait_sum < WAIT_SUM_MODULUS:
        yield f"state: wait_sum is {state.wait_sum}, not from 0 to 2^63 - 1"
    if state.last_stamp > STAMP_MAX:
        yield "state: last_stamp is beyond the year 9999"
    yield from _head(snapshot, state, first, newest)


def _head(
    snapshot: Snapshot, state: Figures, first: tuple[int | None, int | None], newest: int | None
) -> Faults:
    head, started_at = state.head, state.head_started_at
    if (head is None) != (started_at is None):
        yield f"state: head is {head}, and head_started_at {started_at}"
    elif head is None and first[0] is not None and not state.paused:
        yield "state: no task is started, and the queue is neither empty nor paused"
    if head is not None and head != first[0]:
        yield f"state: head is {head}, and the first of the queue {first[0]}"
    if started_at is not None:
        ((ended,),) = snapshot.select(
            "SELECT max(finished_at) FROM history WHERE started_at IS NOT NULL"
        )
        if started_at < (first[1] or 0):
            yield "state: the head was started before it was created"
        if started_at < (ended or 0):
            yield "state: the head was started before the wait of another task was over"
    if state.last_stamp < max(started_at or 0, newest or 0, state.oldest_created_at or 0):
        yield "state: last_stamp is older than a stamp of the queue or of the head"


def numbers(snapshot: Snapshot, state: Figures) -> Faults:
    """Look whether each number was given once, and each task is in one of the two tables."""
    ((finished, low, high),) = snapshot.select(
        "SELECT count(*), min(finish_num), max(finish_num) FROM history"
    )
    expected = (state.last_finish_num - state.pruned, state.pruned + 1, state.last_finish_num)
    if (finished, low, high) != (expected if expected[0] else (0, None, None)):
        yield (
            f"history: holds {finished} finishes from {low} to {high}, and the state row says"
            f" {expected[0]} from {expected[1]} to {expected[2]}"
        )
    ((queued, last_queued),) = snapshot.select("SELECT count(*), max(history_num) FROM queue")
    ((last_finished,),) = snapshot.select("SELECT max(history_num) FROM history")
    if (known := queued + finished + state.pruned) != state.last_history_num:
        yield (
            f"both tables: {queued} queued, {finished} finished and {state.pruned} removed tasks"
            f" are {known}, and {state.last_history_num} were added"
        )
    if (last := max(last_queued or 0, last_finished or 0)) > state.last_history_num:
        yield f"both tables: task {last} is beyond the last one, {state.last_history_num}"
    sql = "SELECT history_num FROM queue JOIN history USING (history_num) ORDER BY history_num"
    yield from row_faults(snapshot, sql, "task {}: is in the queue and in the history")
