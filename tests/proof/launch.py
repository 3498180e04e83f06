"""The service with one thing changed: smaller limits for proofs, broken promises for controls.

``python -m tests.proof.launch CHANGE ... <interpreter> -m sanic_app FLAG ...`` makes the changes
and then runs what follows ``sanic_app``, so that it can be put before any command of the service.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sanic_app.__main__ import main
from sanic_app.client import actions
from sanic_app.client.cursor import Result
from sanic_app.clock import SystemClock
from sanic_app.errors import DiskFull, StoreFailed
from sanic_app.http import connection
from sanic_app.http.blueprints import adding
from sanic_app.queue import TaskQueue
from sanic_app.queue.writer import Committed
from sanic_app.store import Add, Added, Commit, Figures, Write, retention, snapshot
from sanic_app.store.sqlite import checkpointer, connections, disk, failures, origin
from sanic_app.store.sqlite import lease as sqlite_lease
from sanic_app.store.sqlite import store as sqlite_store
from sanic_app.store.sqlite.committer import Committer
from sanic_app.task import NewTask, Retention
from tests.proof.launch_nodes import NODE_CHANGES, put

LAZY = 20
"""Of so many commits a lazy store makes one."""


def checkpoint_pages(pages: str) -> None:
    """Checkpoint more often than the service does, so that a short run has many."""
    put(checkpointer, "CHECKPOINT_PAGES", int(pages))


def lazy_commit(_: str) -> None:
    """Answer before the commit: what the next kill takes was acknowledged."""
    apply = Committer._apply
    begun = 0

    class Lazy:
        def __init__(self, raw: sqlite3.Connection) -> None:
            self._raw = raw

        def execute(self, sql: str, *values: Any) -> Any:
            nonlocal begun
            if sql == "BEGIN IMMEDIATE":
                begun += 1
                sql = "SELECT 1" if self._raw.in_transaction else sql
            elif sql in ("COMMIT", "ROLLBACK"):
                # A commit that changes nothing is rolled back, but not those before it.
                sql = "SELECT 1" if begun % LAZY else "COMMIT"
            return self._raw.execute(sql, *values)

    def lazily(self: Committer, raw: Any, writes: Sequence[Write]) -> Commit:
        lazy: Any = Lazy(raw)
        return apply(self, lazy, writes)

    put(Committer, "_apply", lazily)


def unsynced(_: str) -> None:
    """Do not sync each commit (``synchronous=NORMAL``): a power cut takes what was acknowledged."""
    configure = connections._configure_writer

    def weaken(raw: sqlite3.Connection) -> None:
        configure(raw)
        raw.execute("PRAGMA synchronous = NORMAL")

    put(connections, "_configure_writer", weaken)


def no_recovery(_: str) -> None:
    """Write behind the frames of an earlier process, of which some may never reach the disk."""

    async def nothing(_: checkpointer.Checkpointer) -> None:
        return

    put(checkpointer.Checkpointer, "recover", nothing)


def _sort_failures(failure: Callable[[Exception], Exception]) -> None:
    for module in (sqlite_store, disk):
        put(module, "failure", failure)


def going_on(_: str) -> None:
    """Take an I/O error for a full disk, and try again."""
    failure = failures.failure

    def lenient(error: Exception) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) or 0
        return DiskFull() if code & 0xFF == sqlite3.SQLITE_IOERR else failure(error)

    _sort_failures(lenient)


def strict(_: str) -> None:
    """Take a full disk for an I/O error: the service ends instead of serving reads."""
    failure = failures.failure

    def harsh(error: Exception) -> Exception:
        result = failure(error)
        if isinstance(result, DiskFull):
            return StoreFailed("full", "the disk is full")
        return result

    _sort_failures(harsh)


def forgetful(_: str) -> None:
    """Remove one finished task more than retention allows."""
    prune = retention.prune

    def more(rows: Any, keep: Retention, figures: Figures) -> tuple[int, float | None]:
        return prune(rows, Retention((keep.tasks or 0) - 1), figures)

    put(retention, "prune", more)


def wall_clock(_: str) -> None:
    """Wait by the wall clock: a step of it makes a task early or stuck."""
    put(SystemClock, "monotonic", lambda _: time.time())


def no_marks(_: str) -> None:
    """Take any WAL for that of the database beside it."""
    put(origin, "belongs", lambda *_: True)


def no_lock(_: str) -> None:
    """Take no lock: everybody is the owner."""
    put(sqlite_lease, "lock", lambda _: None)


def patient(_: str) -> None:
    """Wait for slow clients without limit."""
    for name in ("REQUEST_SECONDS", "IDLE_SECONDS", "UNREAD_SECONDS"):
        put(connection, name, 86_400)


def blocking_commit(_: str) -> None:
    """Commit in the event loop: while a commit stalls, nothing else is served."""

    async def run(self: Any, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def connect(self: Any, configure: Callable[[sqlite3.Connection], None]) -> Any:
        async def opened() -> Any:
            def open_anywhere() -> sqlite3.Connection:
                raw = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                configure(raw)
                return raw

            result = connections.Connection(open_anywhere, iter_chunk_size=64)
            await result
            return result

        return opened()

    put(connections.Connections, "_connect", connect)
    put(connections.Connection, "run", run)


def handlers_commit(_: str) -> None:
    """Let each handler commit for itself: a client that goes takes the rest of its add along."""
    turn = asyncio.Lock()

    async def add(
        self: TaskQueue, tasks: Sequence[NewTask], key: str | None = None, request: str = ""
    ) -> Added:
        assert self._lease is not None
        async with turn:
            commit = await self._store.commit(self._lease, [Add(tasks, key, request)])
            self._writer.figures = commit.figures
            now = time.monotonic()
            for listener in self._writer._listeners:
                listener(Committed(commit, now, now))
        (result,) = commit.results
        assert isinstance(result, Added)
        return result

    put(TaskQueue, "add", add)


def lax_parsing(_: str) -> None:
    """Take a body as it comes: what is no task ends in an accident."""

    def parse(body: bytes, _: int) -> NewTask:
        fields = json.loads(body)
        return NewTask(fields["num"], int(fields["timeout"] * 1_000_000))

    put(adding, "parse_new_task", parse)


def eager_cursor(_: str) -> None:
    """Let a follower remember a number before its command has run."""
    deal_with = actions.Command.deal_with

    def eager(self: actions.Command, result: Result, done: actions.Done) -> None:
        done()
        deal_with(self, result, done)

    put(actions.Command, "deal_with", eager)


def piecemeal(_: str) -> None:
    """Let a copy to PostgreSQL be seen while it is made, one table after the other."""
    from sanic_app.store.postgres import target  # noqa: PLC0415 - not each service has the driver

    empty, fill = target.PostgresTarget.empty, target.PostgresTarget.fill

    def under_its_name(self: Any) -> None:
        self._new = self._schema
        empty(self)

    def apart(self: Any, *args: Any) -> None:
        def committed(*args: Any) -> Any:
            for name, table, rows in snapshot.rows_of(*args):
                self._connection.execute("COMMIT; BEGIN")
                if name != "state":
                    self._connection.execute(f"TRUNCATE {name}")
                yield name, table, rows

        put(target, "rows_of", committed)
        fill(self, *args)

    put(target.PostgresTarget, "empty", under_its_name)
    put(target.PostgresTarget, "fill", apart)


CHANGES: dict[str, Callable[[str], None]] = NODE_CHANGES | {
    change.__name__: change
    for change in (
        *(checkpoint_pages, lazy_commit, unsynced, no_recovery, going_on, strict, wall_clock),
        *(forgetful, no_lock, no_marks, patient, blocking_commit, handlers_commit, lax_parsing),
        *(eager_cursor, piecemeal),
    )
}


def launch(arguments: Sequence[str]) -> int:
    """Make the changes and run the service with the flags behind ``sanic_app``."""
    place = list(arguments).index("sanic_app")
    for change in arguments[: place - 2]:
        name, _, value = change.partition("=")
        CHANGES[name](value)
    return main(arguments[place + 1 :])


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
