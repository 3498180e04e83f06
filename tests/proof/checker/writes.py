"""What was asked and answered, against the rows."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache

from tests.proof.checker.ranges import meets, merged
from tests.proof.checker.run import Asked, Run
from tests.proof.checker.violation import Kind, Violation
from tests.proof.history import MICROSECONDS, Add, Added, Cancel, Operation


def asked_and_stored(run: Run) -> Iterator[Violation]:
    """What was acknowledged is stored as it was asked, and nothing that was refused is."""
    yield from run.disagreeing
    acknowledged = {asked.history_num for asked in run.asked.values()}
    for row in run.rows:
        if row.num not in run.asked and row.history_num not in acknowledged:
            message = f"{row.history_num} has num {row.num}, which nobody asked for"
            yield Violation(Kind.INVENTED, message, (row.history_num,), (row,))
    for num, asked in run.asked.items():
        yield from _stored(run, num, asked)
    for operation in run.operations[Add]:
        if operation.answer != "refused":
            yield from _whole(run, operation)


def _stored(run: Run, num: int, asked: Asked) -> Iterator[Violation]:
    number = asked.history_num
    row = run.row_of_num.get(num)
    if row is None:
        if number is None:
            return
        other = run.row.get(number)
        if other is None or other.num in run.asked:
            message = f"{number} (num {num}) was acknowledged and is in neither table"
            yield Violation(Kind.LOST, message, (number,), (asked.operation,))
            return
        row = other
    numbers, evidence = (row.history_num,), (asked.operation, row)
    if asked.invoked == math.inf:
        message = f"num {num} was refused and is stored as {row.history_num}"
        yield Violation(Kind.REFUSED_BUT_PRESENT, message, numbers, evidence)
    answer = asked.operation.value
    created_at = answer.created_at if isinstance(answer, Added) else None
    # A timeout is rounded up; one more microsecond is what binary fractions may add.
    surplus = row.timeout - _microseconds(asked.timeout)
    same_place = number in (None, row.history_num)
    if not (same_place and row.num == num and 0 <= surplus <= 1) or (
        created_at not in (None, row.created_at)
    ):
        message = f"num {num} is stored otherwise than it was asked and acknowledged"
        yield Violation(Kind.ALTERED, message, numbers, evidence)


def _whole(run: Run, operation: Operation) -> Iterator[Violation]:
    request, answer = operation.request, operation.value
    assert isinstance(request, Add)
    wanted = len(request.tasks)
    if isinstance(answer, Added) and answer.last - answer.first + 1 != wanted:
        message = f"{wanted} tasks were acknowledged as {answer.first} to {answer.last}"
        yield Violation(Kind.MISCOUNTED, message, (answer.first,), (operation,))
    if wanted == 1:
        return
    rows = [run.row_of_num[num] for num, _ in request.tasks if num in run.row_of_num]
    numbers = tuple(row.history_num for row in rows)
    if 0 < len(rows) < wanted:
        message = f"of a batch of {wanted} only {len(rows)} are stored"
        yield Violation(Kind.TORN, message, numbers, (operation,))
    elif rows and numbers != tuple(range(numbers[0], numbers[0] + wanted)):
        message = "a batch is not contiguous, or not in its own order"
        yield Violation(Kind.REORDERED, message, numbers, (operation,))


def real_time_order(run: Run) -> Iterator[Violation]:
    """Give the lower number to an add that was answered before another was sent."""
    stored = [
        (asked, run.row_of_num[num].history_num)
        for num, asked in run.asked.items()
        if num in run.row_of_num
    ]
    answered = iter(sorted(stored, key=lambda pair: pair[0].answered))
    following = next(answered, None)
    highest, holder = 0, None
    for asked, number in sorted(stored, key=lambda pair: pair[0].invoked):
        while following is not None and following[0].answered < asked.invoked:
            if following[1] > highest:
                holder, highest = following
            following = next(answered, None)
        if number < highest and holder is not None:
            message = f"{highest} was answered before {number} was sent"
            evidence = (holder.operation, asked.operation)
            yield Violation(Kind.REORDERED, message, (highest, number), evidence)


def cancels(run: Run) -> Iterator[Violation]:
    """What was cancelled stays cancelled, and nothing is cancelled unasked."""
    claimed, exact = 0, True
    ranges = []
    for operation in run.operations[Cancel]:
        request, count = operation.request, operation.value
        assert isinstance(request, Cancel)
        if operation.answer == "refused":
            continue
        ranges.append((request.first, request.last))
        exact = exact and operation.answer == "ok"
        if not isinstance(count, int):
            continue
        claimed += count
        held = run.cancelled[
            bisect_left(run.cancelled, request.first) :
            bisect_right(run.cancelled, request.last)
        ]  # fmt: skip
        if len(held) < count:
            message = f"{count} were acknowledged as cancelled, {len(held)} are"
            numbers = (request.first, request.last)
            yield Violation(Kind.REVIVED, message, numbers, (operation,))
        elif count == request.last - request.first + 1:
            for number in held:
                known = run.cancelled_by.setdefault(number, operation)
                if known is not operation:
                    message = f"{number} was acknowledged as cancelled twice"
                    yield Violation(Kind.DOUBLED, message, (number,), (known, operation))
    if claimed > len(run.cancelled) or (exact and claimed < len(run.cancelled)):
        message = f"{claimed} were acknowledged as cancelled, {len(run.cancelled)} are"
        yield Violation(Kind.MISCOUNTED, message)
    covered = merged(ranges)
    for number in run.cancelled:
        if not meets(covered, number, number):
            message = f"{number} is cancelled and nobody asked for it, or all were refused"
            yield Violation(Kind.CANCELLED_UNASKED, message, (number,), (run.row[number],))


@lru_cache(maxsize=4096)
def _microseconds(timeout: float) -> int:
    # By way of its shortest decimal, which is what travelled as JSON: ceil(0.1) is 100000.
    return math.ceil(Decimal(repr(timeout)) * MICROSECONDS)
