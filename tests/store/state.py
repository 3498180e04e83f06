"""What a store holds, looked at from outside."""

from __future__ import annotations

from tests.parts import Opened


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


async def queued_numbers(store: Opened) -> list[int]:
    return [task.history_num for task in await store.queue()]


async def done_numbers(store: Opened) -> list[int]:
    return [task.history_num for task in await store.done()]
