"""A queue in simulated time, correct by construction, and clients that make histories of it."""

from __future__ import annotations

import heapq
import itertools
import random
from bisect import bisect_right
from collections.abc import Generator
from dataclasses import replace

from tests.proof.checker import Verdict, check
from tests.proof.history import (
    Add,
    Added,
    Cancel,
    History,
    Listed,
    Pause,
    ReadQueue,
    ReadResults,
    ReadTask,
    Results,
    Resume,
    Row,
    Seen,
    Snapshot,
)

EPOCH = 1_700_000_000_000_000
WAITS = (0.0, 0.0, 0.000_1, 0.002, 0.1)

Latencies = Generator[int, None, None]


class SimulatedQueue:
    """A correct queue in simulated time; each finish happens at its deadline and no later."""

    def __init__(self) -> None:
        self.now = 0
        self.paused = False
        self.queue: list[Row] = []
        self.history: list[Row] = []
        self.adds: dict[str, Added] = {}
        self.last = 0

    def advance(self, now: int) -> None:
        """Finish what is due until `now`, in microseconds."""
        while self.queue and self.queue[0].started_at is not None:
            deadline = self.queue[0].started_at - EPOCH + self.queue[0].timeout
            if deadline > now:
                break
            self.now = deadline
            self._finish(0, "done")
        self.now = now

    def add(self, request: Add) -> Added:
        if request.key in self.adds:
            return self.adds[request.key]
        first = self.last + 1
        for num, timeout in request.tasks:
            self.last += 1
            self.queue.append(Row(self.last, num, round(timeout * 1e6), self._stamp()))
        self._start()
        added = Added(first, self.last, self._stamp())
        if request.key is not None:
            self.adds[request.key] = added
        return added

    def cancel(self, request: Cancel) -> int | None:
        """Give the number of cancelled tasks; None when one task was asked for and is finished."""
        wanted = range(request.first, request.last + 1)
        found = [row.history_num for row in self.queue if row.history_num in wanted]
        for number in found:
            # A cancel may start the next task, so its row is another one by now.
            index = next(i for i, row in enumerate(self.queue) if row.history_num == number)
            self._finish(index, "cancelled")
        return len(found) if found or len(wanted) > 1 else None

    def pause(self, *, paused: bool) -> None:
        self.paused = paused
        self._start()

    def results(self, request: ReadResults) -> Results:
        done = [row for row in self.history if row.outcome == "done"]
        page = [row for row in done if row.history_num > request.after][: request.limit]
        return Results(
            tuple(row.num for row in page),
            tuple(row.history_num for row in page),
            tuple(row.finished_at for row in page if row.finished_at is not None),
        )

    def task(self, number: int) -> Seen | None:
        row = next((r for r in self.queue + self.history if r.history_num == number), None)
        if row is None:
            return None
        state = row.outcome or ("queued" if row.started_at is None else "waiting")
        return Seen(state, row.num, row.timeout / 1e6, row.started_at, row.finished_at)

    def snapshot(self) -> Snapshot:
        return Snapshot(tuple(self.queue), tuple(self.history))

    def _stamp(self) -> int:
        return EPOCH + self.now

    def _finish(self, index: int, outcome: str) -> None:
        row = self.queue.pop(index)
        self.history.append(
            replace(
                row,
                outcome="done" if outcome == "done" else "cancelled",
                finished_at=self._stamp(),
                finish_num=len(self.history) + 1,
            )
        )
        self._start()

    def _start(self) -> None:
        if self.queue and not self.paused and self.queue[0].started_at is None:
            self.queue[0] = replace(self.queue[0], started_at=self._stamp())


