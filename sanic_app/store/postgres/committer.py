"""One commit on PostgreSQL, until it is known whether it was applied."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from uuid import UUID

import psycopg

from sanic_app.errors import (
    DiskFull,
    OutcomeUnknown,
    StartError,
    StoreBusy,
    StoreFailed,
    StoreUnavailable,
)
from sanic_app.store import Commit, Figures, Write
from sanic_app.store.postgres.failures import CHANGED, REPLACED, WENT_BACK, Lost, failure
from sanic_app.store.postgres.link import Link
from sanic_app.store.postgres.outcome import warned, was_applied
from sanic_app.store.postgres.rows import PostgresRows, large, prepare
from sanic_app.store.postgres.schema import Schema, agreed
from sanic_app.store.postgres.servers import Connection, Servers
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Limits, Transition

COMMIT_SECONDS = 2.0
"""After so long without an answer the connection is given up, and the commit resolved."""
LAST_SECONDS = 1.0
"""How long a write waits for the server once a stop has begun, which takes at most some 4 s."""
RETRY_SECONDS = 0.1
"""The pause before another try."""

UNRESOLVED = (Lost, StoreBusy, DiskFull, StartError)
"""Why it could not be found out what became of a commit, but may be later."""

log = logging.getLogger(__name__)


class Made(NamedTuple):
    """A commit, and what the figures were read from."""

    commit: Commit
    base: int | None
    """The number of the state row that was found; None: others may have followed."""
    commit_num: int
    """The number of the state row after it."""


class Unanswered(Exception):
    """COMMIT was sent, and whether it was applied is not known."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made = made


