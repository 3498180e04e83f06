"""Nodes in this process, on queues in PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from sanic_app.settings.values import PostgresUrl
from tests.postgres import Cluster
from tests.serving import Service, service

SLACK = 1.0
"""What a busy machine may add to a time."""


class Queue(NamedTuple):
    """Where nodes keep their queue."""

    cluster: Cluster
    name: str

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement in the queue's schema."""
        with psycopg.connect(self.cluster.url(), autocommit=True) as connection:
            connection.execute(f"SET search_path TO {self.name}")
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def node(queue: Queue, port: int = 0, **settings: Any) -> AsyncIterator[Service]:
    """Serve as one node; with ``port`` through a proxy."""
    url = queue.cluster.url()
    if port:
        url = url.replace(str(queue.cluster.port), str(port))
    settings = {"database_schema": queue.name, **settings}
    async with service(Path(), database=PostgresUrl(url), **settings) as served:
        yield served


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 10) -> float:
    """Return how many seconds it took until the condition holds."""
    begun = time.monotonic()
    while not await condition():
        assert time.monotonic() < begun + seconds, condition
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


async def depth(served: Service) -> int:
    """Return the depth of the queue as the node knows it, without asking the store."""
    return served.parts.queue.figures.depth


def times(task: dict[str, Any]) -> tuple[float, float]:
    """Return when a task was started and finished, in seconds."""
    started, finished = (seconds_of(task[name]) for name in ("date_started", "date_finished"))
    return started, finished


def seconds_of(date: str) -> float:
    """Return a published time in seconds."""
    return datetime.fromisoformat(date).timestamp()


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """Stop every process of the server."""
    assert cluster.process is not None
    children = cluster.children()
    for pid in (cluster.process.pid, *children):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in (*children, cluster.process.pid):
            os.kill(pid, signal.SIGCONT)


GRANTS = """
    GRANT USAGE ON SCHEMA {schema} TO {role};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
"""
"""As in RELIABILITY.md."""


def url_of(servers: Sequence[Cluster]) -> PostgresUrl:
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
    return PostgresUrl(f"postgresql://postgres@{hosts}/postgres")
