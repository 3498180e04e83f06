"""The promises of the Store protocol: one test for each, which every engine has to pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sanic_app.errors import Internal, KeyReused, NotHead, NotOwner, QueueFull
from sanic_app.store import RUN_MAX, Add, Added, Done, Finish, Slice
from sanic_app.task import HISTORY_NUM_MAX, SECOND, NewTask, Retention, State, Task, date
from tests.fake_clock import START, FakeClock
from tests.parts import KEEP, Engine, Opened, new, opened

SLICE = 250
"""Rows in a slice of a whole list: short enough for other answers to come between."""

pytestmark = pytest.mark.anyio

TOO_LARGE = Add([NewTask(2**63, 0)])
"""An add that no engine can apply: its number does not fit."""


async def figures_agree_with_the_tables(store: Opened) -> None:
    """Check each figure of the state row against what the tables hold."""
    figures = await store.store.figures()
    queue, done = await store.queue(), await store.done()
    assert figures.depth == len(queue)
    assert figures.backlog == sum(task.timeout for task in queue)
    assert figures.oldest_created_at == (queue[0].created_at if queue else None)
    assert figures.head == (queue[0].history_num if queue else None)
    assert figures.head_started_at == (queue[0].started_at if queue else None)
    assert figures.last_finish_num == len(done)
    assert figures.last_history_num == len(queue) + len(done)
    assert figures.wait_sum == sum(task.timeout for task in (*done, *queue))
    assert figures.last_stamp >= max((task.created_at for task in queue), default=0)
    assert figures.last_stamp >= max((task.finished_at or 0 for task in done), default=0)
    assert (figures.paused, figures.pruned) == (0, 0)
    numbers = [task.history_num for task in (*done, *queue)]
    assert numbers == list(range(1, len(numbers) + 1))


# Adding.


async def test_an_empty_store_has_nothing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        assert await store.queue() == await store.done() == []
        assert (await store.store.overview()).head is None
        assert (await store.store.overview())[1] is None
        assert await store.task(1) is None
        await figures_agree_with_the_tables(store)


async def test_numbers_are_gapless_from_one_and_in_the_order_of_commits(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        assert (await store.add(3, num=7)).first == 1
        batch = await store.add(1, 2, 0, num=8)
        assert (batch.first, batch.last) == (2, 4)
        commit = await store.commit(Add(new(1, num=11)), Finish(9), Add(new(2, 3, num=12)))
        results = [result for result in commit.results if isinstance(result, Added)]
        assert [(each.first, each.last) for each in results] == [(5, 5), (6, 7)]
        assert [(task.history_num, task.num) for task in await store.queue()] == [
            (n, n + 6) for n in range(1, 8)
        ]


async def test_what_was_added_is_there_as_it_was_sent(engine: Engine, clock: FakeClock) -> None:
    tasks = [NewTask(2**63 - 1, 1), NewTask(-(2**63), 0), NewTask(0, 31_536_000 * SECOND)]
    async with opened(engine, clock) as store:
        await store.one(Add(tasks))
        assert [(task.num, task.timeout) for task in await store.queue()] == tasks
        assert {task.created_at for task in await store.queue()} == {START}


async def test_an_add_to_an_idle_queue_starts_its_first_task(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(3, 1, num=5)), Add(new(1)))
        first, second = commit.results
        assert first == Added(1, 2, START, started=True)
        assert second == Added(3, 3, START, started=False)
        assert commit.started == Task(1, 5, 3 * SECOND, START, State.WAITING, START)
        assert commit.figures == await store.store.figures()
        states = [(task.state, task.started_at) for task in await store.queue()]
        assert states == [(State.WAITING, START), (State.QUEUED, None), (State.QUEUED, None)]


async def test_adding_never_changes_the_head(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(3)
        before = await store.store.overview()
        for step in (1.0, -5_000.0, 1.0):
            clock.step_wall(step)
            commit = await store.commit(Add(new(0, 0)))
            assert commit.started is None
            assert (await store.store.overview())[1] == before[1]
        await figures_agree_with_the_tables(store)


async def test_created_at_never_decreases_whatever_the_wall_clock_does(
    engine: Engine, clock: FakeClock
) -> None:
    latest = 0
    async with opened(engine, clock) as store:
        for step in (0.0, 5.0, -3_600.0, 0.000001, 3_599.0, 10.0, -86_400.0, 0.5):
            clock.step_wall(step)
            latest = max(latest, clock.wall())
            assert (await store.add(1)).created_at == latest
        created = [task.created_at for task in await store.queue()]
    assert created == sorted(created)
    assert len(set(created)) == 3


async def test_stamps_survive_a_restart_with_the_clock_back(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(0)
        await store.finish_head()
    clock.step_wall(-1_000)
    async with opened(engine, clock) as store:
        assert (await store.add(1)).created_at == START


async def test_beyond_the_limit_an_add_is_refused_whole(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, queue_max=3) as store:
        await store.add(1, 1)
        refused, fits, full = (await store.commit(Add(new(1, 1)), Add(new(1)), Add(new(1)))).results
        assert isinstance(refused, QueueFull)
        assert fits == Added(3, 3, START, started=False)
        assert isinstance(full, QueueFull)
        await figures_agree_with_the_tables(store)
        # A finish in the same commit makes room for what comes behind it.
        commit = await store.commit(Finish(1), Add(new(1)))
        assert [type(each) for each in commit.results] == [Done, Added]


# Finishing.


async def test_a_finish_appends_removes_and_starts_the_next_in_one_commit(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(3, 2, num=5)
        clock.advance(3.5)
        commit = await store.commit(Finish(1))
        now = START + 3_500_000
        done = Task(1, 5, 3 * SECOND, START, State.DONE, START, now)
        head = Task(2, 6, 2 * SECOND, START, State.WAITING, now)
        assert commit.results == [Done([done])]
        assert commit.started == head
        assert await store.done() == [done]
        assert await store.queue() == [head]
        assert (await store.store.overview())[1] == head
        await figures_agree_with_the_tables(store)
        assert commit.figures == await store.store.figures()


async def test_the_finish_of_the_last_leaves_no_head(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        commit = await store.commit(Finish(1))
        assert commit.started is None
        assert commit.figures.head is None
        assert (await store.store.overview()).head is None
        await figures_agree_with_the_tables(store)
        # And the queue starts again with what comes next.
        assert (await store.add(1)).started


async def test_results_come_in_the_order_of_finishing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[1] * 20, num=100)
        for _ in range(20):
            clock.advance(1)
            await store.finish_head()
        assert [task.num for task in await store.done()] == list(range(100, 120))
        finished = [task.finished_at or 0 for task in await store.done()]
        assert finished == sorted(set(finished))
        started = [task.started_at for task in await store.done()]
        assert started[1:] == finished[:-1]


@pytest.mark.parametrize("clock_step", [0.0, -0.5, -3_600.0, 2.999999, 3.0, 10.0])
async def test_no_task_is_finished_early_even_when_the_clock_goes_back(
    engine: Engine, clock: FakeClock, clock_step: float
) -> None:
    async with opened(engine, clock) as store:
        await store.add(3, 1)
        clock.step_wall(clock_step)
        (done,) = await store.finish(1)
        assert done.finished_at == START + max(round(clock_step * SECOND), 3 * SECOND)
        # The store's time went on with it: the next one starts no earlier.
        assert (await store.store.overview())[1] == (await store.queue())[0]
        assert (await store.queue())[0].started_at == done.finished_at
        (second,) = await store.finish(2)
        assert second.finished_at is not None
        assert second.finished_at >= done.finished_at + SECOND
        await figures_agree_with_the_tables(store)


@pytest.mark.parametrize("number", [2, 3, 4, 0, -1, 10**6])
async def test_only_the_head_can_be_finished(engine: Engine, clock: FakeClock, number: int) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1, 1)
        await store.finish(1)
        before = await store.store.figures()
        with pytest.raises(NotHead):
            await store.finish(1 if number == 2 else number)
        assert await store.store.figures() == before
        assert len(await store.done()) == 1


async def test_nothing_can_be_finished_in_an_empty_queue(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        with pytest.raises(NotHead):
            await store.finish(1)
        with pytest.raises(NotHead):
            await store.finish(0)


async def test_a_second_finish_of_the_same_task_is_refused(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1)
        once, again = (await store.commit(Finish(1), Finish(1))).results
        assert isinstance(once, Done)
        assert isinstance(again, NotHead)
        with pytest.raises(NotHead):
            await store.finish(1)
        assert [task.history_num for task in await store.done()] == [1]


async def test_what_one_commit_adds_it_can_finish(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(1, num=5)), Finish(1), Add(new(2, num=6)))
        assert [type(each) for each in commit.results] == [Added, Done, Added]
        assert commit.started is not None
        assert (commit.started.history_num, commit.started.num) == (2, 6)
        # Never early, although the finish came at once: a commit is where time is taken.
        (done,) = await store.done()
        assert done.finished_at == START + SECOND
        await figures_agree_with_the_tables(store)


# Runs of zero timeouts.


@pytest.mark.parametrize(
    ("timeouts", "finished"),
    [
        ([0], 1),
        ([0, 0, 0], 3),
        ([0, 0, 1, 0], 2),
        ([0, 1], 1),
        ([1, 0, 0], 1),
        ([0.000001, 0], 1),
        ([0, 0.000001], 1),
    ],
)
async def test_a_run_of_zero_timeouts_finishes_together_and_nothing_else_does(
    engine: Engine, clock: FakeClock, timeouts: list[float], finished: int
) -> None:
    async with opened(engine, clock) as store:
        await store.add(*timeouts)
        clock.advance(5)
        tasks = await store.finish(1)
        assert [task.history_num for task in tasks] == list(range(1, finished + 1))
        assert await store.done() == tasks
        now = START + 5 * SECOND
        assert [task.finished_at for task in tasks] == [now] * finished
        # The first was started before; those behind it start and end in this commit.
        assert [task.started_at for task in tasks] == [START] + [now] * (finished - 1)
        queue = await store.queue()
        assert [task.state for task in queue[:1]] == [State.WAITING] * bool(queue)
        await figures_agree_with_the_tables(store)


@pytest.mark.parametrize("zeros", [RUN_MAX - 1, RUN_MAX, RUN_MAX + 1, 2 * RUN_MAX + 1])
@pytest.mark.parametrize("last", [0, 1])
async def test_a_run_has_at_most_a_thousand_tasks(
    engine: Engine, clock: FakeClock, zeros: int, last: int
) -> None:
    assert RUN_MAX == 1_000
    async with opened(engine, clock) as store:
        await store.add(*[0] * zeros, last)
        left = zeros + (last == 0)
        while left:
            tasks = await store.finish_head()
            assert len(tasks) == min(left, RUN_MAX)
            left -= len(tasks)
        assert len(await store.done()) == zeros + (last == 0)
        await figures_agree_with_the_tables(store)


async def test_a_run_takes_what_its_own_commit_added(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(0)), Add(new(0)), Finish(1), Add(new(0)), Finish(3))
        lengths = [len(each.tasks) for each in commit.results if isinstance(each, Done)]
        assert lengths == [2, 1]
        assert commit.started is None
        await figures_agree_with_the_tables(store)


# Writes and their neighbours.


async def test_a_write_that_fails_on_its_own_account_fails_alone(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(5)
        commit = await store.commit(
            Add(new(1, num=1)), TOO_LARGE, Finish(1), Finish(9), Add(new(2, num=2), "key", "r")
        )
        kinds = [type(each) for each in commit.results]
        assert kinds == [Added, Internal, Done, NotHead, Added]
        assert [task.num for task in await store.queue()] == [1, 2]
        assert commit.started is not None
        assert commit.started.history_num == 2
        assert commit.figures == await store.store.figures()
        await figures_agree_with_the_tables(store)
        assert (await store.add(2, num=2, key="key", request="r")).replayed


async def test_one_bad_task_takes_its_whole_add_and_no_number(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1)
        before = await store.store.figures()
        for bad in (NewTask(2**63, 0), NewTask(0, -1), NewTask(0, 2**63)):
            commit = await store.commit(Add([NewTask(1, 0), bad, NewTask(2, 0)], "key", "r"))
            assert [type(each) for each in commit.results] == [Internal]
        assert await store.store.figures() == before
        assert (await store.add(1)).first == 2
        assert not (await store.add(1, key="key", request="other")).replayed


async def test_a_head_that_was_started_and_finished_apart_is_not_reported(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        commit = await store.commit(Add(new(1)), TOO_LARGE, Finish(1))
        assert commit.started is None
        assert commit.figures.head is None


async def test_refusals_alone_change_nothing(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, key="key", request="r")
        before = await store.store.figures()
        clock.advance(9)
        writes = (Finish(2), Add(new(1), "key", "r"), Add(new(1), "key", "other"))
        commit = await store.commit(*writes)
        assert commit.figures == before
        assert await store.store.figures() == before
        assert commit.started is None


# Idempotency keys.


async def test_the_same_key_with_an_equal_request_answers_the_same(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        first = await store.add(2, 3, key="key", request="r")
        assert first == Added(1, 2, START, started=True, replayed=False)
        clock.advance(1)
        assert await store.add(2, 3, key="key", request="r") == first._replace(replayed=True)
        behind = await store.add(2, key="other", request="r")
        assert behind == Added(3, 3, START + SECOND, started=False)
        await store.finish(1)
        await store.finish(2)
        # As it was answered the first time, whatever has become of the tasks.
        assert await store.add(2, 3, key="key", request="r") == first._replace(replayed=True)
        assert await store.add(2, key="other", request="r") == behind._replace(replayed=True)
        assert len(await store.queue()) == 1


async def test_the_same_key_with_another_request_is_refused(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(2, key="key", request="r")
        with pytest.raises(KeyReused):
            await store.add(2, key="key", request="R")
        assert len(await store.queue()) == 1


async def test_keys_differ_by_every_character(engine: Engine, clock: FakeClock) -> None:
    keys = ["key", "Key", "key ", "key0", "k%", "k_", "~" * 255, "0", "00", "0.0", "é"]
    async with opened(engine, clock) as store:
        for number, key in enumerate(keys, 1):
            assert (await store.add(1, key=key, request="r")).first == number


async def test_a_key_works_for_its_neighbour_in_the_same_commit(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        first, same, other = (
            await store.commit(
                Add(new(1), "key", "r"), Add(new(1), "key", "r"), Add(new(1), "key", "other")
            )
        ).results
        assert first == Added(1, 1, START, started=True)
        assert same == Added(1, 1, START, started=True, replayed=True)
        assert isinstance(other, KeyReused)
        await figures_agree_with_the_tables(store)


async def test_a_refusal_stores_no_key(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, queue_max=1) as store:
        await store.add(1)
        with pytest.raises(QueueFull):
            await store.add(1, key="key", request="r")
        await store.finish(1)
        assert not (await store.add(1, key="key", request="other")).replayed


async def test_a_full_queue_still_answers_a_retry(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, queue_max=1) as store:
        await store.add(1, key="key", request="r")
        assert (await store.add(1, key="key", request="r")).replayed
        with pytest.raises(KeyReused):
            await store.add(1, key="key", request="other")


async def test_a_key_lives_until_its_time_after_the_last_of_its_tasks_is_over(
    engine: Engine, clock: FakeClock
) -> None:
    keep = KEEP / SECOND
    async with opened(engine, clock) as store:
        await store.add(0.5, 0.5, key="key", request="r")
        clock.advance(2 * keep)
        assert (await store.add(0.5, 0.5, key="key", request="r")).replayed
        await store.finish(1)
        clock.advance(2 * keep)
        assert (await store.add(0.5, 0.5, key="key", request="r")).replayed
        await store.finish(2)
        clock.advance(keep - 0.000001)
        assert (await store.add(0.5, 0.5, key="key", request="r")).replayed
        clock.advance(0.000001)
        # Over to the microsecond: the key is free, for another request too.
        again = await store.add(1, key="key", request="other")
        assert again == Added(3, 3, clock.wall(), started=True)
        assert (await store.add(1, key="key", request="other")).replayed


async def test_a_key_expires_by_the_clock_of_the_store(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, key="key", request="r")
        await store.finish(1)
        clock.step_wall(-10 * KEEP / SECOND)
        assert (await store.add(0, key="key", request="r")).replayed


async def test_many_keys_expire_and_are_free_again(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        for n in range(30):
            await store.add(0, key=f"key{n}", request="r")
        await store.finish_head()
        clock.advance(KEEP / SECOND)
        for n in range(30):
            assert not (await store.add(1, key=f"key{n}", request="new")).replayed
        for n in range(30):
            assert (await store.add(1, key=f"key{n}", request="new")).replayed


async def test_a_new_key_drives_out_none_that_still_lives(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, key="key", request="r")
        await store.finish(1)
        clock.advance(KEEP / SECOND / 2)
        await store.add(1, key="other", request="r")
        assert (await store.add(0, key="key", request="r")).replayed


async def test_keys_survive_a_restart(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        first = await store.add(1, key="key", request="r")
    async with opened(engine, clock) as store:
        assert await store.add(1, key="key", request="r") == first._replace(replayed=True)


# Figures.


async def test_the_figures_are_what_the_tables_hold(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        for step in range(12):
            clock.advance(0.7)
            if step == 5:
                clock.step_wall(-100)
            await store.add(*[0, 1.5, 0, 0.000001][: step % 4 + 1], num=step)
            await figures_agree_with_the_tables(store)
            await store.finish_head()
            await figures_agree_with_the_tables(store)
        while (await store.store.figures()).head is not None:
            await store.finish_head()
            await figures_agree_with_the_tables(store)


async def test_the_state_row_and_the_head_are_of_one_moment(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 2)
        clock.advance(1)
        await store.finish(1)
        figures, head, _ = await store.store.overview()
        assert figures == await store.store.figures()
        assert head == await store.task(2)


# The wait after a restart.


@pytest.mark.parametrize(
    ("down", "left"),
    [(0, 3.0), (1, 2.0), (2.999999, 0.000001), (3, 0.0), (9_999, 0.0), (-9_999, 3.0)],
)
async def test_after_a_restart_only_the_rest_of_the_wait_is_left(
    engine: Engine, clock: FakeClock, down: float, left: float
) -> None:
    async with opened(engine, clock) as store:
        await store.add(3, 8, num=5)
    clock.step_wall(down)
    async with opened(engine, clock) as store:
        overview = await store.store.overview()
        assert overview.head == Task(1, 5, 3 * SECOND, START, State.WAITING, START)
        assert overview.seconds_left == left


async def rest_of_wait(store: Opened) -> float:
    left = (await store.store.overview()).seconds_left
    assert left is not None
    return left


async def test_a_restart_does_not_start_the_head_again(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(3)
    for _ in range(3):
        clock.advance(0.5)
        async with opened(engine, clock) as store:
            assert (await store.queue())[0].started_at == START
    async with opened(engine, clock) as store:
        assert await rest_of_wait(store) == 1.5


async def test_the_rest_is_counted_by_stamps(engine: Engine, clock: FakeClock) -> None:
    """A finish may push the stamp ahead of the wall clock: the next wait starts there."""
    async with opened(engine, clock) as store:
        await store.add(5, 3)
        await store.finish(1)
        assert await rest_of_wait(store) == 3.0
        clock.advance(6)
        assert await rest_of_wait(store) == 2.0


# Reading.


async def test_a_task_is_in_exactly_one_place(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1, 1)
        for finished in range(4):
            states = [State.DONE] * finished + [State.WAITING, State.QUEUED, State.QUEUED]
            queue, done = await store.queue(), await store.done()
            assert [task.history_num for task in (*done, *queue)] == [1, 2, 3]
            assert [task.state for task in (*done, *queue)] == states[:3]
            for task in (*done, *queue):
                assert await store.task(task.history_num) == task
            if queue:
                await store.finish_head()


@pytest.mark.parametrize("number", [0, -1, 4, HISTORY_NUM_MAX])
async def test_what_was_never_added_is_nowhere(
    engine: Engine, clock: FakeClock, number: int
) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1, 1)
        await store.finish(1)
        assert await store.task(number) is None


@pytest.mark.parametrize(
    ("after", "limit", "pages"),
    [
        (0, 100, ([4, 5, 6], [1, 2, 3])),
        (0, 2, ([4, 5], [1, 2])),
        (1, 1, ([4], [2])),
        (4, 100, ([5, 6], [])),
        (6, 100, ([], [])),
        (HISTORY_NUM_MAX, 1, ([], [])),
    ],
)
async def test_pages_begin_behind_a_history_number(
    engine: Engine, clock: FakeClock, after: int, limit: int, pages: tuple[list[int], list[int]]
) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[1] * 6)
        for _ in range(3):
            await store.finish_head()
        queue = await store.store.queue_page(after, limit)
        results = await store.store.results_page(after, limit)
        found = [[task.history_num for task in page] for page in (queue, results)]
        assert tuple(found) == pages


async def whole(read: Any, until: int) -> tuple[list[Any], int]:
    """Return what all slices hold together, and how many there were."""
    items: list[Any] = []
    after: int | None = 0
    slices = 0
    while after is not None:
        part: Slice = await read(after, until)
        slices += 1
        assert part.last is None or part.last > after
        items += json.loads(f"[{part.text}]")
        after = part.last
    return items, slices


def item(task: Task) -> dict[str, Any]:
    seconds, micros = divmod(task.timeout, SECOND)
    return {
        "history_num": task.history_num,
        "date_created": date(task.created_at),
        "num": task.num,
        "timeout": task.timeout / SECOND if micros else seconds,
    }


async def test_whole_lists_have_everything_in_order(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        read = store.store
        assert await whole(read.queue_slice, 0) == ([], 1)
        assert await whole(read.results_slice, 0) == ([], 1)
        clock.advance(0.359203)
        await store.add(1, 0.1, 0.000001, 31_536_000, 1.5, 3, num=-3)
        await store.finish(1)
        await store.finish(2)
        assert await whole(read.results_slice, 6) == ([-3, -2], 1)
        items, _ = await whole(read.queue_slice, 6)
        assert items == [item(task) for task in await store.queue()]
        assert items[0]["date_created"] == "2026-11-18T11:06:40.359203Z"
        assert [type(each["timeout"]) for each in items] == [float, int, float, int]


async def test_whole_lists_end_at_the_number_they_were_asked_for(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[1] * 6, num=1)
        for _ in range(3):
            await store.finish_head()
        results, _ = await whole(store.store.results_slice, 2)
        assert results == [1, 2]
        queue, _ = await whole(store.store.queue_slice, 5)
        assert [each["history_num"] for each in queue] == [4, 5]
        assert await whole(store.store.queue_slice, 3) == ([], 1)


@pytest.mark.parametrize("count", [SLICE - 1, SLICE, SLICE + 1, 12_000])
async def test_a_long_list_comes_in_slices_without_doubles_or_gaps(
    engine: Engine, clock: FakeClock, count: int
) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[0] * count)
        queue, slices = await whole(store.store.queue_slice, count)
        assert [each["history_num"] for each in queue] == list(range(1, count + 1))
        assert slices == count // SLICE + 1
        while (await store.store.figures()).depth:
            await store.finish_head()
        assert (await whole(store.store.results_slice, count))[0] == list(range(count))


async def test_what_changes_between_slices_makes_no_doubles(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        await store.add(*[0] * 6_000)
        first = await store.store.queue_slice(0, 6_000)
        assert first.last == SLICE
        await store.add(*[0] * 50)
        for _ in range(6):
            await store.finish_head()
        second = await store.store.queue_slice(first.last, 6_000)
        assert second == Slice("", None)


# Owning, opening and closing.


async def test_everything_is_there_after_reopening(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 0, 2, num=5)
        await store.finish(1)
        before = (await store.store.figures(), await store.queue(), await store.done())
    clock.advance(1)
    async with opened(engine, clock) as store:
        assert (await store.store.figures(), await store.queue(), await store.done()) == before
        await store.finish_head()
        assert (await store.add(1)).first == 4
        await figures_agree_with_the_tables(store)


async def test_there_is_one_owner(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        with pytest.raises(NotOwner):
            await engine.store(clock).own()
        await store.add(1)
        store.lease.release()
        store.lease.release()
    (await engine.store(clock).own()).release()


async def test_writing_takes_the_lease_of_this_store(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        lease = store.lease

        class Other:
            def release(self) -> None: ...

        for call in (
            store.store.commit(Other(), [Add(new(1))]),
            store.store.open(Other()),
            store.store.maintain(Other()),
        ):
            with pytest.raises(RuntimeError):
                await call
        assert await store.queue() == []
        await store.store.commit(lease, [Add(new(1))])


async def test_a_store_that_is_not_open_says_so(engine: Engine, clock: FakeClock) -> None:
    store = engine.store(clock)
    with pytest.raises(RuntimeError):
        await store.figures()
    await store.close()
    await store.close()


async def test_maintenance_changes_nothing_that_can_be_read(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        for _ in range(3):
            await store.add(*[1] * 12_000)
            before = (await store.store.figures(), await store.queue())
            await store.store.maintain(store.lease)
            assert (await store.store.figures(), await store.queue()) == before


async def test_a_store_says_what_it_is_and_how_large(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        name, version = store.store.engine.split(" ")
        assert name.islower()
        assert version[0].isdigit()
        await store.add(1)
        sizes: Sequence[int] = store.store.sizes()
        assert all(size > 0 for size in sizes)
    store_again = engine.store(clock)
    assert store_again.sizes().database > 0


# What a listener has missed.


async def test_adds_are_found_by_number_in_both_tables(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(1, 1, 1, 1, 1)
        await store.cancel(3)
        clock.advance(1)
        await store.finish(1)
        found = await store.store.added(0, 9)
        assert found == [await store.task(number) for number in range(1, 6)]
        assert [task.history_num for task in await store.store.added(1, 4)] == [2, 3, 4]
        assert await store.store.added(5, 9) == []


async def test_finishes_are_found_in_their_order(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock, history_keep=Retention(tasks=3)) as store:
        await store.add(1, 1, 1, 1, 1)
        for number in (5, 2, 4, 1):
            await store.cancel(number)
        assert [task.history_num for task in await store.store.finished(0, 4)] == [2, 4, 1]
        assert [task.history_num for task in await store.store.finished(1, 3)] == [2, 4]
        assert [task.history_num for task in await store.store.finished(2, 3)] == [4]


async def test_a_pause_ends_a_run_of_zero_timeouts(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        await store.add(0, 0, 0, num=5)
        await store.switch(paused=True)
        assert [task.num for task in await store.finish_head()] == [5]
        assert [(task.num, task.state) for task in await store.queue()] == [
            (6, State.QUEUED),
            (7, State.QUEUED),
        ]
        await store.switch(paused=False)
        assert [task.num for task in await store.finish_head()] == [6, 7]
