"""Skipped tasks in blocks: what is before a number, and what may be forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanic_app.store import CANCEL_MAX, skipped
from sanic_app.store.migrations import migrations
from sanic_app.store.skipped import LEVELS, Block, blocks, passed
from sanic_app.store.sqlite import schema
from sanic_app.store.sqlite.file import prepare
from sanic_app.task import SECOND, State, Task
from tests.fake_clock import FakeClock
from tests.parts import SqliteEngine, count_rows, opened

NUMBERS = st.builds(
    lambda width, block, offset: max(width * block + offset, 1),
    st.sampled_from([width for _, width, _ in LEVELS]),
    st.integers(0, 70),
    st.integers(-2, 2),
)
"""Numbers at the borders of the blocks of each level."""


def task(number: int, timeout: int) -> Task:
    return Task(number, 0, timeout, 0, State.CANCELLED, None, 0)


def before(kept: Sequence[Block], number: int) -> tuple[int, int]:
    """Return how many tasks the blocks show before a number, and the sum of their timeouts."""
    found = [
        block
        for block in kept
        for level, width, group in LEVELS
        if block.level == level
        and number // group * group // width <= block.block < number // width
    ]
    return (
        sum(block.tasks for block in found),
        sum(block.seconds * SECOND + block.micros for block in found),
    )


@given(
    st.lists(st.builds(task, NUMBERS, st.integers(0, 2**62)), unique_by=lambda each: each[0]),
    NUMBERS,
    NUMBERS,
)
def test_what_is_skipped_between_two_numbers_can_be_told_when_the_rest_is_forgotten(
    tasks: list[Task], first: int, last: int
) -> None:
    first, last = sorted((first, last))
    ends = dict(passed(first))
    kept = [block for block in blocks(tasks) if block.block >= ends[block.level]]
    (count, waits), (passed_count, passed_waits) = before(kept, last), before(kept, first)
    between = [each for each in tasks if first <= each.history_num < last]
    assert count - passed_count == len(between)
    assert waits - passed_waits == sum(each.timeout for each in between)


@pytest.mark.parametrize("last", [1, 10**6, 2 * 10**7])
def test_a_place_reads_few_blocks(last: int) -> None:
    rows = sum(last // width - last // group * group // width for _, width, group in LEVELS)
    assert rows <= 3 * 63 + 20_000_000 // LEVELS[-1].width


def test_a_cancelled_range_is_hardly_more_rows_than_tasks() -> None:
    found = blocks(task(number, 1) for number in range(1_000, 1_000 + CANCEL_MAX))
    assert len(found) <= CANCEL_MAX + CANCEL_MAX // 64 + 2 + 2 + 2


@pytest.mark.anyio
async def test_what_the_front_has_passed_is_forgotten_little_by_little(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipped, "FORGET_MAX", 150)
    async with opened(SqliteEngine(tmp_path), clock) as store:
        await store.add(*[1] * 600)
        await store.cancel(2, 500)
        assert await count_rows(store.store, "skipped") == 499 + 8 + 1 + 1
        clock.advance(1)
        await store.finish(1)
        assert await count_rows(store.store, "skipped") == 509 - 150
        await store.cancel(550)
        assert await count_rows(store.store, "skipped") == 509 - 2 * 150 + 1 + 1
        assert await store.place(560) == (58, 59.0)
        for number in range(501, 550):
            clock.advance(1)
            await store.finish(number)
        assert await count_rows(store.store, "skipped") == 511 - 3 * 150
        await store.cancel(560)
        # What is left: tasks 550 and 560, nine blocks of 64, and one of each level above.
        assert await count_rows(store.store, "skipped") == 2 + 9 + 1 + 1
        assert await store.place(570) == (18, 19.0)


@pytest.mark.anyio
async def test_nothing_is_kept_that_an_empty_queue_has_passed(
    tmp_path: Path, clock: FakeClock
) -> None:
    engine = SqliteEngine(tmp_path)
    engine.begin_behind(LEVELS[-1].width - 201)
    async with opened(engine, clock) as store:
        added = await store.add(*[0] * 200)
        await store.cancel(added.first + 1, added.last)
        await store.finish(added.first)
        assert (await store.store.figures()).last_history_num == LEVELS[-1].width - 1
        assert await count_rows(store.store, "skipped") == 0


@pytest.mark.anyio
async def test_skipped_tasks_of_an_older_database_are_taken_over(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations("sqlite")
    (number,) = (each.number for each in steps if each.name.endswith("_skipped_blocks.sql"))
    timeout, total = 7 * SECOND + 3, 5_000
    gone = [number for number in range(2, total) if number % 7 and number % 4_096]
    engine = SqliteEngine(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(schema, "migrations", lambda _: steps[: number - 1])
        prepare(engine.path)
    with closing(sqlite3.connect(engine.path, isolation_level=None)) as connection:
        stamp = clock.wall()
        left = sorted({*range(1, total + 1)} - {*gone})
        connection.executemany(
            "INSERT INTO queue VALUES (?, 0, ?, ?, ?)",
            [(each, timeout, stamp, each * timeout) for each in left],
        )
        connection.executemany(
            "INSERT INTO history VALUES (?, 0, ?, ?, 'cancelled', NULL, ?, ?)",
            [(each, timeout, stamp, stamp, finish) for finish, each in enumerate(gone, 1)],
        )
        connection.executemany("INSERT INTO skipped VALUES (?, ?)", [(n, timeout) for n in gone])
        connection.execute(
            "UPDATE state SET last_history_num = :total, last_finish_num = :gone,"
            " last_stamp = :stamp, wait_sum = :total * :timeout, depth = :total - :gone,"
            " backlog = (:total - :gone) * :timeout, oldest_created_at = :stamp, head = 1,"
            " head_started_at = :stamp",
            {"total": total, "gone": len(gone), "stamp": stamp, "timeout": timeout},
        )
    async with opened(engine, clock) as store:
        for position, each in enumerate(left):
            assert await store.place(each) == (position, (position + 1) * timeout / SECOND)
        reader = store.store._connections.reader  # type: ignore[attr-defined]
        kept = await reader.execute_fetchall("SELECT * FROM skipped")
        assert [Block(*each) for each in kept] == blocks(task(each, timeout) for each in gone)


# The work of SQLite, counted in steps of its virtual machine: it needs no clock.

MANY = 20_000


async def work(tmp_path: Path, clock: FakeClock, cancelled: int) -> dict[str, int]:
    """Return what each read and write costs, after so many tasks were cancelled."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    costs: dict[str, int] = {}
    engine = SqliteEngine(tmp_path / str(cancelled))
    engine.path.parent.mkdir()
    async with opened(engine, clock) as store:
        await store.add(0, 0, 0, 0)
        await store.finish_head()
        await store.add(9, 9, 9)
        added = await store.add(*[1] * cancelled) if cancelled else None
        last = await store.add(*[1] * 3_000)
        if added is not None:
            for end in range(added.last, added.first, -CANCEL_MAX):
                await store.cancel(added.first, end)
        connections = store.store._connections  # type: ignore[attr-defined]
        for each in (connections.reader, connections.list_reader, connections.writer):
            await each.set_progress_handler(step, 1)

        def note(name: str) -> None:
            nonlocal steps
            costs[name], steps = steps, 0

        await store.store.task(last.last)
        note("task")
        await store.cancel(last.last)
        note("cancel")
        await store.cancel(last.first, last.last)
        note("cancel a range")
        for _ in range(4):
            clock.advance(9)
            await store.finish_head()
        steps = 0
        assert len(await store.store.results_page(3, 100)) == 5
        note("results page")
        await store.store.results_slice(3, 2**31)
        note("results slice")
    return costs


@pytest.mark.anyio
async def test_nothing_costs_more_when_many_were_cancelled(
    tmp_path: Path, clock: FakeClock
) -> None:
    few, many = await work(tmp_path, clock, 0), await work(tmp_path, clock, MANY)
    # The 63 rows of each level that a place reads, some 20 steps each.
    assert many.pop("task") <= few.pop("task") + 3 * 63 * 25
    for name, steps in few.items():
        assert many[name] <= steps * 1.2 + 200, name
