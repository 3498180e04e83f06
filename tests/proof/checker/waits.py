"""What the reads say together: when each task was done, and when it was not."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from tests.proof.checker.run import Run
from tests.proof.checker.violation import Kind, Violation, present
from tests.proof.history import MICROSECONDS, Operation, Pause, ReadResults, Resume

NANOSECONDS = 1_000_000_000


def seen_and_not_seen(run: Run) -> Iterator[Violation]:
    """Once done always done, and once out of the queue in the result list."""
    run.seen.spread()
    run.gone.spread()
    not_done: Iterable[tuple[int, Operation | None]] = run.pending
    # The snapshot is the last reader of all.
    for place, operation in itertools.chain(not_done, [(len(run.done), None)]):
        if place >= len(run.line):
            continue
        row = run.line[place]
        number = row.history_num
        invoked = math.inf if operation is None else operation.invoked
        in_queue = operation is not None and not isinstance(operation.request, ReadResults)
        if run.seen.times[place] < invoked:
            kind = Kind.IN_BOTH if in_queue else Kind.SHRUNK
            where = "in the queue" if in_queue else "not in the result list"
            message = f"{number} was seen done, and later {where}"
            evidence = present(row, run.seen.operations[place], operation)
            yield Violation(kind, message, (number,), evidence)
        elif run.gone.times[place] < invoked:
            message = f"{number} was missing in the queue, and later it was not done"
            evidence = present(row, run.gone.operations[place], operation)
            yield Violation(Kind.IN_NEITHER, message, (number,), evidence)


def waits(run: Run) -> Iterator[Violation]:
    """No task is seen done before its wait can be over; waits add up along the line.

    A task starts once it is asked for, no longer seen queued, and the one before is finished;
    it is finished a timeout later at the soonest, and not while a reader still sees it undone.
    In integers, since a float that sums up many waits would drift.
    """
    undone = [-math.inf] * len(run.line)
    for place, operation in run.pending:
        if place < len(run.line):
            undone[place] = max(undone[place], operation.invoked)
    allowance = math.ceil(run.epsilon * NANOSECONDS)
    finish: float = -math.inf
    for place, row in enumerate(run.line):
        if run.seen.times[place] == math.inf:
            return
        start = max(finish, _floor(run.invoked(row)), _floor(run.unstarted[place]))
        finish = start + row.timeout * (NANOSECONDS // MICROSECONDS)
        seen = math.ceil(run.seen.times[place] * NANOSECONDS)
        if seen + allowance < finish:
            early = (finish - seen) / NANOSECONDS
            message = f"{row.history_num} was seen done {early:.9f} s before it can have been"
            evidence = present(row, run.seen.operations[place])
            yield Violation(Kind.EARLY, message, (row.history_num,), evidence)
        # Never later than it was seen: one that was early is told once, not with all after it.
        finish = min(max(finish, _floor(undone[place])), seen)


def pauses(run: Run) -> Iterator[Violation]:
    """While paused at most the head is finished, and nothing that was added meanwhile."""
    kind = Kind.STARTED_WHILE_PAUSED
    run.lists.sort(key=lambda each: each.operation.invoked)
    invoked = [each.operation.invoked for each in run.lists]
    for (begun, ended), pause in _paused(run).items():
        within = [
            each
            for each in run.lists[bisect_right(invoked, begun) : bisect_left(invoked, ended)]
            if each.operation.completed < ended
        ]
        if within:
            least = min(within, key=lambda each: each.end)
            most = max(within, key=lambda each: each.shown)
            if most.shown > least.end + 1:
                number = run.line[most.shown - 1].history_num
                message = f"{most.shown - least.end} tasks were done during one pause"
                evidence = present(pause, least.operation, most.operation)
                yield Violation(kind, message, (number,), evidence)
        times = run.seen.times
        for place in range(bisect_right(times, begun), bisect_left(times, ended)):
            row = run.line[place]
            if run.invoked(row) > begun:
                message = f"{row.history_num} was added and done during one pause"
                evidence = present(pause, row, run.seen.operations[place])
                yield Violation(kind, message, (row.history_num,), evidence)


def _paused(run: Run) -> dict[tuple[float, float], Operation]:
    """Give the times that were paused for certain: no resume can have been applied in them."""
    resumes = sorted(
        (math.inf if each.answer == "unknown" else each.completed, each.invoked)
        for each in run.operations[Resume]
        if each.answer != "refused"
    )
    completed = [each[0] for each in resumes]
    soonest = list(itertools.accumulate((each[1] for each in reversed(resumes)), min))[::-1]
    soonest.append(math.inf)
    first: dict[float, Operation] = {}
    for pause in run.operations[Pause]:
        ended = soonest[bisect_left(completed, pause.invoked)]
        if pause.answer == "ok" and pause.completed < ended:
            known = first.setdefault(ended, pause)
            if pause.completed < known.completed:
                first[ended] = pause
    return {(pause.completed, ended): pause for ended, pause in first.items()}


def _floor(seconds: float) -> float:
    return math.floor(seconds * NANOSECONDS) if math.isfinite(seconds) else seconds
