"""The real store against plain lists, under any order of events that hypothesis can think of.

On SQLite, crashes are copies: what a killed process leaves is what its two files hold at that
moment. A crash in the middle of a commit has any part of what the commit changed. On PostgreSQL,
two nodes have one queue, and connections are lost, before, in and after a commit.
``MODEL_EXAMPLES`` and ``MODEL_STEPS`` in the environment make it run longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sanic_app.errors import Internal
from sanic_app.store import Add, Cancel, CancelRange, Finish, Lease, SetPaused, Store, Write
from sanic_app.store.audit import faults
from sanic_app.store.postgres.snapshot import PostgresSnapshot
from sanic_app.store.postgres.store import PostgresStore
from sanic_app.store.snapshot import Snapshot
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.store.stamps import Stamps
from sanic_app.task import SECOND, NewTask, Retention, Task, seconds_left
from tests import postgres
from tests.fake_clock import FakeClock
from tests.model import KEEP, QUEUE_MAX, Model
from tests.proxy import Proxy

T = TypeVar("T")

NUMBERS = st.integers(-1, 60)

TIMEOUTS = st.sampled_from([0, 0, 0, 1, SECOND // 2, SECOND, 3 * SECOND])
TASKS = st.lists(st.builds(NewTask, st.integers(-(2**63), 2**63 - 1), TIMEOUTS), min_size=1)
KEYS = st.none() | st.sampled_from(["a", "b", "c"])
ADDS = st.builds(Add, TASKS, KEYS, st.sampled_from(["r", "s"]))
TOO_LARGE = st.just(Add([NewTask(2**63, 0)]))
TURNS = st.tuples(
    st.integers(0, 1), st.sampled_from(["", "", "", "idle", "before", "in", "after", "after"])
)
"""Which node commits, and when its connection is cut: see ``Proxy``."""
JUMPS = st.sampled_from([0.000001, 0.5, 1.0, 2.999999, 3.0, 11.0, 3_600.0])


class Compared(RuleBasedStateMachine):
    """A store beside the model: what can be read of it. An engine says how it is opened."""

    store: Store
    lease: Lease

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.model = Model()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(kept=st.none() | st.integers(1, 5))
    def begin(self, kept: int | None) -> None:
        self.model.kept = kept
        self.run(self._open())

    @property
    def history_keep(self) -> Retention | None:
        return None if self.model.kept is None else Retention(tasks=self.model.kept)

    async def _open(self) -> None:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError

    def _snapshot(self) -> AbstractContextManager[Snapshot]:
        raise NotImplementedError

    def _wall(self) -> int:
        """Return what the store takes for the time."""
        raise NotImplementedError

    def _queue(self) -> list[Task]:
        return self.run(self.store.queue_page(0, 10**6))

    @invariant()
    def the_tables_are_the_lists(self) -> None:
        model = self.model
        assert self._queue() == model.queue
        assert self.run(self.store.results_page(0, 10**6)) == model.done
        figures, head, now = self.run(self.store.overview())
        assert now == max(self._wall(), model.stamp)
        assert head == model.head
        assert (bool(figures.paused), figures.pruned) == (model.paused, model.pruned)
        assert figures.last_stamp == model.stamp
        assert figures.depth == len(model.queue)
        assert figures.backlog == sum(task.timeout for task in model.queue)
        assert figures.last_history_num == model.last
        assert figures.last_finish_num == len(model.history)
        assert figures.wait_sum == sum(task.timeout for task in (*model.history, *model.queue))

    @invariant()
    def the_lists_keep_the_promises(self) -> None:
        model = self.model
        everything = sorted((*model.history, *model.queue), key=lambda task: task.history_num)
        assert [task.history_num for task in everything] == list(range(1, model.last + 1))
        assert [task.created_at for task in everything] == sorted(
            task.created_at for task in everything
        )
        ends = [task.finished_at or 0 for task in model.history]
        assert ends == sorted(ends)
        for task in model.done:
            assert task.started_at is not None
            assert task.finished_at is not None
            assert task.finished_at >= task.started_at + task.timeout
            assert task.started_at >= task.created_at

    @rule(after=st.integers(-1, 60), limit=st.integers(1, 7), until=st.integers(0, 60))
    def read(self, after: int, limit: int, until: int) -> None:
        model, store = self.model, self.store
        for tasks, page in (
            (model.queue, store.queue_page),
            (model.done, store.results_page),
        ):
            behind = [task for task in tasks if task.history_num > after]
            assert self.run(page(after, limit)) == behind[:limit]
        part = self.run(store.results_slice(max(after, 0), until))
        within = [task for task in model.done if after < task.history_num <= until]
        assert json.loads(f"[{part.text}]") == [task.num for task in within]
        part = self.run(store.queue_slice(max(after, 0), until))
        within = [task for task in model.queue if after < task.history_num <= until]
        shown = [(each["history_num"], each["num"]) for each in json.loads(f"[{part.text}]")]
        assert shown == [(task.history_num, task.num) for task in within]
        known = {task.history_num: task for task in (*model.kept_history, *model.queue)}
        found = self.run(store.task(after))
        assert (found and found[0]) == known.get(after)

    @invariant()
    def the_places_are_those_of_the_list(self) -> None:
        wait = 0
        for position, task in enumerate(self.model.queue):
            wait += task.timeout
            found, place = self.run(self.store.task(task.history_num)) or (None, None)
            assert found == task
            assert place is not None
            assert (place.position, place.wait) == (position, wait)
            assert place.first_timeout == self.model.queue[0].timeout

    @rule()
    def look_at_the_rest_of_the_wait(self) -> None:
        overview = self.run(self.store.overview())
        head = self.model.head
        assert overview.head == head
        if head is None:
            assert overview.seconds_left is None
            return
        assert overview.seconds_left is not None
        now = max(self._wall(), self.model.stamp)
        assert overview.seconds_left == seconds_left(head.started_at or 0, head.timeout, now)
        assert 0 <= overview.seconds_left * SECOND <= head.timeout

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self._close())
            with self._snapshot() as tables:
                assert list(faults(tables)) == []
        self.runner.close()


class Machine(Compared):
    """What happens to any store. An engine adds what happens to it alone."""

    @rule(writes=st.lists(ADDS | TOO_LARGE, min_size=1, max_size=3), at=st.integers(0, 3))
    def add(self, writes: list[Write], at: int) -> None:
        """Adds in one commit, and sometimes the finish of the head between them."""
        if at < len(writes) and self.model.queue:
            writes.insert(at, Finish(self.model.queue[0].history_num))
        self._commit(writes)

    @rule(task=TASKS, key=KEYS)
    def add_one(self, task: list[NewTask], key: str | None) -> None:
        self._commit([Add(task[:1], key, "r")])

    @precondition(lambda self: self.model.queue)
    @rule()
    def finish(self) -> None:
        self._commit([Finish(self.model.queue[0].history_num)])

    @precondition(lambda self: self.model.queue)
    @rule(again=st.integers(1, 3))
    def finish_several(self, again: int) -> None:
        first = self.model.queue[0].history_num
        self._commit([Finish(first + n) for n in range(again)])

    @precondition(lambda self: self.model.queue)
    @rule(paused=st.booleans())
    def finish_in_the_commit_of_a_switch(self, paused: bool) -> None:
        self._commit([SetPaused(paused), Finish(self.model.queue[0].history_num)])

    @rule(number=NUMBERS)
    def finish_any(self, number: int) -> None:
        self._commit([Finish(number)])

    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        self._commit([Cancel(number)])

    @precondition(lambda self: self.model.queue)
    @rule(data=st.data(), finish=st.integers(0, 2))
    def cancel_of_the_queue(self, data: st.DataObject, finish: int) -> None:
        """A cancel of what is there, alone or in a race with the finish of the head."""
        queue = self.model.queue
        writes: list[Write] = [Cancel(data.draw(st.sampled_from(queue)).history_num)]
        if finish:
            writes.insert(finish - 1, Finish(queue[0].history_num))
        self._commit(writes)

    @rule(adds=ADDS, first=st.integers(0, 3), count=st.integers(0, 4))
    def cancel_beside_an_add(self, adds: Add, first: int, count: int) -> None:
        """A cancel of what its own commit adds, or of the head in front of that."""
        number = (self.model.queue[0].history_num if self.model.queue else 1) + first
        last = self.model.last + count
        self._commit([adds, Cancel(last), Cancel(number), CancelRange(last - 1, last + 1)])

    @rule(first=NUMBERS, count=st.integers(0, 10))
    def cancel_range(self, first: int, count: int) -> None:
        self._commit([CancelRange(first, first + count)])

    @rule(paused=st.booleans(), add=st.none() | ADDS)
    def switch(self, paused: bool, add: Add | None) -> None:
        self._commit([SetPaused(paused), *([] if add is None else [add])])

    @rule()
    def commit_nothing(self) -> None:
        self._commit([])

    @rule(seconds=JUMPS)
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=JUMPS)
    def clock_goes_back(self, seconds: float) -> None:
        self.clock.step_wall(-seconds)

    @rule()
    def restart(self) -> None:
        self.run(self._close())
        self.run(self._open())

    def _commit(self, writes: list[Write]) -> None:
        expected = self._expected(writes)
        head = self.model.head
        before = self.run(self.store.figures()).head
        commit = self.run(self.store.commit(self.lease, writes))
        found = [type(each) if isinstance(each, Exception) else each for each in commit.results]
        assert found == expected
        # Told exactly when another head was started.
        assert commit.started == (head if head and head.history_num != before else None)
        assert commit.figures == self.run(self.store.figures())

    def _expected(self, writes: list[Write]) -> list[object]:
        before = deepcopy(self.model)
        expected = self._expected_together(writes)
        if Internal in expected and len(writes) > 1:
            # One of them cannot be applied: each is committed by itself.
            self.model = before
            expected = [result for write in writes for result in self._expected_together([write])]
        return expected

    def _expected_together(self, writes: list[Write]) -> list[object]:
        return self.model.commit(writes, self._wall())


class SqliteMachine(Machine):
    """One database, and what a kill may leave of it."""

    store: SqliteStore

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model"))
        self.lives = 0
        self.stamps = Stamps(self.clock)

    @property
    def path(self) -> Path:
        return self.folder / str(self.lives) / "queue.db"

    async def _open(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.store = SqliteStore(
            self.path, self.clock, KEEP, QUEUE_MAX, history_keep=self.history_keep
        )
        self.stamps = Stamps(self.clock)
        self.stamps.follow(self.model.stamp)
        self.lease = await self.store.own()
        await self.store.open(self.lease)
        assert self.store.sizes().wal == 0

    async def _close(self) -> None:
        await self.store.close()
        self.lease.release()

    def _snapshot(self) -> AbstractContextManager[Snapshot]:
        return SqliteSnapshot(self.path)

    def _wall(self) -> int:
        return self.stamps.wall()

    def _expected_together(self, writes: list[Write]) -> list[object]:
        self.stamps.follow(self.model.stamp)
        return super()._expected_together(writes)

    @rule()
    def maintain(self) -> None:
        self.store._checkpointer._pages = 10**6
        self.run(self.store.maintain(self.lease))

    @rule()
    def crash(self) -> None:
        self._live_on(self._images())

    @rule(adds=ADDS, finish=st.booleans(), written=st.floats(0, 1))
    def crash_in_a_commit(self, adds: Add, finish: bool, written: float) -> None:
        """Any part of the commit's bytes may have reached the disk: all of it counts or none."""
        before, model = self._images(), deepcopy(self.model)
        writes: list[Write] = [adds]
        if finish and self.model.queue:
            writes.append(Finish(self.model.queue[0].history_num))
        self._commit(writes)
        after = self._images()
        assert after[0] == before[0], "a commit writes to the WAL alone"
        cut = round(written * len(after[1]))
        self._live_on((after[0], after[1][:cut] + before[1][cut:]))
        if written < 1 and self._queue() != self.model.queue:
            self.model = model
            self.stamps = Stamps(self.clock)
            self.stamps.follow(model.stamp)

    def _live_on(self, images: tuple[bytes, bytes]) -> None:
        """Go on in another folder with these two files, as after a crash."""
        self.run(self._close())
        self.lives += 1
        self.path.parent.mkdir()
        for path, content in zip(self._files(), images, strict=True):
            path.write_bytes(content)
        self.run(self._open())

    def _files(self) -> tuple[Path, Path]:
        return self.path, Path(f"{self.path}-wal")

    def _images(self) -> tuple[bytes, bytes]:
        # Reading a database that this process has open drops its locks: there is no one else.
        database, wal = (path.read_bytes() for path in self._files())
        return database, wal

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class PostgresMachine(Machine):
    """Two nodes of one queue: either may commit, and one of them loses its connections."""

    store: PostgresStore

    def __init__(self) -> None:
        super().__init__()
        self.cluster = postgres.shared()
        self.name = postgres.fresh_name()
        self.proxy = Proxy(self.cluster.port)
        self.nodes: list[PostgresStore] = []

    async def _open(self) -> None:
        self.nodes = [
            PostgresStore(
                url,
                self.clock,
                KEEP,
                QUEUE_MAX,
                name=self.name,
                history_keep=self.history_keep,
                now=lambda: f"{self.clock.wall()}::bigint",
            )
            for url in (self.proxy.url, self.cluster.url())
        ]
        # Each node lets time go on by its own clock while stamps are ahead of the server's.
        self.stamps = [Stamps(self.clock) for _ in self.nodes]
        for node in self.nodes:
            self.lease = await node.own()
            await node.open(self.lease)
        self.store = self.nodes[0]

    async def _close(self) -> None:
        for node in self.nodes:
            await node.close()

    def _snapshot(self) -> AbstractContextManager[Snapshot]:
        return PostgresSnapshot(self.cluster.url(), self.name)

    def _wall(self) -> int:
        shown = self.clock.wall()
        stamps = self.stamps[self.nodes.index(self.store)]
        return stamps.follow_server(shown, self.model.stamp, stamps.asking())

    @initialize(turns=st.lists(TURNS, min_size=12, max_size=12))
    def take_turns(self, turns: list[tuple[int, str]]) -> None:
        self.turns = cycle(turns)

    def _commit(self, writes: list[Write]) -> None:
        """Commit by either node: whatever becomes of a connection, it is applied once."""
        number, fault = next(self.turns)
        self.store = self.nodes[number]
        if fault == "idle":
            self.proxy.cut()
        else:
            self.proxy.on_commit = fault
        super()._commit(writes)
        # What changes nothing is rolled back.
        self.proxy.on_commit = ""

    def teardown(self) -> None:
        super().teardown()
        self.proxy.close()
        self.cluster.execute(f"DROP SCHEMA IF EXISTS {self.name} CASCADE")


EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "60"))
"""On SQLite; on PostgreSQL, a tenth of it."""


def _settings(examples: int, *phases: Phase) -> settings:
    return settings(
        max_examples=examples,
        phases=phases,
        stateful_step_count=int(os.environ.get("MODEL_STEPS", "25")),
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


limit = pytest.mark.timeout(60 + EXAMPLES)

TestModel = limit(SqliteMachine.TestCase)
TestModel.settings = _settings(EXAMPLES, *Phase)
TestModelOnPostgres = limit(PostgresMachine.TestCase)
# To make a failure smaller would take longer than the test may.
TestModelOnPostgres.settings = _settings(max(EXAMPLES // 10, 1), Phase.reuse, Phase.generate)
