"""What the place of a task rests on: skipped tasks, and running sums of timeouts."""

from __future__ import annotations

from itertools import pairwise

from sanic_app.store import WAIT_SUM_MODULUS, Figures
from sanic_app.store.audit.queries import Faults, added_up, first_queued, row_faults, sum_of
from sanic_app.store.skipped import LEVELS, Level
from sanic_app.store.snapshot import Snapshot
from sanic_app.task import SECOND


def skipped(snapshot: Snapshot, state: Figures) -> Faults:
    """Compare the cancelled tasks behind the first of the queue with both tables.

    What stands before the first may be forgotten; the blocks that it shares with those behind it
    are kept whole (see ``skipped.py``).
    """
    first, _ = next(first_queued(snapshot), (state.last_history_num + 1, None))
    ((count, last),) = snapshot.select(
        f"SELECT count(*), max(block) FROM skipped WHERE level = 0 AND block > {first}"
    )
    missing = state.last_history_num - first + 1 - state.depth
    if count != missing or (last or 0) > state.last_history_num:
        yield (
            f"skipped: holds {count} tasks behind {first}, the last {last}, and {missing} up to"
            f" {state.last_history_num} are not in the queue"
        )
    sql = "SELECT block FROM skipped JOIN queue ON history_num = block WHERE level = 0"
    yield from row_faults(snapshot, sql, "task {}: is in the queue and skipped")
    sql = f"""
        SELECT block FROM skipped LEFT JOIN history ON history_num = block WHERE level = 0 AND (
            tasks <> 1 OR outcome <> 'cancelled'
            OR seconds <> timeout / {SECOND} OR micros <> timeout % {SECOND}
        )
    """
    text = "task {}: is skipped with another timeout than it had, or was not cancelled"
    yield from row_faults(snapshot, sql, text)
    for below, level in pairwise(LEVELS):
        yield from _blocks(snapshot, first, below, level)


def _blocks(snapshot: Snapshot, first: int, below: Level, level: Level) -> Faults:
    """Compare the blocks of a level with those that they are made of."""
    radix = level.width // below.width
    bound = first // level.width
    parts = (
        f"FROM skipped AS part WHERE part.level = {below.level}"
        f" AND part.block >= whole.block * {radix} AND part.block < (whole.block + 1) * {radix}"
    )
    differences = " OR ".join(
        f"{column} <> (SELECT coalesce(sum({column}), 0) {parts})"
        for column in ("tasks", "seconds", "micros")
    )
    sql = f"""
        SELECT block, {level.level} FROM skipped AS whole
        WHERE level = {level.level} AND block >= {bound} AND ({differences})
        UNION ALL
        SELECT block / {radix}, {level.level} FROM skipped AS part
        WHERE level = {below.level} AND block >= {bound * radix} AND NOT EXISTS (
            SELECT true FROM skipped AS whole
            WHERE whole.level = {level.level} AND whole.block = part.block / {radix}
        )
    """
    text = "skipped: block {} of level {} is not the sum of its parts"
    yield from row_faults(snapshot, sql, text)


def wait_sums(snapshot: Snapshot, state: Figures) -> Faults:
    """Add the timeouts up anew."""
    sql = f"""
        SELECT other.history_num, one.history_num FROM queue AS one
        JOIN queue AS other ON other.history_num = one.history_num + 1
        WHERE other.wait_sum <> CASE
            WHEN one.wait_sum > {WAIT_SUM_MODULUS - 1} - other.timeout
            THEN one.wait_sum - ({WAIT_SUM_MODULUS - 1} - other.timeout) - 1
            ELSE one.wait_sum + other.timeout
        END
    """
    text = "task {}: its wait_sum is not that of task {} and its timeout"
    yield from row_faults(snapshot, sql, text)
    # Where tasks between two were cancelled, and behind the last: with what was skipped there.
    for number, start, timeout, following, end in snapshot.select(
        f"""
        SELECT one.history_num, one.wait_sum, other.timeout, other.history_num, other.wait_sum
        FROM queue AS one JOIN queue AS other ON other.history_num = (
            SELECT min(history_num) FROM queue WHERE history_num > one.history_num
        )
        WHERE other.history_num > one.history_num + 1
        UNION ALL
        SELECT history_num, wait_sum, 0, {state.last_history_num} + 1, {state.wait_sum} FROM queue
        WHERE history_num = (SELECT max(history_num) FROM queue)
        """
    ):
        ((seconds, micros),) = snapshot.select(
            "SELECT coalesce(sum(seconds), 0), coalesce(sum(micros), 0) FROM skipped"
            f" WHERE level = 0 AND block > {number} AND block < {following}"
        )
        if (start + added_up(seconds, micros) + timeout - end) % WAIT_SUM_MODULUS:
            what = "the state row" if following > state.last_history_num else f"task {following}"
            yield f"{what}: its wait_sum is not that of task {number} and the timeouts since"
    if state.pruned == 0:
        first = "(SELECT min(history_num) FROM queue)"
        ((seconds, micros),) = snapshot.select(
            f"SELECT {sum_of('timeout')} FROM history"
            f" WHERE history_num < coalesce({first}, {state.last_history_num} + 1)"
        )
        ((timeout, wait_sum),) = list(
            snapshot.select(f"SELECT timeout, wait_sum FROM queue WHERE history_num = {first}")
        ) or [(0, state.wait_sum)]
        if (added_up(seconds, micros) + timeout - wait_sum) % WAIT_SUM_MODULUS:
            yield "both tables: the first wait_sum is not that of all timeouts before"
