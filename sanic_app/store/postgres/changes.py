"""How a node learns what other nodes have committed.

It listens for their notifications, and looks at the state row anyway each 0.2 s. Its own commits it
announces in the same way: behind the commit, because a notification in it would hold a lock of the
whole cluster until the commit is durable, and on this connection, at most 50 times a second.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import psycopg

from sanic_app.errors import DiskFull, StartError, StoreBusy, StoreFailed
from sanic_app.store import Change, Figures, Overview
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres import reads, schema
from sanic_app.store.postgres.failures import CHANGED, REPLACED, WENT_BACK, Lost
from sanic_app.store.postgres.hosts import CONNECT_SECONDS
from sanic_app.store.postgres.link import Link, fetch
from sanic_app.store.postgres.servers import Connection, Servers
from sanic_app.store.reads import tasks
from sanic_app.store.stamps import Stamps
from sanic_app.task import Task

LOOK_SECONDS = 0.2
"""How often a node looks without a notification."""
PAUSE_SECONDS = 0.02
"""The least time between two looks."""
DEADLINE_SECONDS = 1.0
"""After so long without an answer the connection is given up."""
RETRY_SECONDS = 0.1
SIZE_SECONDS = 30.0
"""How often the size of the tables is asked for."""
FINISHED_MAX = 1_000
"""Finished tasks that one look reads."""

_FINISHED = """
    SELECT finish_num, history_num, num, timeout, created_at, outcome, started_at, finished_at
    FROM history WHERE finish_num > %s ORDER BY finish_num LIMIT %s
"""

# Not while somebody rewrites a table or an index: it would wait, and the look with it.
_SIZE = """
    SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
    WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND NOT EXISTS (
        SELECT 1 FROM pg_locks JOIN pg_class AS locked ON locked.oid = pg_locks.relation
        WHERE mode = 'AccessExclusiveLock' AND relnamespace = current_schema()::regnamespace
    )
