"""Fills a queue and its history through the product's own store, no service running."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice, repeat
from pathlib import Path

from sanic_app.clock import SystemClock
from sanic_app.store import RUN_MAX, Add, Finish, Lease, Store, Write
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND, NewTask

CHUNK = 20_000
LONG = NewTask(5, 86_400 * SECOND)
AT_ONCE = NewTask(5, 0)


def fill(path: Path, *, results: int = 0, first: Sequence[NewTask] = (), waiting: int = 0) -> None:
    """Make a queue with so many results, then these tasks, then so many that wait for a day."""

    async def steps(store: Store, lease: Lease) -> None:
        await _add(store, lease, AT_ONCE, results)
        await _finish(store, lease, results)
        for start in range(0, len(first), CHUNK):
            await _commit(store, lease, [Add(first[start : start + CHUNK])])
        await _add(store, lease, LONG, waiting)

    asyncio.run(_with_store(path, steps))


async def _with_store(path: Path, steps: Callable[[Store, Lease], Awaitable[None]]) -> None:
    store = SqliteStore(path, SystemClock(), 86_400 * SECOND)
    lease = await store.own()
    await store.open(lease)
    try:
        await steps(store, lease)
    finally:
        await store.close()
        lease.release()


async def _add(store: Store, lease: Lease, task: NewTask, count: int) -> None:
    tasks = repeat(task, count)
    while chunk := tuple(islice(tasks, CHUNK)):
        await _commit(store, lease, [Add(chunk)])


async def _finish(store: Store, lease: Lease, count: int) -> None:
    """Finish the tasks from 1 to ``count``, all of timeout zero, in runs as the worker does."""
    heads = iter(range(1, count + 1, RUN_MAX))
    while chunk := tuple(islice(heads, CHUNK // RUN_MAX)):
        await _commit(store, lease, [Finish(head) for head in chunk])


async def _commit(store: Store, lease: Lease, writes: Sequence[Write]) -> None:
    commit = await store.commit(lease, writes)
    for result in commit.results:
        if isinstance(result, Exception):
            raise result
    await store.maintain(lease)