class Simulation:
    """Several clients at one service, one event after the other, the same for the same seed."""

    def __init__(self, seed: int, *, clients: int = 4, steps: int = 30) -> None:
        self.random = random.Random(seed)
        self.service = SimulatedQueue()
        self.history = History(clock=lambda: self.service.now / 1e6)
        self.nums = itertools.count(self.random.randrange(-5, 5))
        self.keys = map("key {}".format, itertools.count())
        self.tie = itertools.count()
        self.events: list[tuple[int, int, Latencies]] = []
        for number in range(clients):
            self._schedule(0, self._client(f"client {number}", steps))
        while self.events:
            now, _, client = heapq.heappop(self.events)
            self.service.advance(now)
            latency = next(client, None)
            if latency is not None:
                self._schedule(now + latency, client)
        self.service.pause(paused=False)
        self.service.advance(self.service.now + 30_000)
        self.snapshot = self.service.snapshot()

    def check(self, finishes: int = 0) -> Verdict:
        return check(self.history, self.snapshot, finishes=finishes)

    def _schedule(self, at: int, client: Latencies) -> None:
        heapq.heappush(self.events, (at, next(self.tie), client))

    def _latency(self) -> int:
        return self.random.choice((0, 1, 50, 700, 5_000))

    def _client(self, name: str, steps: int) -> Latencies:
        for _ in range(steps):
            dice = self.random.random()
            if dice < 0.45:
                yield from self._add(name)
            elif dice < 0.53:
                yield from self._cancel(name)
            elif dice < 0.57:
                yield from self._pause(name)
            elif dice < 0.72:
                yield from self._read_results(name)
            elif dice < 0.87:
                yield from self._read_queue(name)
            else:
                yield from self._read_task(name)
            yield self._latency()

    def _add(self, name: str) -> Latencies:
        size = self.random.choice((1, 1, 1, 1, 5))
        tasks = tuple((next(self.nums), self.random.choice(WAITS)) for _ in range(size))
        request = Add(tasks, next(self.keys) if self.random.random() < 0.3 else None)
        answered = False
        while not answered:
            operation = self.history.invoke(name, request)
            yield self._latency()
            fate = self.random.random()
            if fate < 0.05:
                self.history.refused(operation)
                answered = True
            elif fate < 0.08:
                # The answer is lost, and the add is applied now, later or never.
                self.history.unknown(operation)
                self._schedule(self.service.now + self._latency(), self._straggler(request))
                answered = request.key is None
            else:
                added = self.service.add(request)
                yield self._latency()
                self.history.ok(operation, added)
                answered = True

    def _straggler(self, request: Add) -> Latencies:
        if self.random.random() < 0.7:
            self.service.add(request)
        yield from ()

    def _cancel(self, name: str) -> Latencies:
        first = self.random.randint(max(1, self.service.last - 6), self.service.last + 2)
        request = Cancel(first, first + self.random.choice((0, 0, 0, 3)))
        operation = self.history.invoke(name, request)
        yield self._latency()
        count = self.service.cancel(request)
        yield self._latency()
        if self.random.random() < 0.05:
            self.history.unknown(operation)
        elif count is None:
            self.history.refused(operation)
        else:
            self.history.ok(operation, count)

    def _pause(self, name: str) -> Latencies:
        for request in (Pause(), Resume()):
            operation = self.history.invoke(name, request)
            yield self._latency()
            self.service.pause(paused=isinstance(request, Pause))
            yield self._latency()
            self.history.ok(operation)
            yield self._latency() * 4

    def _read_results(self, name: str) -> Latencies:
        after = self.random.choice((0, 0, self.random.randint(0, self.service.last + 1)))
        request = ReadResults(after, self.random.choice((None, None, 3)))
        operation = self.history.invoke(name, request)
        yield self._latency()
        results = self.service.results(request)
        yield self._latency()
        bare = after == 0 and self.random.random() < 0.5
        self.history.ok(operation, Results(results.nums) if bare else results)

    def _read_queue(self, name: str) -> Latencies:
        operation = self.history.invoke(name, ReadQueue())
        yield self._latency()
        # In pieces by key, up to the last number at the start: no snapshot of one moment.
        after, last = 0, self.service.last
        entries: list[Listed] = []
        size = self.random.choice((3, 500))
        while piece := self._piece(after, last, size):
            entries += ((row.history_num, row.num, row.timeout / 1e6) for row in piece)
            after = piece[-1].history_num
            yield self._latency()
        self.history.ok(operation, tuple(entries))

    def _piece(self, after: int, last: int, size: int) -> list[Row]:
        start = bisect_right(self.service.queue, after, key=lambda row: row.history_num)
        return [row for row in self.service.queue[start : start + size] if row.history_num <= last]

    def _read_task(self, name: str) -> Latencies:
        number = self.random.randint(1, self.service.last + 1)
        operation = self.history.invoke(name, ReadTask(number))
        yield self._latency()
        seen = self.service.task(number)
        yield self._latency()
        self.history.ok(operation, seen)