"""

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """How far everybody in this process was told."""

    commit_num: int
    finish_num: int


class Look(NamedTuple):
    """What one look found; None for the rest when nothing has changed."""

    commit_num: int
    schema: schema.Schema
    overview: Overview
    finished: list[tuple[int, Task]]
    """With their finish numbers."""


class Changes:
    """Looks for commits of others, on a connection of its own."""

    known: tuple[int, Figures]
    """The greatest commit that listeners know of, perhaps without those before it, and the state
    row after it."""

    def __init__(
        self,
        servers: Servers,
        now: Callable[[], str],
        reconnected: Callable[[], None],
        stamps: Stamps,
    ) -> None:
        """Take where to connect, what the server calls its time, and the clock of the stamps.

        ``reconnected`` is called after each reconnect.
        """
        self._reconnected = reconnected
        self._stamps = stamps
        self._servers = servers
        self._link = Link(servers, "changes", self._greet)
        self._now = now
        self._wake, self._woken = socket.socketpair()
        for sock in (self._wake, self._woken):
            sock.setblocking(False)
        self._closed = False
        self._pid = 0
        # Set by the thread when another node has notified.
        self._notified = False
        self._announce = False
        self._looked_at = 0.0
        self._sized_at = -SIZE_SECONDS
        self.size = 0
        """What the queue takes on the server's disk, in bytes, not long ago."""
        self.seen = Seen(0, 0)
        self.up = False
        """Whether the last look was answered."""

    def begin(self, found: schema.Schema, commit_num: int, figures: Figures) -> None:
        """Begin behind a commit that everybody knows of."""
        self._schema = found
        self._channel = f"sanic_app_{found.number}"
        self.seen = Seen(commit_num, figures.last_finish_num)
        self.known = commit_num, figures
        self.up = True

    def committed(self, base: int | None, commit_num: int, figures: Figures) -> Figures:
        """Note a commit of this node, which found the commit ``base``; everybody is told of it.

        Returns the newest figures that are known: while the answer was on its way, or was missing,
        a look may have found later commits of others.
        """
        if commit_num >= self.known[0]:
            self.known = commit_num, figures
        if base == self.seen.commit_num:
            self.seen = Seen(commit_num, figures.last_finish_num)
        if commit_num != base:
            self._announce = True
        if commit_num != base or base != self.seen.commit_num:
            self.ring()
        return self.known[1]

    def ring(self) -> None:
        """Have it look soon."""
        with suppress(OSError):
            self._wake.send(b"\0")

    async def follow(self) -> AsyncGenerator[Change, None]:
        """Yield what others have committed, as soon as it is known.

        Raises:
            StoreFailed: the queue is another one, or was migrated by a newer service.
        """
        while not self._closed:
            look_behind = partial(self._look, self.seen.finish_num, self.known)
            try:
                if not self._link.connected:
                    # Apart, so that the first look has all its time and no more.
                    await self._link.run(_nothing, 2 * CONNECT_SECONDS)
                look = await self._link.run(look_behind, LOOK_SECONDS + DEADLINE_SECONDS)
            except (Lost, DiskFull, StoreBusy, StartError) as error:
                if self.up and not self._closed:
                    log.warning("PostgreSQL is unavailable: %s", error)
                self.up = False
                # Not without end, where the connection is refused at once.
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not self.up:
                log.info("PostgreSQL is back")
                self._reconnected()
            self.up = True
            change = self._change(look)
            if change is not None:
                yield change

    async def close(self) -> None:
        """Stop looking; may be called twice."""
        self._closed = True
        self.ring()
        await self._link.close()
        for sock in (self._wake, self._woken):
            sock.close()

    def _change(self, look: Look | None) -> Change | None:
        """Return what nobody was told yet, if there is something."""
        if look is None:
            return None
        if look.schema != self._schema:
            raise StoreFailed("other", REPLACED)
        if look.commit_num < self.known[0]:
            # Older than what a commit of this node has told meanwhile.
            self.ring()
            return None
        if look.commit_num == self.seen.commit_num:
            return None
        last, before = look.overview.figures.last_finish_num, self.seen.finish_num
        finished = [each for each in look.finished if each[0] > before]
        told = max(look.finished[-1][0] if look.finished else last, before)
        if told < last:
            self.ring()
        number = look.commit_num if told >= last else -1
        self.seen = Seen(number, told)
        self.known = look.commit_num, look.overview.figures
        self._servers.floor = max(self._servers.floor, look.commit_num)
        missing = told - before > len(finished)
        return Change(look.overview, [task for _, task in finished], missing, told)

    # In the thread of the connection.

    def _greet(self, connection: Connection) -> None:
        connection.add_notify_handler(self._heard)
        # Listen first, then look: nothing is missed.
        connection.execute(f"LISTEN {self._channel}")
        schema.present(connection)
        self._notified = True

    def _heard(self, notify: psycopg.Notify) -> None:
        if self._pid != notify.pid:
            self._notified = True

    def _look(self, after: int, known: tuple[int, Figures], connection: Connection) -> Look | None:
        self._pid = connection.info.backend_pid
        self._wait(connection)
        self._looked_at = time.monotonic()
        self._notified = False
        if self._announce:
            self._announce = False
            with suppress(psycopg.errors.ProgramLimitExceeded):
                # The queue of notifications is full when some session of the cluster has listened
                # in one transaction for weeks. The others look anyway.
                connection.execute(f"NOTIFY {self._channel}")
        asked = self._stamps.asking()
        rows = fetch(connection, reads.OVERVIEW.format(now=self._now()))
        if not rows:
            raise StoreFailed("corrupt", "the state row is missing")
        number, lineage, schema_number, compatible_from, shown, *values = rows[0]
        found = schema.Schema(schema_number, lineage)
        overview = reads.overview(values, shown, self._stamps, asked)
        if compatible_from > len(migrations("postgres")):
            raise StoreFailed("other", "the schema was migrated by a newer service")
        if number < known[0]:
            raise StoreFailed("other", WENT_BACK)
        if number == known[0] and overview.figures != known[1]:
            raise StoreFailed("other", CHANGED)
        if time.monotonic() > self._sized_at + SIZE_SECONDS:
            self._sized_at = time.monotonic()
            ((size,),) = fetch(connection, _SIZE)
            self.size = size or self.size
        if number == self.seen.commit_num and found == self._schema:
            return None
        rows = []
        if overview.figures.last_finish_num > after:
            rows = fetch(connection, _FINISHED, after, FINISHED_MAX)
        finished = zip((row[0] for row in rows), tasks([row[1:] for row in rows]), strict=True)
        return Look(number, found, overview, list(finished))

    def _wait(self, connection: Connection) -> None:
        """Wait for a notification, a ring, or the time to look."""
        pause = self._looked_at + PAUSE_SECONDS - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        if not self._notified and not self._announce:
            select.select([connection.fileno(), self._woken.fileno()], [], [], LOOK_SECONDS)
        with suppress(OSError):
            while self._woken.recv(4_096):
                pass


def _nothing(_: Connection) -> None:
    """Do nothing but connect."""
