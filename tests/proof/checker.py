"""The history checker: it judges a run by nothing but what clients and observers saw.

`check` compares a history with the rows that were in the store after it. A rule fires only on what
no correct service can show, whatever the timing: an operation counts as applied somewhere between
its invocation and its completion, an unknown one at any time after its invocation or never, and a
read shows each of its tasks as of some moment within the read.

Three conditions on a run. The store was empty before it. A `num` is sent by one add alone, or by
the retries of one add under one idempotency key: it is what identifies a task whose answer was
lost. Nothing is removed by retention.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from tests.proof.history import (
    Add,
    Added,
    Answer,
    Cancel,
    History,
    Listed,
    Operation,
    Pause,
    ReadQueue,
    ReadResults,
    ReadTask,
    Request,
    Results,
    Resume,
    Row,
    Seen,
    Snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFINITE_SHARE = 0.95
NANOSECONDS = 1_000_000_000
MICROSECONDS = 1_000_000


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"  # acknowledged or shown, and not there
    DOUBLED = "doubled"
    ALTERED = "altered"  # there, with other content than was asked or shown
    INVENTED = "invented"  # nobody asked for it, or not yet
    REFUSED_BUT_PRESENT = "refused but present"
    TORN = "torn"  # a batch, in part
    GAP = "gap"
    REORDERED = "reordered"
    SHRUNK = "shrunk"  # seen done, and later not in the result list
    EARLY = "early"
    OVERLAP = "overlap"
    IN_BOTH = "in both"
    IN_NEITHER = "in neither"
    REVIVED = "revived"  # cancelled, and queued or done all the same
    CANCELLED_UNASKED = "cancelled unasked"
    MISCOUNTED = "miscounted"
    STARTED_WHILE_PAUSED = "started while paused"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise, with the history numbers it concerns and what shows it."""

    kind: Kind
    message: str
    history_nums: tuple[int, ...] = ()
    evidence: tuple[Operation | Row, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a check. A run that is not `valid` proves nothing, even without violations."""

    violations: tuple[Violation, ...]
    counts: Counts
    finishes: int

    @property
    def valid(self) -> bool:
        """Whether enough was answered and enough was done for the run to count."""
        return self.counts.definite >= DEFINITE_SHARE and self.counts.done >= self.finishes

    @property
    def holds(self) -> bool:
        """Whether the run counts and every promise was kept."""
        return self.valid and not self.violations

    @property
    def summary(self) -> str:
        """One line: the verdict and the figures behind it."""
        counts = self.counts
        kinds = Counter(violation.kind for violation in self.violations)
        if kinds:
            result = "broken: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        else:
            result = "holds" if self.valid else "proves nothing"
        return (
            f"{result}; {counts.operations} operations ({counts.reads} reads), "
            f"{counts.added} added, {counts.done} done (needed {self.finishes}), "
            f"{counts.cancelled} cancelled, {counts.refused} refused, {counts.unknown} unknown, "
            f"{counts.excused} excused, {math.floor(counts.definite * 1000) / 10} % definite "
            f"(needed {DEFINITE_SHARE:.0%})"
        )


def check(history: History, snapshot: Snapshot, *, finishes: int, epsilon: float = 0.0) -> Verdict:
    """Judge a run, in O(n log n) plus the size of the lists that were read.

    `finishes` is the number of done tasks below which the run proves nothing; `epsilon`, in
    seconds, how much too early a task may be seen done (0 unless clocks are coarse). Raises
    ValueError where two adds sent the same `num`: such a run cannot be judged.
    """
    run = _Run(history, snapshot, epsilon)
    rules = (
        run.places, run.order, run.stamps, run.asked_and_stored, run.real_time_order,
        run.cancels, run.results_read, run.tasks_read, run.queues_read,
        # From here on the rules join what the reads before them have collected.
        run.seen_and_not_seen, run.waits, run.pauses,
    )  # fmt: skip
    violations = tuple(itertools.chain.from_iterable(rule() for rule in rules))
    return Verdict(violations, _count(history, run), finishes)


@lru_cache(maxsize=4096)
def _microseconds(timeout: float) -> int:
    # By way of its shortest decimal, which is what travelled as JSON: ceil(0.1) is 100000.
    return math.ceil(Decimal(repr(timeout)) * MICROSECONDS)


@dataclass(slots=True)
class _Asked:
    """A task as it was asked for: all attempts to add it, taken together."""

    timeout: float
    operation: Operation
    invoked: float = math.inf  # of the first attempt that may have been applied
    answered: float = math.inf  # of the first acknowledgement
    history_num: int | None = None  # as acknowledged


@dataclass(frozen=True, slots=True)
class _Length:
    """A result list as places in line: those before `shown` are done, from `end` on none is."""

    operation: Operation
    shown: int
    end: float


@dataclass(slots=True)
class _Earliest:
    """For each place in line, the earliest completed operation that shows something of it."""

    operations: list[Operation | None]
    times: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.times = [math.inf] * len(self.operations)

    def mark(self, place: int, operation: Operation) -> None:
        if operation.completed < self.times[place]:
            self.times[place], self.operations[place] = operation.completed, operation

    def spread(self) -> None:
        """Let what holds of a place hold of those before it: they finish in order."""
        for place in range(len(self.times) - 2, -1, -1):
            if self.times[place + 1] < self.times[place]:
                self.times[place] = self.times[place + 1]
                self.operations[place] = self.operations[place + 1]


def _evidence(*found: Operation | Row | None) -> tuple[Operation | Row, ...]:
    return tuple(each for each in found if each is not None)


class _Run:
    """A history and its snapshot, indexed; each rule is a generator of violations.

    *The line* is every uncancelled task in the order of finishing: the result list, then the
    queue. All reads of one queue describe the same line, so most of what a read shows shrinks to
    one place in it: before it everything is done, from it on nothing is.
    """

    def __init__(self, history: History, snapshot: Snapshot, epsilon: float) -> None:
        self.snapshot = snapshot
        self.epsilon = epsilon
        self.operations: dict[type[Request], list[Operation]] = {
            Add: [], Cancel: [], Pause: [], Resume: [],
            ReadQueue: [], ReadResults: [], ReadTask: [],
        }  # fmt: skip
        for operation in history.operations:
            self.operations[type(operation.request)].append(operation)
        self.rows = sorted((*snapshot.queue, *snapshot.history), key=lambda row: row.history_num)
        self.row = {row.history_num: row for row in (*snapshot.queue, *snapshot.history)}
        self.row_of_num = {row.num: row for row in (*snapshot.queue, *snapshot.history)}
        self.finished = sorted(snapshot.history, key=lambda row: row.finish_num or 0)
        self.done = [row for row in self.finished if row.outcome == "done"]
        self.cancelled = sorted(row.history_num for row in self.finished if row.outcome != "done")
        kept = {row.history_num for row in snapshot.history}
        self.queue = sorted(
            (row for row in snapshot.queue if row.history_num not in kept),
            key=lambda row: row.history_num,
        )
        self.line = self.done + self.queue
        self.place = {row.history_num: place for place, row in enumerate(self.line)}
        self.cancelled_by: dict[int, Operation] = {}
        self.seen = _Earliest([None] * len(self.line))  # seen done
        self.gone = _Earliest([None] * len(self.line))  # missed in the queue once it was added
        self.pending: list[tuple[int, Operation]] = []  # not done yet, from this place on
        self.lists: list[_Length] = []
        self.unstarted = [-math.inf] * len(self.line)
        self.asked: dict[int, _Asked] = {}
        self.disagreeing: list[Violation] = []
        for operation in self.operations[Add]:
            self._ask(operation)

    def _ask(self, operation: Operation) -> None:
        request = operation.request
        assert isinstance(request, Add)
        for offset, (num, timeout) in enumerate(request.tasks):
            asked = self.asked.get(num)
            if asked is None:
                asked = self.asked[num] = _Asked(timeout, operation)
            elif request.key is None or asked.operation.request != request:
                raise ValueError(f"num {num} was sent by two different adds")
            if operation.answer == "refused":
                continue
            asked.invoked = min(asked.invoked, operation.invoked)
            if isinstance(operation.value, Added):
                number = operation.value.first + offset
                if asked.history_num not in (None, number):
                    message = f"num {num} was acknowledged as {asked.history_num} and as {number}"
                    evidence = (asked.operation, operation)
                    self.disagreeing.append(Violation(Kind.DOUBLED, message, (number,), evidence))
                if operation.completed < asked.answered:
                    asked.answered, asked.operation = operation.completed, operation
                    asked.history_num = number

    # What the rows say by themselves.

    def places(self) -> Iterator[Violation]:
        """In a snapshot a task is in one table, once; numbers are gapless and unique."""
        queue, history = self.snapshot.queue, self.snapshot.history
        for number in {row.history_num for row in queue} & {row.history_num for row in history}:
            yield Violation(Kind.IN_BOTH, f"{number} is in both tables", (number,))
        for table in (queue, history):
            yield from _repeated("history number", (row.history_num for row in table))
        finish_nums = [row.finish_num or 0 for row in history]
        yield from _repeated("finish number", finish_nums)
        yield from _gaps("history number", self.row)
        yield from _gaps("finish number", set(finish_nums))
        numbers_of_num: dict[int, int] = {}
        for row in self.rows:
            number = numbers_of_num.setdefault(row.num, row.history_num)
            if number != row.history_num:
                message = f"num {row.num} is stored as {number} and as {row.history_num}"
                yield Violation(Kind.DOUBLED, message, (number, row.history_num), (row,))

    def order(self) -> Iterator[Violation]:
        """Creation follows the history numbers, finishing too but for cancels; stamps follow."""
        for before, after in itertools.pairwise(self.rows):
            if after.created_at < before.created_at:
                yield _swapped("created before its predecessor", before, after)
        for before, after in itertools.pairwise(self.line):
            if after.history_num < before.history_num:
                yield _swapped("overtaken by a later task", before, after)
        for before, after in itertools.pairwise(self.finished):
            if (after.finished_at or 0) < (before.finished_at or 0):
                yield _swapped("finished, by its stamp, before its predecessor", before, after)

    def stamps(self) -> Iterator[Violation]:
        """No wait is cut short, and no two waits overlap."""
        for row in self.done:
            start, end = row.started_at, row.finished_at
            if start is None or end is None or start < row.created_at or end < start + row.timeout:
                message = f"{row.history_num} is done before its wait was over, by its stamps"
                yield Violation(Kind.EARLY, message, (row.history_num,), (row,))
        started = [row for row in (*self.finished, *self.queue) if row.started_at is not None]
        for before, after in itertools.pairwise(started):
            end = before.finished_at
            if end is None or (after.started_at is not None and after.started_at < end):
                numbers = (before.history_num, after.history_num)
                message = f"{numbers[1]} started before {numbers[0]} was finished, by their stamps"
                yield Violation(Kind.OVERLAP, message, numbers, (before, after))
        for row in self.queue[1:]:
            if row.started_at is not None:
                message = f"{row.history_num} is started behind the first of the queue"
                yield Violation(Kind.OVERLAP, message, (row.history_num,), (row,))

    # What was asked and answered, against the rows.

    def asked_and_stored(self) -> Iterator[Violation]:
        """Retention what was acknowledged as it was asked, and nothing that was refused."""
        yield from self.disagreeing
        acknowledged = {asked.history_num for asked in self.asked.values()}
        for row in self.rows:
            if row.num not in self.asked and row.history_num not in acknowledged:
                message = f"{row.history_num} has num {row.num}, which nobody asked for"
                yield Violation(Kind.INVENTED, message, (row.history_num,), (row,))
        for num, asked in self.asked.items():
            yield from self._stored(num, asked)
        for operation in self.operations[Add]:
            if operation.answer != "refused":
                yield from self._whole(operation)

    def _stored(self, num: int, asked: _Asked) -> Iterator[Violation]:
        number = asked.history_num
        row = self.row_of_num.get(num)
        if row is None:
            if number is None:
                return
            other = self.row.get(number)
            if other is None or other.num in self.asked:
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

    def _whole(self, operation: Operation) -> Iterator[Violation]:
        request, answer = operation.request, operation.value
        assert isinstance(request, Add)
        wanted = len(request.tasks)
        if isinstance(answer, Added) and answer.last - answer.first + 1 != wanted:
            message = f"{wanted} tasks were acknowledged as {answer.first} to {answer.last}"
            yield Violation(Kind.MISCOUNTED, message, (answer.first,), (operation,))
        if wanted == 1:
            return
        rows = [self.row_of_num[num] for num, _ in request.tasks if num in self.row_of_num]
        numbers = tuple(row.history_num for row in rows)
        if 0 < len(rows) < wanted:
            message = f"of a batch of {wanted} only {len(rows)} are stored"
            yield Violation(Kind.TORN, message, numbers, (operation,))
        elif rows and numbers != tuple(range(numbers[0], numbers[0] + wanted)):
            message = "a batch is not contiguous, or not in its own order"
            yield Violation(Kind.REORDERED, message, numbers, (operation,))

    def real_time_order(self) -> Iterator[Violation]:
        """Give the lower number to an add that was answered before another was sent."""
        stored = [
            (asked, self.row_of_num[num].history_num)
            for num, asked in self.asked.items()
            if num in self.row_of_num
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

    def cancels(self) -> Iterator[Violation]:
        """Retention cancelled what was cancelled, and cancel nothing unasked."""
        claimed, exact = 0, True
        ranges = []
        for operation in self.operations[Cancel]:
            request, count = operation.request, operation.value
            assert isinstance(request, Cancel)
            if operation.answer == "refused":
                continue
            ranges.append((request.first, request.last))
            exact = exact and operation.answer == "ok"
            if not isinstance(count, int):
                continue
            claimed += count
            held = self.cancelled[
                bisect_left(self.cancelled, request.first) :
                bisect_right(self.cancelled, request.last)
            ]  # fmt: skip
            if len(held) < count:
                message = f"{count} were acknowledged as cancelled, {len(held)} are"
                numbers = (request.first, request.last)
                yield Violation(Kind.REVIVED, message, numbers, (operation,))
            elif count == request.last - request.first + 1:
                for number in held:
                    known = self.cancelled_by.setdefault(number, operation)
                    if known is not operation:
                        message = f"{number} was acknowledged as cancelled twice"
                        yield Violation(Kind.DOUBLED, message, (number,), (known, operation))
        if claimed > len(self.cancelled) or (exact and claimed < len(self.cancelled)):
            message = f"{claimed} were acknowledged as cancelled, {len(self.cancelled)} are"
            yield Violation(Kind.MISCOUNTED, message)
        covered = _merged(ranges)
        for number in self.cancelled:
            if not _meets(covered, number, number):
                message = f"{number} is cancelled and nobody asked for it, or all were refused"
                yield Violation(Kind.CANCELLED_UNASKED, message, (number,), (self.row[number],))

    # What readers saw.

    def results_read(self) -> Iterator[Violation]:
        """Every result list is a piece of the line; the rest of the rules needs but its ends."""
        numbers = tuple(row.history_num for row in self.line)
        nums = tuple(row.num for row in self.line)
        finished_at = tuple(row.finished_at for row in self.done)
        for operation in self.operations[ReadResults]:
            request, value = operation.request, operation.value
            if not (isinstance(request, ReadResults) and isinstance(value, Results)):
                continue
            start = bisect_right(numbers, request.after)
            stop = start + len(value.nums)
            if value.nums != nums[start:stop]:
                yield from self._misread(operation, value.nums, start)
                continue
            stamps = value.finished_at or ()
            if value.history_nums not in (None, numbers[start:stop]) or (
                stamps[: max(len(self.done) - start, 0)] != finished_at[start : start + len(stamps)]
            ):
                message = "a result list shows other numbers or stamps than the store holds"
                yield Violation(Kind.ALTERED, message, numbers[start:stop], (operation,))
            # An empty page shows nothing done: `after` need not be a done task.
            shown = stop if value.nums else 0
            full = request.limit is not None and len(value.nums) >= request.limit
            if shown:
                self.seen.mark(shown - 1, operation)
            if not full:
                self.pending.append((stop, operation))
            end = math.inf if full else stop
            self.lists.append(_Length(operation, shown, end))

    def _misread(
        self, operation: Operation, nums: tuple[int, ...], start: int
    ) -> Iterator[Violation]:
        shown = set(nums)
        if len(shown) < len(nums):
            yield from _repeated("num", nums, operation)
            return
        places = []
        for num in nums:
            row = self.row_of_num.get(num)
            if row is not None and row.history_num in self.place:
                places.append(self.place[row.history_num])
            else:
                yield self._stranger(num, operation)
        if places != sorted(places):
            message = "a result list has another order than the store"
            numbers = tuple(self.line[place].history_num for place in places)
            yield Violation(Kind.REORDERED, message, numbers, (operation,))
        elif skipped := set(range(start, places[-1] + 1 if places else start)) - set(places):
            numbers = tuple(sorted(self.line[place].history_num for place in skipped))
            message = f"a result list skips {len(skipped)} tasks before the last it shows"
            yield Violation(Kind.LOST, message, numbers, (operation,))

    def _stranger(self, num: int, operation: Operation) -> Violation:
        """Say what is wrong with a num that was shown and has no place in line."""
        row = self.row_of_num.get(num)
        if row is not None and row.outcome == "cancelled":
            message = f"{row.history_num} (num {num}) is cancelled and was shown as not"
            return Violation(Kind.REVIVED, message, (row.history_num,), (row, operation))
        if row is not None:
            message = f"{row.history_num} (num {num}) was shown under another number"
            return Violation(Kind.ALTERED, message, (row.history_num,), (row, operation))
        if num in self.asked:
            message = f"num {num} was shown to a reader and is in neither table"
            return Violation(Kind.LOST, message, (), (self.asked[num].operation, operation))
        message = f"num {num} was shown to a reader and nobody asked for it"
        return Violation(Kind.INVENTED, message, (), (operation,))

    def tasks_read(self) -> Iterator[Violation]:
        """One task read by its number is there once acknowledged, and never goes back a state."""
        answered = {asked.history_num: asked for asked in self.asked.values()}
        for operation in self.operations[ReadTask]:
            request, seen = operation.request, operation.value
            if operation.answer != "ok" or not isinstance(request, ReadTask):
                continue
            number = request.history_num
            row, asked = self.row.get(number), answered.get(number)
            evidence = _evidence(asked.operation if asked else None, row, operation)
            if not isinstance(seen, Seen):
                if asked is not None and asked.answered < operation.invoked:
                    message = f"{number} was acknowledged and then not found"
                    yield Violation(Kind.LOST, message, (number,), evidence)
            elif row is None:
                yield self._stranger(seen.num, operation)
            elif _differs(seen, row):
                message = f"{number} was shown otherwise than the store holds it"
                yield Violation(Kind.ALTERED, message, (number,), evidence)
            elif self._revived(number, seen.state, operation):
                message = f"{number} was cancelled for one reader and alive for another"
                yield Violation(Kind.REVIVED, message, (number,), evidence)
            elif number in self.place:
                self._place(self.place[number], seen.state, operation)

    def _revived(self, number: int, state: str, operation: Operation) -> bool:
        if self.row[number].outcome != "cancelled":
            return state == "cancelled"
        known = self.cancelled_by.get(number)
        left = known is not None and known.completed < operation.invoked
        return state == "done" or (left and state != "cancelled")

    def _place(self, place: int, state: str, operation: Operation) -> None:
        if state == "done":
            self.seen.mark(place, operation)
            return
        self.pending.append((place, operation))
        if state == "queued":
            self.unstarted[place] = max(self.unstarted[place], operation.invoked)

    def queues_read(self) -> Iterator[Violation]:
        """Show the queue in order and as stored; what is missing there has left it."""
        stored = {
            (row.history_num, row.num, row.timeout / MICROSECONDS): self._invoked(row)
            for row in self.rows
        }
        arrivals = sorted(
            (asked.answered, asked.history_num)
            for asked in self.asked.values()
            if asked.history_num in self.place
        )
        arrived, live = 0, set[int]()
        for operation in sorted(self.operations[ReadQueue], key=lambda each: each.invoked):
            entries = operation.value
            if not isinstance(entries, tuple):
                continue
            yield from self._misread_queue(operation, entries, stored)
            numbers = [entry[0] for entry in entries]
            shown = set(numbers)
            for number in self.cancelled_by.keys() & shown:
                if self._revived(number, "queued", operation):
                    message = f"{number} was acknowledged as cancelled and was in the queue later"
                    evidence = (self.cancelled_by[number], operation)
                    yield Violation(Kind.REVIVED, message, (number,), evidence)
            first = next((self.place[number] for number in numbers if number in self.place), None)
            if first is not None:
                self.pending.append((first, operation))
            while arrived < len(arrivals) and arrivals[arrived][0] < operation.invoked:
                live.add(arrivals[arrived][1])
                arrived += 1
            for number in live - shown:
                self.gone.mark(self.place[number], operation)
            live &= shown

    def _misread_queue(
        self, operation: Operation, entries: tuple[Listed, ...], stored: dict[Listed, float]
    ) -> Iterator[Violation]:
        numbers = [entry[0] for entry in entries]
        if len(set(numbers)) < len(numbers):
            yield from _repeated("history number", numbers, operation)
        elif numbers != sorted(numbers):
            message = "the queue was shown out of order"
            yield Violation(Kind.REORDERED, message, tuple(numbers), (operation,))
        strangers = set(entries) - stored.keys()
        for number, num, _ in strangers:
            if (row := self.row.get(number)) is None:
                yield self._stranger(num, operation)
            else:
                message = f"{number} was shown otherwise than the store holds it"
                yield Violation(Kind.ALTERED, message, (number,), (row, operation))
        if entries and not strangers:
            latest = max(entries, key=stored.__getitem__)
            if stored[latest] > operation.completed:
                message = f"{latest[0]} was shown before it was sent"
                yield Violation(Kind.INVENTED, message, (latest[0],), (operation,))

    def _invoked(self, row: Row) -> float:
        asked = self.asked.get(row.num)
        return -math.inf if asked is None else asked.invoked

    # What the reads say together.

    def seen_and_not_seen(self) -> Iterator[Violation]:
        """Once done always done, and once out of the queue in the result list."""
        self.seen.spread()
        self.gone.spread()
        not_done: Iterable[tuple[int, Operation | None]] = self.pending
        # The snapshot is the last reader of all.
        for place, operation in itertools.chain(not_done, [(len(self.done), None)]):
            if place >= len(self.line):
                continue
            row = self.line[place]
            number = row.history_num
            invoked = math.inf if operation is None else operation.invoked
            in_queue = operation is not None and not isinstance(operation.request, ReadResults)
            if self.seen.times[place] < invoked:
                kind = Kind.IN_BOTH if in_queue else Kind.SHRUNK
                where = "in the queue" if in_queue else "not in the result list"
                message = f"{number} was seen done, and later {where}"
                evidence = _evidence(row, self.seen.operations[place], operation)
                yield Violation(kind, message, (number,), evidence)
            elif self.gone.times[place] < invoked:
                message = f"{number} was missing in the queue, and later it was not done"
                evidence = _evidence(row, self.gone.operations[place], operation)
                yield Violation(Kind.IN_NEITHER, message, (number,), evidence)

    def waits(self) -> Iterator[Violation]:
        """No task is seen done before its wait can be over; waits add up along the line.

        A task starts once it is asked for, no longer seen queued, and the one before is finished;
        it is finished a timeout later at the soonest, and not while a reader still sees it undone.
        In integers, since a float that sums up many waits would drift.
        """
        undone = [-math.inf] * len(self.line)
        for place, operation in self.pending:
            if place < len(self.line):
                undone[place] = max(undone[place], operation.invoked)
        allowance = math.ceil(self.epsilon * NANOSECONDS)
        finish: float = -math.inf
        for place, row in enumerate(self.line):
            if self.seen.times[place] == math.inf:
                return
            start = max(finish, _floor(self._invoked(row)), _floor(self.unstarted[place]))
            finish = start + row.timeout * (NANOSECONDS // MICROSECONDS)
            seen = math.ceil(self.seen.times[place] * NANOSECONDS)
            if seen + allowance < finish:
                early = (finish - seen) / NANOSECONDS
                message = f"{row.history_num} was seen done {early:.9f} s before it can have been"
                evidence = _evidence(row, self.seen.operations[place])
                yield Violation(Kind.EARLY, message, (row.history_num,), evidence)
            # Never later than it was seen: one that was early is told once, not with all after it.
            finish = min(max(finish, _floor(undone[place])), seen)

    def pauses(self) -> Iterator[Violation]:
        """While paused at most the head is finished, and nothing that was added meanwhile."""
        kind = Kind.STARTED_WHILE_PAUSED
        self.lists.sort(key=lambda each: each.operation.invoked)
        invoked = [each.operation.invoked for each in self.lists]
        for (begun, ended), pause in self._paused().items():
            within = [
                each
                for each in self.lists[bisect_right(invoked, begun) : bisect_left(invoked, ended)]
                if each.operation.completed < ended
            ]
            if within:
                least = min(within, key=lambda each: each.end)
                most = max(within, key=lambda each: each.shown)
                if most.shown > least.end + 1:
                    number = self.line[most.shown - 1].history_num
                    message = f"{most.shown - least.end} tasks were done during one pause"
                    evidence = _evidence(pause, least.operation, most.operation)
                    yield Violation(kind, message, (number,), evidence)
            times = self.seen.times
            for place in range(bisect_right(times, begun), bisect_left(times, ended)):
                row = self.line[place]
                if self._invoked(row) > begun:
                    message = f"{row.history_num} was added and done during one pause"
                    evidence = _evidence(pause, row, self.seen.operations[place])
                    yield Violation(kind, message, (row.history_num,), evidence)

    def _paused(self) -> dict[tuple[float, float], Operation]:
        """Give the times that were paused for certain: no resume can have been applied in them."""
        resumes = sorted(
            (math.inf if each.answer == "unknown" else each.completed, each.invoked)
            for each in self.operations[Resume]
            if each.answer != "refused"
        )
        completed = [each[0] for each in resumes]
        soonest = list(itertools.accumulate((each[1] for each in reversed(resumes)), min))[::-1]
        soonest.append(math.inf)
        first: dict[float, Operation] = {}
        for pause in self.operations[Pause]:
            ended = soonest[bisect_left(completed, pause.invoked)]
            if pause.answer == "ok" and pause.completed < ended:
                known = first.setdefault(ended, pause)
                if pause.completed < known.completed:
                    first[ended] = pause
        return {(pause.completed, ended): pause for ended, pause in first.items()}


def _differs(seen: Seen, row: Row) -> bool:
    return (
        (seen.num, seen.timeout) != (row.num, row.timeout / MICROSECONDS)
        or (seen.started_at is not None and seen.started_at != row.started_at)
        or (seen.finished_at is not None and seen.finished_at != row.finished_at)
    )


def _swapped(what: str, before: Row, after: Row) -> Violation:
    numbers = (before.history_num, after.history_num)
    message = f"{numbers[0]}, {numbers[1]}: {what}"
    return Violation(Kind.REORDERED, message, numbers, (before, after))


def _repeated(
    what: str, values: Iterable[int], operation: Operation | None = None
) -> Iterator[Violation]:
    for value, count in Counter(values).items():
        if count > 1:
            message = f"{what} {value} is there {count} times"
            numbers = (value,) if what == "history number" else ()
            yield Violation(Kind.DOUBLED, message, numbers, _evidence(operation))


def _gaps(what: str, numbers: Iterable[int]) -> Iterator[Violation]:
    for before, after in itertools.pairwise(itertools.chain([0], sorted(numbers))):
        if after != before + 1:
            message = f"{what} {before} is followed by {after}"
            yield Violation(Kind.GAP, message, (before, after))


def _floor(seconds: float) -> float:
    return math.floor(seconds * NANOSECONDS) if math.isfinite(seconds) else seconds


def _merged(ranges: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _meets(merged: list[tuple[float, float]], first: float, last: float) -> bool:
    index = bisect_left(merged, first, key=lambda each: each[1])
    return index < len(merged) and merged[index][0] <= last


def _count(history: History, run: _Run) -> Counts:
    windows = _merged(history.faults)
    answers = Counter[Answer]()
    judged, definite = Counter[bool](), Counter[bool]()
    reads = excused = 0
    for each in history.operations:
        read = isinstance(each.request, ReadQueue | ReadResults | ReadTask)
        answers[each.answer] += 1
        reads += read
        if _meets(windows, each.invoked, each.completed):
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
