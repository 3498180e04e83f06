"""The history checker: it judges a run by nothing but what clients and observers saw.

`check` compares a history with the rows that were in the store after it. A rule fires only on what
no correct service can show, whatever the timing: an operation counts as applied somewhere between
its invocation and its completion, an unknown one at any time after its invocation or never, and a
read shows each of its tasks as of some moment within the read. Each rule is a generator of
violations.

Three conditions on a run. The store was empty before it. A `num` is sent by one add alone, or by
the retries of one add under one idempotency key: it is what identifies a task whose answer was
lost. Nothing is removed by retention.
"""

from __future__ import annotations

import itertools

from tests.proof.checker import reads, rows, waits, writes
from tests.proof.checker.counts import count
from tests.proof.checker.run import Run
from tests.proof.checker.verdict import Verdict
from tests.proof.checker.violation import Kind
from tests.proof.history import History, Snapshot

__all__ = ["Kind", "Verdict", "check"]


def check(history: History, snapshot: Snapshot, *, finishes: int, epsilon: float = 0.0) -> Verdict:
    """Judge a run, in O(n log n) plus the size of the lists that were read.

    `finishes` is the number of done tasks below which the run proves nothing; `epsilon`, in
    seconds, how much too early a task may be seen done (0 unless clocks are coarse). Raises
    ValueError where two adds sent the same `num`: such a run cannot be judged.
    """
    run = Run(history, snapshot, epsilon)
    rules = (
        *(rows.places, rows.order, rows.stamps),
        *(writes.asked_and_stored, writes.real_time_order, writes.cancels),
        *(reads.results_read, reads.tasks_read, reads.queues_read),
        # From here on the rules join what the reads before them have collected.
        *(waits.seen_and_not_seen, waits.waits, waits.pauses),
    )
    violations = tuple(itertools.chain.from_iterable(rule(run) for rule in rules))
    return Verdict(violations, count(history, run), finishes)
