"""The store on PostgreSQL: one queue in one schema, and this process as one of its nodes."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from uuid import uuid4

from sanic_app.clock import Clock
from sanic_app.errors import ServiceError, StartError
from sanic_app.store import Change, Commit, Lease, Sizes, Write
from sanic_app.store.isolation import WriteFailed, commit_isolated
from sanic_app.store.postgres import opening, schema
from sanic_app.store.postgres.changes import Changes
from sanic_app.store.postgres.committer import Committer
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.link import Link
from sanic_app.store.postgres.reads import PostgresReads
from sanic_app.store.postgres.servers import Servers
from sanic_app.store.transition import Limits
from sanic_app.task import Retention

PATIENCE = 10.0
START_SECONDS = 70.0
"""What a start may take: another node may be migrating."""

log = logging.getLogger(__name__)


class NoLease:
    """Nobody owns the queue alone: each commit takes a lock."""

    def release(self) -> None:
        """Do nothing."""


class PostgresStore(PostgresReads):
    """One queue in one schema."""

    shared = True

    def __init__(
        self,
        url: str,
        clock: Clock,
        idempotency_keep: int,
        queue_max: int = 2**62,
        *,
        name: str = "sanic_app",
        patience: float = PATIENCE,
        history_keep: Retention | None = None,
        now: Callable[[], str] = lambda: opening.NOW,
    ) -> None:
        """Take a URL, the lifetime of keys in microseconds, the limit, and the schema's name.

        ``patience`` is how many seconds a write waits for the server to come back, ``now`` what
        the server calls its time in microseconds, for tests.
        """
        self._servers = Servers(url, name)
        self._name = name
        self._node = uuid4()
        limits = Limits(idempotency_keep, queue_max, history_keep)
        reader, list_reader = Link(self._servers, "reader"), Link(self._servers, "lists")
        super().__init__(reader, list_reader, clock, limits, now)
        notice = self._note
        changes = Changes(self._servers, now, partial(notice, "reconnect"), self._stamps)
        self._committer = Committer(
            self._servers,
            self._node,
            limits,
            self._stamps,
            patience,
            now=now,
            notice=notice,
            known=lambda: changes.known,
        )
        self._changes = changes
        self.lineage = ""

    @property
    def engine(self) -> str:
        """The engine with its version, once that is known."""
        found = self._servers.found
        return f"postgresql {found.version.split()[0]}" if found else "postgresql"

    @property
    def up(self) -> bool:
        """Whether the server answers."""
        return self._changes.up

    @property
    def unknown(self) -> bool:
        """Whether a commit has no answer yet."""
        return self._committer.unknown

    async def own(self) -> NoLease:
        """Own nothing."""
        return NoLease()

    async def open(self, lease: Lease) -> None:
        """Connect, make or migrate the schema, and begin to follow what others commit."""
        prepare = partial(schema.prepare, name=self._name, node=self._node, limits=self._limits)
        try:
            found = await self._committer.link.run(prepare, START_SECONDS)
            self._committer.schema = found
            self.lineage = found.lineage
            number, figures = await self._committer.link.run(schema.newest, START_SECONDS)
        except StartError:
            raise
        except Lost as error:
            raise StartError(f"cannot use PostgreSQL at {self._servers.where}: {error}") from None
        except (ServiceError, WriteFailed) as error:
            raise StartError(f"cannot open the schema {self._name}: {error}") from error
        self._changes.begin(found, number, figures)
        if self._servers.found is not None and not self._servers.found.standbys:
            log.info("no synchronous standby: what is acknowledged is durable on one server alone")

    async def close(self) -> None:
        """Close every connection."""
        await self._changes.close()
        for link in (self._list_reader, self._reader, self._committer.link):
            await link.close()

    async def commit(self, lease: Lease, writes: Sequence[Write]) -> Commit:
        """Apply the writes in one transaction; one that fails alone is applied alone."""
        return await commit_isolated(writes, self._commit, self.overview)

    def end_patience(self) -> None:
        """Give up after a second what waits for the server."""
        self._committer.end_patience()

    async def maintain(self, lease: Lease) -> None:
        """Do nothing: the server cleans up by itself."""

    async def watch(self, lease: Lease) -> None:
        """Settle a commit that has no answer; what others change, ``changes`` sees."""
        await self._committer.settle()

    def changes(self) -> AsyncGenerator[Change, None]:
        """Yield what others have committed."""
        return self._changes.follow()

    def look(self) -> None:
        """Look soon for what others have committed."""
        self._changes.ring()

    def sizes(self) -> Sizes:
        """Return the size of the tables. The server's disk has metrics of its own."""
        return Sizes(self._changes.size, 0, math.nan)

    def _note(self, what: str) -> None:
        self.notice(what)

    async def _commit(self, writes: Sequence[Write]) -> Commit:
        commit, base, commit_num = await self._committer.commit(writes)
        figures = self._changes.committed(base, commit_num, commit.figures)
        started = commit.started
        if started is not None and started[0] != figures.head:
            started = None
        return commit._replace(figures=figures, started=started)
