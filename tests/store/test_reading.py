"""What every store promises to readers: a task, pages, whole lists, what a listener missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sanic_app.store import (
    Slice,
)
from sanic_app.task import HISTORY_NUM_MAX, SECOND, Retention, State, Task, date
from tests.fake_clock import FakeClock
from tests.parts import Engine, opened

pytestmark = pytest.mark.anyio

SLICE = 250
"""Rows in a slice of a whole list: short enough for other answers to come between."""


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