class Committer:
    """Commits on a connection of its own."""

    schema: Schema
    """What the start found."""

    def __init__(
        self,
        servers: Servers,
        node: UUID,
        limits: Limits,
        stamps: Stamps,
        patience: float,
        *,
        now: Callable[[], str],
        notice: Callable[[str], None],
        known: Callable[[], tuple[int, Figures]],
    ) -> None:
        """Take where to connect, who this process is, and how many seconds a write waits.

        ``known`` returns the greatest commit that is known, and the state row after it.
        """
        self._servers = servers
        self._stamps = stamps
        self.link = Link(servers, "writer")
        self._node = str(node)
        self._limits = limits
        self._patience = patience
        # When all patience ends, because the service stops.
        self._latest = math.inf
        self._now = now
        # Called with ``applied``, ``repeated`` or ``absent`` when a commit was resolved.
        self._notice = notice
        self._known = known
        # The newest commit of this node.
        self._commit_num = 0
        # See ``PostgresRows.swept``.
        self._swept = 0
        # The connection that has the prepared statements.
        self._prepared: Connection | None = None
        self._unanswered: Made | None = None
        self._settling: asyncio.Task[None] | None = None

    def end_patience(self) -> None:
        """Give up after a second what waits for the server."""
        self._latest = min(self._latest, time.monotonic() + LAST_SECONDS)
        if self._settling is not None:
            self._settling.cancel()

    @property
    def unknown(self) -> bool:
        """Whether a commit has no answer yet."""
        return self._unanswered is not None

    async def settle(self) -> None:
        """Try to find out what became of a commit without an answer.

        Nobody may write any more: a load balancer leaves out a node that is not ready. A stop does
        not wait for it.
        """
        if self._unanswered is None or self._latest < math.inf:
            return
        self._settling = asyncio.create_task(self._settle())
        await asyncio.wait({self._settling})
        with suppress(*UNRESOLVED, asyncio.CancelledError):
            self._settling.result()

    async def commit(self, writes: Sequence[Write]) -> Made:
        """Apply the writes in one transaction, and again while nothing of it was applied.

        Raises:
            DiskFull, StoreUnavailable, WriteFailed: nothing is applied.
            OutcomeUnknown: whether they are applied is not known; other writes may follow.
            StoreFailed: nothing may be written any more.
        """
        end = time.monotonic() + self._patience
        seconds = COMMIT_SECONDS + large(writes)
        while True:
            if not self.link.connected and time.monotonic() >= self._latest:
                # The commit before has waited in vain, and the stop has no time for another one.
                raise StoreUnavailable
            try:
                await self._settle()
                return await self.link.run(partial(self._write, writes), seconds)
            except Unanswered as unanswered:
                self._unanswered = unanswered.made
                log.warning("the answer to a commit is missing: looking whether it was applied")
                made = await self._resolved(unanswered.made, end)
                if made is not None:
                    return made
                if self._is_over(end):
                    raise StoreUnavailable from None
            except (Lost, StoreBusy, StartError) as error:
                if self._is_over(end):
                    log.warning("the store is unavailable: %s", error)
                    raise StoreUnavailable from None
                await asyncio.sleep(RETRY_SECONDS)

    async def _resolved(self, made: Made, end: float) -> Made | None:
        """Return the commit if it was applied, None if it was not.

        Raises:
            OutcomeUnknown: that cannot be found out before the end.
        """
        while True:
            try:
                applied = await self._resolve()
            except UNRESOLVED:
                if self._is_over(end):
                    raise OutcomeUnknown from None
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if applied:
                self._notice("applied")
                # Others may have committed between.
                return made._replace(base=None)
            self._notice("absent" if self._is_over(end) else "repeated")
            return None

    async def _settle(self) -> None:
        """Resolve a commit whose callers have long been told that nobody knows."""
        if (applied := await self._resolve()) is not None:
            self._notice("applied" if applied else "absent")

    async def _resolve(self) -> bool | None:
        """Find out whether the commit without an answer was applied; None: there is none.

        Raises:
            Lost, StoreBusy, DiskFull, StartError: it cannot be found out now. Until then nothing
                else is committed.
        """
        if self._unanswered is None:
            return None
        number = self._unanswered.commit_num
        look = partial(was_applied, self.schema.lock, self._node, number)
        applied = await self.link.run(look, COMMIT_SECONDS)
        self._unanswered = None
        if applied:
            self._commit_num = number
            self._servers.floor = max(self._servers.floor, number)
        log.warning("the commit %d was %s", number, "applied" if applied else "not applied")
        return applied

    def _write(self, writes: Sequence[Write], connection: Connection) -> Made:
        schema = self.schema
        if self._prepared is not connection:
            prepare(connection)
            self._prepared = connection
        # Before the look: when this node was stopped behind it, others have gone on since.
        floor = self._servers.floor
        rows = PostgresRows(
            connection,
            schema.lock,
            writes,
            self._limits,
            stamps=self._stamps,
            now=self._now(),
            swept=self._swept,
        )
        opening = rows.opening
        if (opening.schema_number, opening.lineage) != schema:
            raise StoreFailed("other", REPLACED)
        if opening.agreed != agreed(self._limits):
            # Started while this one was cut off, so that it did not see it running.
            raise StoreFailed("other", "another node has other IDEMPOTENCY_KEEP or HISTORY_KEEP")
        if opening.commit_num < floor:
            raise StoreFailed("other", WENT_BACK)
        number, figures = self._known()
        if opening.commit_num == number and opening.figures != figures:
            raise StoreFailed("other", CHANGED)
        transition = Transition(rows, self._limits)
        results = [transition.apply(write) for write in writes]
        figures, changed = transition.end()
        number = opening.commit_num + changed
        commit = Commit(
            results, figures, transition.started, transition.prune_in, opening.lock_wait
        )
        made = Made(commit, opening.commit_num, number)
        if not changed:
            connection.execute("ROLLBACK")
            return made
        try:
            with warned(connection) as warnings:
                rows.write(figures, self._node, self._commit_num)
        except psycopg.Error as error:
            if error.sqlstate is None or isinstance(failure(error), Lost):
                raise Unanswered(made) from error
            raise
        if warnings:
            # The wait for a standby was ended: it is committed here, and perhaps nowhere else.
            raise Unanswered(made)
        self._commit_num, self._swept = number, rows.swept
        self._servers.floor = max(self._servers.floor, number)
        return made

    def _is_over(self, end: float) -> bool:
        return time.monotonic() >= min(end, self._latest)
