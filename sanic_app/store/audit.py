"""Is a store whole? Every rule that its tables have to keep, over all rows, for every engine.

``consistency.py`` looks at the ends of the tables alone, because a start must be quick. This looks
at everything. The queries are in the SQL that all engines understand. They read the tables in the
order of a key, and sort and collect nothing, so that memory does not grow with the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from sanic_app.errors import StoreFailed
from sanic_app.store import WAIT_SUM_MODULUS, Figures
from sanic_app.store.skipped import LEVELS, Level
from sanic_app.store.snapshot import TABLES, Snapshot
from sanic_app.task import SECOND

Faults = Iterator[str]


def faults(snapshot: Snapshot, progress: Callable[[int, int], object] | None = None) -> Faults:
    """Return what is wrong with a store, a line for each fault.

    ``progress`` is told how many of how many parts are done.
    """
    told = progress or (lambda _, __: None)
    told(0, len(_PARTS) + 1)
    yield from snapshot.engine_faults()
    try:
        states = list(snapshot.select(f"SELECT {TABLES['state'].listed} FROM state"))
    except StoreFailed as error:
        yield f"state: cannot be read: {error.detail}"
        return
    if len(states) != 1:
        yield f"state: has {len(states)} rows instead of one"
        return
    figures = Figures(*states[0])
    for done, part in enumerate(_PARTS, 1):
        told(done, len(_PARTS) + 1)
        try:
            yield from part(snapshot, figures)
        except StoreFailed as error:
            yield f"{part.__name__.strip('_')}: cannot be read: {error.detail}"
    told(len(_PARTS) + 1, len(_PARTS) + 1)


def _state(snapshot: Snapshot, state: Figures) -> Faults:
    """Compare each figure of the state row with the others and with the queue."""
    ((depth, backlog_s, backlog_us, newest),) = snapshot.select(
        f"SELECT count(*), {_sum('timeout')}, max(created_at) FROM queue"
    )
    first = next(_first(snapshot), (None, None))
    for name, value, found in (
        ("depth", state.depth, depth),
        ("backlog", state.backlog, _micros(backlog_s, backlog_us)),
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


def _numbers(snapshot: Snapshot, state: Figures) -> Faults:
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
    for (number,) in snapshot.select(
        "SELECT history_num FROM queue JOIN history USING (history_num) ORDER BY history_num"
    ):
        yield f"task {number}: is in the queue and in the history"


def _rows(snapshot: Snapshot, state: Figures) -> Faults:
    """Look at each row of both tables by itself."""
    for number, text in _broken(snapshot, state, "queue", _QUEUE_RULES):
        yield f"task {number}: {text}"
    for number, text in _broken(snapshot, state, "history", _HISTORY_RULES):
        yield f"task {number}: {text}"


def _broken(
    snapshot: Snapshot, state: Figures, table: str, rules: Mapping[str, str]
) -> Iterator[tuple[object, str]]:
    """Return the key of each row that meets a condition, and the text of the first that it meets.

    All conditions are tried in one pass. The figures of the state row are put in by name.
    """
    figures = {name: "NULL" if value is None else value for name, value in state._asdict().items()}
    conditions = [condition.format(**figures) for condition in rules]
    texts = list(rules.values())
    cases = " ".join(f"WHEN {condition} THEN {n}" for n, condition in enumerate(conditions))
    for key, rule in snapshot.select(
        f"SELECT {TABLES[table].key}, CASE {cases} END FROM {table} WHERE {' OR '.join(conditions)}"
    ):
        yield key, texts[rule]


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


def _order(snapshot: Snapshot, _: Figures) -> Faults:
    """Look whether stamps rise along the numbers, and whether one task waited at a time."""
    for table, neighbours in (
        ("queue", "queue"),
        ("history", "history"),
        # Behind the first of the queue, cancelled tasks stand between the others.
        ("queue", "history"),
    ):
        for (number,) in snapshot.select(
            f"""
            SELECT history_num FROM {table} AS task WHERE created_at < (
                SELECT created_at FROM {neighbours} AS before
                WHERE before.history_num < task.history_num ORDER BY history_num DESC LIMIT 1
            )
            """
        ):
            yield f"task {number}: was created before a task with a lower number"
    for (number,) in snapshot.select(
        """
        SELECT history_num FROM queue AS task WHERE created_at > (
            SELECT created_at FROM history AS behind
            WHERE behind.history_num > task.history_num ORDER BY history_num LIMIT 1
        )
        """
    ):
        yield f"task {number}: was created after a task with a higher number"
    yield from _finishes(snapshot)
    for first, _created_at in _first(snapshot):
        for (number,) in snapshot.select(
            f"SELECT history_num FROM history WHERE history_num > {first}"
            " AND started_at IS NOT NULL"
        ):
            yield f"task {number}: was started, and task {first} still waits before it"


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


def _skipped(snapshot: Snapshot, state: Figures) -> Faults:
    """Compare the cancelled tasks behind the first of the queue with both tables.

    What stands before the first may be forgotten; the blocks that it shares with those behind it
    are kept whole (see ``skipped.py``).
    """
    first, _ = next(_first(snapshot), (state.last_history_num + 1, None))
    ((count, last),) = snapshot.select(
        f"SELECT count(*), max(block) FROM skipped WHERE level = 0 AND block > {first}"
    )
    missing = state.last_history_num - first + 1 - state.depth
    if count != missing or (last or 0) > state.last_history_num:
        yield (
            f"skipped: holds {count} tasks behind {first}, the last {last}, and {missing} up to"
            f" {state.last_history_num} are not in the queue"
        )
    for (number,) in snapshot.select(
        "SELECT block FROM skipped JOIN queue ON history_num = block WHERE level = 0"
    ):
        yield f"task {number}: is in the queue and skipped"
    for (number,) in snapshot.select(
        f"""
        SELECT block FROM skipped LEFT JOIN history ON history_num = block WHERE level = 0 AND (
            tasks <> 1 OR outcome <> 'cancelled'
            OR seconds <> timeout / {SECOND} OR micros <> timeout % {SECOND}
        )
        """
    ):
        yield f"task {number}: is skipped with another timeout than it had, or was not cancelled"
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
    for (block,) in snapshot.select(
        f"""
        SELECT block FROM skipped AS whole
        WHERE level = {level.level} AND block >= {bound} AND ({differences})
        UNION ALL
        SELECT block / {radix} FROM skipped AS part
        WHERE level = {below.level} AND block >= {bound * radix} AND NOT EXISTS (
            SELECT true FROM skipped AS whole
            WHERE whole.level = {level.level} AND whole.block = part.block / {radix}
        )
        """
    ):
        yield f"skipped: block {block} of level {level.level} is not the sum of its parts"


def _wait_sums(snapshot: Snapshot, state: Figures) -> Faults:
    """Add the timeouts up anew."""
    for number, before in snapshot.select(
        f"""
        SELECT other.history_num, one.history_num FROM queue AS one
        JOIN queue AS other ON other.history_num = one.history_num + 1
        WHERE other.wait_sum <> CASE
            WHEN one.wait_sum > {WAIT_SUM_MODULUS - 1} - other.timeout
            THEN one.wait_sum - ({WAIT_SUM_MODULUS - 1} - other.timeout) - 1
            ELSE one.wait_sum + other.timeout
        END
        """
    ):
        yield f"task {number}: its wait_sum is not that of task {before} and its timeout"
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
        if (start + _micros(seconds, micros) + timeout - end) % WAIT_SUM_MODULUS:
            what = "the state row" if following > state.last_history_num else f"task {following}"
            yield f"{what}: its wait_sum is not that of task {number} and the timeouts since"
    if state.pruned == 0:
        first = "(SELECT min(history_num) FROM queue)"
        ((seconds, micros),) = snapshot.select(
            f"SELECT {_sum('timeout')} FROM history"
            f" WHERE history_num < coalesce({first}, {state.last_history_num} + 1)"
        )
        ((timeout, wait_sum),) = list(
            snapshot.select(f"SELECT timeout, wait_sum FROM queue WHERE history_num = {first}")
        ) or [(0, state.wait_sum)]
        if (_micros(seconds, micros) + timeout - wait_sum) % WAIT_SUM_MODULUS:
            yield "both tables: the first wait_sum is not that of all timeouts before"


def _keys(snapshot: Snapshot, state: Figures) -> Faults:
    """Compare what is known of adds with a key with the tasks that they added."""
    for key, following in snapshot.select(
        """
        SELECT one.key, other.key FROM idempotency AS one
        JOIN idempotency AS other ON other.last = (
            SELECT min(last) FROM idempotency WHERE last > one.last
        )
        WHERE other.first <= one.last
        """
    ):
        yield f"key {key!r}: has tasks of the key {following!r}"
    for broken, text in _broken(snapshot, state, "idempotency", _KEY_RULES):
        yield f"key {broken!r}: {text}"


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


def _first(snapshot: Snapshot) -> Iterator[tuple[int, int]]:
    """Return number and creation of the first of the queue, or nothing."""
    yield from snapshot.select(
        "SELECT history_num, created_at FROM queue"
        " WHERE history_num = (SELECT min(history_num) FROM queue)"
    )


def _sum(column: str) -> str:
    """Return the SQL of a sum in seconds and microseconds: as one number it can be too great."""
    return f"coalesce(sum({column} / {SECOND}), 0), coalesce(sum({column} % {SECOND}), 0)"


def _micros(seconds: int, micros: int) -> int:
    return int(seconds) * SECOND + int(micros)


def _lineage(snapshot: Snapshot, _: Figures) -> Faults:
    """Look whether the queue can be told from its copies."""
    found = [str(uuid) for (uuid,) in snapshot.select("SELECT uuid FROM lineage")]
    digits = "".join(found).replace("-", "")
    if len(found) != 1 or len(digits) != 32 or set(digits) - set("0123456789abcdef"):  # noqa: PLR2004 - a UUID
        yield f"lineage: must be one UUID, and is {', '.join(found) or 'missing'}"


_PARTS = (_state, _numbers, _rows, _order, _skipped, _wait_sums, _keys, _lineage)
