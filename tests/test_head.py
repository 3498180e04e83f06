"""The head where several nodes reckon its wait, and what a node makes of what others committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from sanic_app.errors import NotHead, OutcomeUnknown, StoreFailed, StoreUnavailable
from sanic_app.queue.head import HeadTimer, takeover
from sanic_app.queue.worker import FULL_PAUSE, LEARN_SECONDS, seconds_to_sleep
from sanic_app.queue.writer import Committed
from sanic_app.store import (
    Cancelled,
    Change,
    Commit,
    Done,
    Figures,
    Lease,
    Overview,
    Result,
    Write,
)
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND, Head, State, Task
from tests.fake_clock import START, FakeClock
from tests.parts import BareService, SqliteEngine, new, service, until

HEAD = Task(1, 5, 100 * SECOND, START, State.WAITING, START)
NEXT = Task(2, 6, 50 * SECOND, START, State.WAITING, START + 7)
FIGURES = Figures(2, 0, START, 0, 2, 150 * SECOND, START, 0, 1, START, 0)


def overview(head: Task | None, now: int = START) -> Overview:
    """Return a queue with this head."""
    number, started_at = (head.history_num, head.started_at) if head else (None, None)
    return Overview(FIGURES._replace(head=number, head_started_at=started_at), head, now)


def committed(
    clock: FakeClock, started: Task | None, *, left: Task | None = None, foreign: bool = False
) -> Committed:
    """Return a commit that took a second and started this head, or left that one."""
    figures = overview(started or left).figures
    now = clock.monotonic()
    return Committed(Commit([], figures, started), now - 1, now, foreign)


# Reckoning.


def test_a_node_leaves_a_head_to_its_keeper_for_a_while_that_grows_with_its_wait() -> None:
    for timeout, least in ((0, 0.25), (100 * SECOND, 0.35), (1_000 * SECOND, 1.25)):
        found = [takeover(timeout) for _ in range(300)]
        # Not all nodes at once: they are spread over a tenth of a second.
        assert least <= min(found) < least + 0.03
        assert least + 0.07 < max(found) <= least + 0.1


@pytest.mark.parametrize("shared", [True, False])
def test_the_head_of_an_earlier_process_has_the_rest_of_its_wait(
    clock: FakeClock, shared: bool
) -> None:
    clock.advance(9)
    timer = HeadTimer(clock, shared=shared)
    timer.begin(overview(HEAD, START + 30 * SECOND))
    assert timer.head is not None
    assert timer.head[:2] == (HEAD, 9 + 70)
    assert (timer.head.patience >= 0.35) is shared
    timer.begin(overview(None))
    assert (timer.remaining(), timer.overdue()) == (0.0, 0.0)


def test_a_wait_begins_at_the_end_of_the_own_commit_and_is_nobody_elses(clock: FakeClock) -> None:
    clock.advance(9)
    timer = HeadTimer(clock, shared=True)
    timer.follow(committed(clock, HEAD))
    assert timer.head == Head(HEAD, 109.0, 0.0)
    clock.advance(40)
    assert (timer.remaining(), timer.overdue()) == (60.0, 0.0)
    clock.advance(61.5)
    assert (timer.remaining(), timer.overdue()) == (0.0, 1.5)


def test_the_start_of_another_node_is_reckoned_once(clock: FakeClock) -> None:
    timer = HeadTimer(clock, shared=True)
    timer.follow(committed(clock, HEAD, foreign=True))
    first = timer.head
    assert first is not None
    assert first.deadline == 100.0
    assert 0.35 <= first.patience <= 0.45
    clock.advance(3)
    timer.follow(committed(clock, HEAD, foreign=True))
    assert timer.head is first
    # It was this node's own: the answer to the commit came behind the look.
    timer.follow(committed(clock, HEAD))
    assert timer.head == first._replace(patience=0.0)
    timer.follow(committed(clock, NEXT))
    assert timer.head == Head(NEXT, 53.0, 0.0)


async def woken(timer: HeadTimer) -> bool:
    """Return whether whoever waits for a change goes on."""
    waiting = asyncio.create_task(timer.changed(None))
    for _ in range(5):
        await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    return done


@pytest.mark.anyio
async def test_each_change_of_the_head_wakes_and_nothing_else_does(clock: FakeClock) -> None:
    timer = HeadTimer(clock, shared=True)
    assert not await woken(timer)
    for commit, wakes in (
        (committed(clock, HEAD, foreign=True), True),
        (committed(clock, HEAD, foreign=True), False),
        (committed(clock, HEAD), True),
        (committed(clock, None, left=HEAD), False),
        (committed(clock, NEXT), True),
        (committed(clock, None), True),
        (committed(clock, None), False),
    ):
        timer.follow(commit)
        assert await woken(timer) is wakes
    assert timer.head is None


def test_what_is_left_of_a_head_that_was_read(clock: FakeClock) -> None:
    timer = HeadTimer(clock)
    assert timer.seconds_left(1, START, 100 * SECOND, START + 30 * SECOND) == 70.0
    timer.follow(committed(clock, HEAD))
    clock.advance(10)
    # Of the head that it knows, by its own clock; of another one, by the store's.
    assert timer.seconds_left(1, START, 100 * SECOND, START + 30 * SECOND) == 90.0
    assert timer.seconds_left(2, START, 50 * SECOND, START + 30 * SECOND) == 20.0
    assert timer.seconds_left(None, START, 50 * SECOND, START) == 0.0
    assert timer.seconds_left(2, None, 50 * SECOND, START) == 0.0
    # How late another one was is not known.
    assert timer.lateness(NEXT, clock.monotonic() + 1_000) == 0.0


def test_another_nodes_head_is_finished_when_its_keeper_had_its_time() -> None:
    head = Head(HEAD, 10.0, 0.25)
    assert [seconds_to_sleep(head, now) for now in (9.0, 10.0, 10.25, 11.0)] == [1.25, 0.25, 0, 0]


# Following. What others have committed comes from the test; SQLite has no others.

Changes = asyncio.Queue[Change | Exception]


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Changes:
    """Return what tells the stores of the test of commits of others."""
    told: Changes = asyncio.Queue()

    async def follow(_: SqliteStore) -> AsyncGenerator[Change, None]:
        while True:
            change = await told.get()
            if isinstance(change, Exception):
                raise change
            yield change

    monkeypatch.setattr(SqliteStore, "changes", follow)
    monkeypatch.setattr(SqliteStore, "shared", property(lambda _: True))
    return told


def done(number: int, state: State = State.DONE) -> Task:
    return Task(number, number, 0, START, state, START, START)


@pytest.mark.anyio
async def test_listeners_are_told_of_the_commits_of_others_as_of_one(
    tmp_path: Path, clock: FakeClock, changes: Changes
) -> None:
    async with service(SqliteEngine(tmp_path), clock) as running:
        told: list[Committed] = []
        running.queue._writer._listeners.append(told.append)  # type: ignore[attr-defined]
        clock.advance(9)
        finished = [done(1), done(2), done(3, State.CANCELLED), done(4)]
        figures = FIGURES._replace(last_history_num=6, last_finish_num=4, depth=2, head=5)
        head = HEAD._replace(history_num=5)
        changes.put_nowait(Change(Overview(figures, head, START + 9), finished))
        await until(lambda: told)
        results: list[Result] = [Done(finished[:2]), Cancelled(finished[2:3]), Done(finished[3:])]
        expected = Commit(results, figures, head)
        assert told == [Committed(expected, 9.0, 9.0, foreign=True)]
        # Results are tuples, equal whatever their kind.
        assert [type(each) for each in told[0].commit.results] == [Done, Cancelled, Done]
        assert running.queue.figures == figures
        assert running.queue.timer.head is not None
        assert running.queue.timer.head[:2] == (head, 109.0)
        # What others did is counted there; the gauges are of all.
        assert running.metric("tasks_finished_total", outcome="done") == 0
        assert running.metric("queue_depth") == 2
        # A start that is known is none; without a head there is none.
        clock.advance(1)
        changes.put_nowait(Change(Overview(figures, head, START + 9), []))
        empty = figures._replace(head=None)
        changes.put_nowait(Change(Overview(empty, None, START + 9), []))
        await until(lambda: len(told) == 3)
        assert [each.commit.started for each in told[1:]] == [None, None]
        assert [each.begun for each in told[1:]] == [10.0, 10.0]
        assert running.queue.timer.head is None


@pytest.mark.anyio
async def test_after_the_stop_nobody_follows(
    tmp_path: Path, clock: FakeClock, changes: Changes
) -> None:
    async with service(SqliteEngine(tmp_path), clock) as running:
        await running.queue.stop()
        changes.put_nowait(Change(overview(HEAD), []))
        for _ in range(3):
            await asyncio.sleep(0)
        assert running.queue.figures.depth == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "kind"), [(StoreFailed("corrupt", "x"), "corrupt"), (ValueError("x"), "other")]
)
async def test_who_cannot_follow_any_more_fails_the_queue(
    tmp_path: Path, clock: FakeClock, changes: Changes, error: Exception, kind: str
) -> None:
    async with service(SqliteEngine(tmp_path), clock) as running:
        changes.put_nowait(error)
        await until(lambda: running.failures)
        assert running.queue.failed
        assert running.metric("store_errors_total", kind=kind) == 1


# Finishing where others may.


async def until_due(running: BareService, clock: FakeClock, patience: float) -> None:
    """Have a head of a second, which another node keeps, and let its time and the patience pass."""
    await running.queue.add(new(1, 50))
    assert running.queue.timer.head is not None
    running.queue.timer.head = running.queue.timer.head._replace(patience=patience)
    running.worker.start()
    await clock.until_asleep(1 + patience)
    clock.advance(1 + patience)


@pytest.mark.anyio
@pytest.mark.usefixtures("changes")
async def test_a_takeover_is_counted_and_an_own_finish_is_none(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with service(SqliteEngine(tmp_path), clock) as running:
        await until_due(running, clock, 0.25)
        await clock.until_asleep(50)
        assert running.metric("takeovers_total") == 1
        clock.advance(50)
        await clock.until_asleep(None)
        assert running.metric("takeovers_total") == 1
        assert await running.done() == [0, 1]


@pytest.mark.anyio
@pytest.mark.usefixtures("changes")
async def test_a_head_that_its_keeper_has_finished_is_left_until_that_is_learned_of(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(SqliteEngine(tmp_path), clock) as running:
        look = running.store.overview

        async def finished() -> Overview:
            return (await look())._replace(head=NEXT)

        monkeypatch.setattr(running.store, "overview", finished)
        await until_due(running, clock, 0.25)
        await clock.until_asleep(LEARN_SECONDS)
        assert running.metric("commit_seconds_count") == 1
        # Had it not been so, it would look again.
        monkeypatch.setattr(running.store, "overview", look)
        clock.advance(LEARN_SECONDS)
        await clock.until_asleep(50)
        assert await running.done() == [0]


@pytest.mark.anyio
@pytest.mark.usefixtures("changes")
@pytest.mark.parametrize(
    ("error", "pause"),
    [(NotHead, LEARN_SECONDS), (StoreUnavailable, FULL_PAUSE), (OutcomeUnknown, FULL_PAUSE)],
)
async def test_a_finish_that_others_or_nobody_answered_is_tried_again_a_while_later(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    error: type[NotHead | StoreUnavailable | OutcomeUnknown],
    pause: float,
) -> None:
    async with service(SqliteEngine(tmp_path), clock) as running:
        commit = running.store.commit

        async def refuse(lease: Lease, writes: Sequence[Write]) -> Commit:
            if error is not NotHead:
                raise error
            return (await commit(lease, []))._replace(results=[NotHead() for _ in writes])

        await running.queue.add(new(1, 50))
        monkeypatch.setattr(running.store, "commit", refuse)
        running.worker.start()
        await clock.until_asleep(1)
        clock.advance(1)
        for _ in range(2):
            await clock.until_asleep(pause)
            assert await running.done() == []
            clock.advance(pause)
        await clock.until_asleep(pause)
        monkeypatch.setattr(running.store, "commit", commit)
        clock.advance(pause)
        await clock.until_asleep(50)
        assert await running.done() == [0]
        assert running.deaths == []
