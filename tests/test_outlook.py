"""What is read of the queue: as a whole, one task, when it is due, and whole lists."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sanic_app.errors import Gone, NotFound
from sanic_app.queue.outlook import Outlook, PlacedTask, placed
from sanic_app.store import Figures, Overview, Place
from sanic_app.task import SECOND, Retention, State, Task
from tests.fake_clock import PATIENCE, START, FakeClock
from tests.parts import Engine, new, service

HEAD = Task(1, 5, 500_000, 0, State.WAITING, 0)
NEXT = Task(2, 6, SECOND, 0, State.QUEUED)
PLACE = Place(
    Figures(2, 0, 0, 0, 2, 1_500_000, 0, 0, 1, 0, 0),
    now=7,
    position=1,
    wait=1_500_000,
    first_timeout=500_000,
)


# When a task is due: arithmetic alone.


def test_a_task_is_due_when_the_waits_before_it_and_its_own_are_over() -> None:
    assert placed(NEXT, PLACE, 0.25) == PlacedTask(NEXT, 1, 1.25, 1_250_007)
    first = PLACE._replace(position=0, wait=500_000)
    assert placed(HEAD, first, 0.25) == PlacedTask(HEAD, 0, 0.25, 250_007)


def test_in_a_pause_the_head_alone_is_due() -> None:
    paused = PLACE._replace(figures=PLACE.figures._replace(paused=1))
    assert placed(NEXT, paused, 0.25) == PlacedTask(NEXT, 1)
    first = paused._replace(position=0, wait=500_000)
    assert placed(HEAD, first, 0.25) == PlacedTask(HEAD, 0, 0.25, 250_007)


def test_without_a_head_nothing_is_due() -> None:
    stopped = PLACE.figures._replace(paused=1, head=None, head_started_at=None)
    assert placed(NEXT, PLACE._replace(figures=stopped), 0.0) == PlacedTask(NEXT, 1)


# The queue as a whole.


@pytest.mark.anyio
async def test_the_outlook_has_every_figure(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, history_keep=Retention(tasks=1)) as running:
        queue = running.queue
        await queue.add(new(0, 1, 3, 2, num=4))
        await queue.finish(1)
        clock.advance(1)
        await queue.finish(2)
        clock.advance(1)
        head = Task(3, 6, 3 * SECOND, START, State.WAITING, START + SECOND)
        assert await queue.view.outlook() == Outlook(2, 2.0, 4.0, False, head, 1)
        await queue.set_paused(paused=True)
        assert await queue.view.outlook() == Outlook(2, 2.0, 4.0, True, head, 1)
        await queue.finish(3)
        assert await queue.view.outlook() == Outlook(1, 4.0, 2.0, True, None, 2)


@pytest.mark.anyio
async def test_what_was_read_before_a_commit_is_shown_as_it_was_then(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(engine, clock) as running:
        queue = running.queue
        await queue.add(new(3, 2, num=5))
        clock.advance(1)
        whole, one = await running.store.overview(), await running.store.task(2)
        await queue.finish(1)
        clock.advance(9)

        async def overview() -> Overview:
            return whole

        async def task(_: int) -> tuple[Task, Place | None] | None:
            return one

        monkeypatch.setattr(running.store, "overview", overview)
        monkeypatch.setattr(running.store, "task", task)
        assert whole.head is not None
        assert await queue.view.outlook() == Outlook(2, 1.0, 4.0, False, whole.head, 0)
        assert (await queue.view.task(2)).seconds_until_due == 4.0


# One task.


@pytest.mark.anyio
async def test_a_task_is_shown_at_once_with_its_place(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock) as running, asyncio.timeout(PATIENCE):
        await running.queue.add(new(3, 2, num=5))
        clock.advance(1)
        second = Task(2, 6, 2 * SECOND, START, State.QUEUED)
        due_at = START + 5 * SECOND
        assert await running.queue.view.task(2) == PlacedTask(second, 1, 4.0, due_at)
        await running.queue.finish(1)
        done = await running.queue.view.task(1, wait=60)
        assert done == PlacedTask(done.task)
        assert done.task.state is State.DONE


@pytest.mark.anyio
async def test_who_waits_for_a_task_is_woken_by_its_finish_and_not_by_others(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running, asyncio.timeout(PATIENCE):
        await running.queue.add(new(3, 2))
        waiting = asyncio.create_task(running.queue.view.task(2, wait=60))
        await clock.until_asleep(60)
        await running.queue.finish(1)
        assert not waiting.done()
        await running.queue.finish(2)
        assert (await waiting).task.state is State.DONE
        assert running.failures == []


@pytest.mark.anyio
async def test_a_task_that_retention_removed_is_gone_and_a_later_one_is_not_there_yet(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock, history_keep=Retention(tasks=1)) as running:
        await running.queue.add(new(9, 9, 9))
        for number in (1, 3, 2):
            await running.queue.cancel(number)
        for number in (1, 3):
            with pytest.raises(Gone):
                await running.queue.view.task(number)
        with pytest.raises(NotFound) as missing:
            await running.queue.view.task(4)
        assert missing.value.detail == NotFound.no_task


@pytest.mark.anyio
async def test_a_look_at_the_head_tells_whether_it_is_still_the_head(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(engine, clock) as running:
        looks: list[bool] = []
        monkeypatch.setattr(running.store, "look", lambda: looks.append(True))
        await running.queue.add(new(3, 2))
        head = (await running.store.overview()).head
        assert head is not None
        assert await running.queue.view.is_head(head) is True
        assert looks == []
        await running.queue.finish(1)
        assert await running.queue.view.is_head(head) is False
        assert looks == [True]


# Whole lists.


def whole(texts: list[str]) -> Any:
    """Return the list of these slices, of which the last may be empty."""
    return json.loads(f"[{','.join(text for text in texts if text)}]")


@pytest.mark.anyio
async def test_whole_lists_end_where_they_were_when_they_began(
    engine: Engine, clock: FakeClock
) -> None:
    count = 12_000
    async with service(engine, clock) as running:
        await running.queue.add(new(*[0] * count))
        texts, later = [], None
        async for part in running.queue.view.whole_queue():
            texts.append(part.text)
            later = later or await running.queue.add(new(9))
        assert len(texts) > 1
        listed = whole(texts)
        assert [item["history_num"] for item in listed] == list(range(1, count + 1))
        for first in range(1, count, 1_000):
            await running.queue.finish(first)
        texts = [part.text async for part in running.queue.view.whole_result()]
        assert whole(texts) == list(range(count))
