"""What the rows say by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from tests.proof.checker.run import Run
from tests.proof.checker.violation import Kind, Violation, repeated
from tests.proof.history import Row


def places(run: Run) -> Iterator[Violation]:
    """In a snapshot a task is in one table, once; numbers are gapless and unique."""
    queue, history = run.snapshot.queue, run.snapshot.history
    for number in {row.history_num for row in queue} & {row.history_num for row in history}:
        yield Violation(Kind.IN_BOTH, f"{number} is in both tables", (number,))
    for table in (queue, history):
        yield from repeated("history number", (row.history_num for row in table))
    finish_nums = [row.finish_num or 0 for row in history]
    yield from repeated("finish number", finish_nums)
    yield from _gaps("history number", run.row)
    yield from _gaps("finish number", set(finish_nums))
    numbers_of_num: dict[int, int] = {}
    for row in run.rows:
        number = numbers_of_num.setdefault(row.num, row.history_num)
        if number != row.history_num:
            message = f"num {row.num} is stored as {number} and as {row.history_num}"
            yield Violation(Kind.DOUBLED, message, (number, row.history_num), (row,))


def order(run: Run) -> Iterator[Violation]:
    """Creation follows the history numbers, finishing too but for cancels; stamps follow."""
    for before, after in itertools.pairwise(run.rows):
        if after.created_at < before.created_at:
            yield _swapped("created before its predecessor", before, after)
    for before, after in itertools.pairwise(run.line):
        if after.history_num < before.history_num:
            yield _swapped("overtaken by a later task", before, after)
    for before, after in itertools.pairwise(run.finished):
        if (after.finished_at or 0) < (before.finished_at or 0):
            yield _swapped("finished, by its stamp, before its predecessor", before, after)


def stamps(run: Run) -> Iterator[Violation]:
    """No wait is cut short, and no two waits overlap."""
    for row in run.done:
        start, end = row.started_at, row.finished_at
        if start is None or end is None or start < row.created_at or end < start + row.timeout:
            message = f"{row.history_num} is done before its wait was over, by its stamps"
            yield Violation(Kind.EARLY, message, (row.history_num,), (row,))
    started = [row for row in (*run.finished, *run.queue) if row.started_at is not None]
    for before, after in itertools.pairwise(started):
        end = before.finished_at
        if end is None or (after.started_at is not None and after.started_at < end):
            numbers = (before.history_num, after.history_num)
            message = f"{numbers[1]} started before {numbers[0]} was finished, by their stamps"
            yield Violation(Kind.OVERLAP, message, numbers, (before, after))
    for row in run.queue[1:]:
        if row.started_at is not None:
            message = f"{row.history_num} is started behind the first of the queue"
            yield Violation(Kind.OVERLAP, message, (row.history_num,), (row,))


def _swapped(what: str, before: Row, after: Row) -> Violation:
    numbers = (before.history_num, after.history_num)
    message = f"{numbers[0]}, {numbers[1]}: {what}"
    return Violation(Kind.REORDERED, message, numbers, (before, after))


def _gaps(what: str, numbers: Iterable[int]) -> Iterator[Violation]:
    for before, after in itertools.pairwise(itertools.chain([0], sorted(numbers))):
        if after != before + 1:
            message = f"{what} {before} is followed by {after}"
            yield Violation(Kind.GAP, message, (before, after))
