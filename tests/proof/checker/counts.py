"""What a run was made of, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.proof.checker.ranges import meets, merged
from tests.proof.checker.run import Run
from tests.proof.history import Answer, History, ReadQueue, ReadResults, ReadTask


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run was made of.

    `added` are tasks that were acknowledged, `done` and `cancelled` rows of the history; `refused`
    and `unknown` are operations, `excused` those that met a fault. `definite` is the share of ok
    and refused among the operations outside faults: of the writes, or of the reads if that is less.
    """

    operations: int
    reads: int
    added: int
    done: int
    cancelled: int
    refused: int
    unknown: int
    excused: int
    definite: float


def count(history: History, run: Run) -> Counts:
    """Count the operations, and the rows they left."""
    windows = merged(history.faults)
    answers = Counter[Answer]()
    judged, definite = Counter[bool](), Counter[bool]()
    reads = excused = 0
    for each in history.operations:
        read = isinstance(each.request, ReadQueue | ReadResults | ReadTask)
        answers[each.answer] += 1
        reads += read
        if meets(windows, each.invoked, each.completed):
            excused += 1
            continue
        judged[read] += 1
        definite[read] += each.answer != "unknown"
    # Without a write outside the faults nothing was asked of a sound service.
    of_writes = definite[False] / judged[False] if judged[False] else 0.0
    of_reads = definite[True] / judged[True] if judged[True] else 1.0
    return Counts(
        operations=len(history.operations),
        reads=reads,
        added=sum(asked.history_num is not None for asked in run.asked.values()),
        done=len(run.done),
        cancelled=len(run.cancelled),
        refused=answers["refused"],
        unknown=answers["unknown"],
        excused=excused,
        definite=min(of_writes, of_reads),
    )
