"""What each reader saw, against the rows.

Each rule notes in the run what its reads show of the line; ``waits.py`` joins that.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator

from tests.proof.checker.run import Length, Run
from tests.proof.checker.violation import Kind, Violation, present, repeated
from tests.proof.history import (
    MICROSECONDS,
    Listed,
    Operation,
    ReadQueue,
    ReadResults,
    ReadTask,
    Results,
    Row,
    Seen,
)


def results_read(run: Run) -> Iterator[Violation]:
    """Every result list is a piece of the line; the rest of the rules needs but its ends."""
    numbers = tuple(row.history_num for row in run.line)
    nums = tuple(row.num for row in run.line)
    finished_at = tuple(row.finished_at for row in run.done)
    for operation in run.operations[ReadResults]:
        request, value = operation.request, operation.value
        if not (isinstance(request, ReadResults) and isinstance(value, Results)):
            continue
        start = bisect_right(numbers, request.after)
        stop = start + len(value.nums)
        if value.nums != nums[start:stop]:
            yield from _misread(run, operation, value.nums, start)
            continue
        stamps = value.finished_at or ()
        if value.history_nums not in (None, numbers[start:stop]) or (
            stamps[: max(len(run.done) - start, 0)] != finished_at[start : start + len(stamps)]
        ):
            message = "a result list shows other numbers or stamps than the store holds"
            yield Violation(Kind.ALTERED, message, numbers[start:stop], (operation,))
        # An empty page shows nothing done: `after` need not be a done task.
        shown = stop if value.nums else 0
        full = request.limit is not None and len(value.nums) >= request.limit
        if shown:
            run.seen.mark(shown - 1, operation)
        if not full:
            run.pending.append((stop, operation))
        end = math.inf if full else stop
        run.lists.append(Length(operation, shown, end))


def _misread(
    run: Run, operation: Operation, nums: tuple[int, ...], start: int
) -> Iterator[Violation]:
    shown = set(nums)
    if len(shown) < len(nums):
        yield from repeated("num", nums, operation)
        return
    places = []
    for num in nums:
        row = run.row_of_num.get(num)
        if row is not None and row.history_num in run.place:
            places.append(run.place[row.history_num])
        else:
            yield _stranger(run, num, operation)
    if places != sorted(places):
        message = "a result list has another order than the store"
        numbers = tuple(run.line[place].history_num for place in places)
        yield Violation(Kind.REORDERED, message, numbers, (operation,))
    elif skipped := set(range(start, places[-1] + 1 if places else start)) - set(places):
        numbers = tuple(sorted(run.line[place].history_num for place in skipped))
        message = f"a result list skips {len(skipped)} tasks before the last it shows"
        yield Violation(Kind.LOST, message, numbers, (operation,))


def _stranger(run: Run, num: int, operation: Operation) -> Violation:
    """Say what is wrong with a num that was shown and has no place in line."""
    row = run.row_of_num.get(num)
    if row is not None and row.outcome == "cancelled":
        message = f"{row.history_num} (num {num}) is cancelled and was shown as not"
        return Violation(Kind.REVIVED, message, (row.history_num,), (row, operation))
    if row is not None:
        message = f"{row.history_num} (num {num}) was shown under another number"
        return Violation(Kind.ALTERED, message, (row.history_num,), (row, operation))
    if num in run.asked:
        message = f"num {num} was shown to a reader and is in neither table"
        return Violation(Kind.LOST, message, (), (run.asked[num].operation, operation))
    message = f"num {num} was shown to a reader and nobody asked for it"
    return Violation(Kind.INVENTED, message, (), (operation,))


def tasks_read(run: Run) -> Iterator[Violation]:
    """One task read by its number is there once acknowledged, and never goes back a state."""
    answered = {asked.history_num: asked for asked in run.asked.values()}
    for operation in run.operations[ReadTask]:
        request, seen = operation.request, operation.value
        if operation.answer != "ok" or not isinstance(request, ReadTask):
            continue
        number = request.history_num
        row, asked = run.row.get(number), answered.get(number)
        evidence = present(asked.operation if asked else None, row, operation)
        if not isinstance(seen, Seen):
            if asked is not None and asked.answered < operation.invoked:
                message = f"{number} was acknowledged and then not found"
                yield Violation(Kind.LOST, message, (number,), evidence)
        elif row is None:
            yield _stranger(run, seen.num, operation)
        elif _differs(seen, row):
            message = f"{number} was shown otherwise than the store holds it"
            yield Violation(Kind.ALTERED, message, (number,), evidence)
        elif _revived(run, number, seen.state, operation):
            message = f"{number} was cancelled for one reader and alive for another"
            yield Violation(Kind.REVIVED, message, (number,), evidence)
        elif number in run.place:
            _place(run, run.place[number], seen.state, operation)


def _revived(run: Run, number: int, state: str, operation: Operation) -> bool:
    if run.row[number].outcome != "cancelled":
        return state == "cancelled"
    known = run.cancelled_by.get(number)
    left = known is not None and known.completed < operation.invoked
    return state == "done" or (left and state != "cancelled")


def _place(run: Run, place: int, state: str, operation: Operation) -> None:
    if state == "done":
        run.seen.mark(place, operation)
        return
    run.pending.append((place, operation))
    if state == "queued":
        run.unstarted[place] = max(run.unstarted[place], operation.invoked)


def queues_read(run: Run) -> Iterator[Violation]:
    """Show the queue in order and as stored; what is missing there has left it."""
    stored = {
        (row.history_num, row.num, row.timeout / MICROSECONDS): run.invoked(row) for row in run.rows
    }
    arrivals = sorted(
        (asked.answered, asked.history_num)
        for asked in run.asked.values()
        if asked.history_num in run.place
    )
    arrived, live = 0, set[int]()
    for operation in sorted(run.operations[ReadQueue], key=lambda each: each.invoked):
        entries = operation.value
        if not isinstance(entries, tuple):
            continue
        yield from _misread_queue(run, operation, entries, stored)
        numbers = [entry[0] for entry in entries]
        shown = set(numbers)
        for number in run.cancelled_by.keys() & shown:
            if _revived(run, number, "queued", operation):
                message = f"{number} was acknowledged as cancelled and was in the queue later"
                evidence = (run.cancelled_by[number], operation)
                yield Violation(Kind.REVIVED, message, (number,), evidence)
        first = next((run.place[number] for number in numbers if number in run.place), None)
        if first is not None:
            run.pending.append((first, operation))
        while arrived < len(arrivals) and arrivals[arrived][0] < operation.invoked:
            live.add(arrivals[arrived][1])
            arrived += 1
        for number in live - shown:
            run.gone.mark(run.place[number], operation)
        live &= shown


def _misread_queue(
    run: Run, operation: Operation, entries: tuple[Listed, ...], stored: dict[Listed, float]
) -> Iterator[Violation]:
    numbers = [entry[0] for entry in entries]
    if len(set(numbers)) < len(numbers):
        yield from repeated("history number", numbers, operation)
    elif numbers != sorted(numbers):
        message = "the queue was shown out of order"
        yield Violation(Kind.REORDERED, message, tuple(numbers), (operation,))
    strangers = set(entries) - stored.keys()
    for number, num, _ in strangers:
        if (row := run.row.get(number)) is None:
            yield _stranger(run, num, operation)
        else:
            message = f"{number} was shown otherwise than the store holds it"
            yield Violation(Kind.ALTERED, message, (number,), (row, operation))
    if entries and not strangers:
        latest = max(entries, key=stored.__getitem__)
        if stored[latest] > operation.completed:
            message = f"{latest[0]} was shown before it was sent"
            yield Violation(Kind.INVENTED, message, (latest[0],), (operation,))


def _differs(seen: Seen, row: Row) -> bool:
    return (
        (seen.num, seen.timeout) != (row.num, row.timeout / MICROSECONDS)
        or (seen.started_at is not None and seen.started_at != row.started_at)
        or (seen.finished_at is not None and seen.finished_at != row.finished_at)
    )
