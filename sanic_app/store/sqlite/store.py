"""The store on SQLite: opening, committing and closing one database."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

from sanic_app.clock import Clock
from sanic_app.errors import DiskFull, ServiceError, StartError, StoreBusy
from sanic_app.store import Change, Commit, Lease, Sizes, Write
from sanic_app.store.isolation import commit_isolated
from sanic_app.store.sqlite.checkpointer import Checkpointer
from sanic_app.store.sqlite.committer import Committer
from sanic_app.store.sqlite.connections import Connections
from sanic_app.store.sqlite.disk import sizes
from sanic_app.store.sqlite.failures import explain, failure
from sanic_app.store.sqlite.file import prepare
from sanic_app.store.sqlite.lease import FileLease, real_path
from sanic_app.store.sqlite.reads import SqliteReads
from sanic_app.store.sqlite.watch import Watch
from sanic_app.store.transition import Limits
from sanic_app.task import SECOND, Retention

log = logging.getLogger(__name__)


class SqliteStore(SqliteReads):
    """One queue in one SQLite database."""

    shared = False
    up = True
    unknown = False

    def __init__(
        self,
        path: Path,
        clock: Clock,
        idempotency_keep: int,
        queue_max: int = 2**62,
        *,
        lease: FileLease | None = None,
        history_keep: Retention | None = None,
    ) -> None:
        """Take a path (links are followed), the lifetime of keys in microseconds, and the limit.

        ``lease`` is the owner's lock where the caller holds it already; ``history_keep`` is
        how much of the history stays, None for all of it.
        """
        self._path = real_path(path)
        limits = Limits(idempotency_keep, queue_max, history_keep)
        super().__init__(Connections(self._path), clock, limits)
        self._watch = Watch(self._path)
        self._checkpointer = Checkpointer(self._connections, self._watch)
        self._committer = Committer(
            self._connections, self._checkpointer, self._watch, self._stamps, limits
        )
        self._lease = lease
        self._recovered = False
        self.lineage = ""

    @property
    def engine(self) -> str:
        """The engine with its version."""
        return f"sqlite {sqlite3.sqlite_version}"

    async def own(self) -> FileLease:
        """Take the owner's lock beside the real path of the database."""
        if self._lease is None or self._lease.released:
            self._lease = FileLease(self._path)
        return self._lease

    async def open(self, lease: Lease) -> None:
        """Check, create or migrate, open, and recover."""
        owner = self._verify(lease)
        prepare(self._path)
        owner.hold()
        self._checkpointer.fit(self._path.parent)
        try:
            await self._open(owner)
            self.lineage = await self.read_lineage()
        except (sqlite3.Error, ServiceError) as error:
            # Left as it is: an orderly close would write.
            raise StartError(f"cannot open the database {self._path}: {explain(error)}") from None

    async def close(self) -> None:
        """Close the readers first, so that the writer's close finds itself alone."""
        await self._connections.close_readers()
        if self._connections.writable:
            # The close would checkpoint too, but ignore an I/O error.
            with suppress(DiskFull, StoreBusy):
                await self._checkpointer.checkpoint("PASSIVE")
        await self._connections.close_writer()
        self._watch.end()

    async def commit(self, lease: Lease, writes: Sequence[Write]) -> Commit:
        """Apply the writes in one transaction; one that fails alone is applied alone."""
        owner = self._verify(lease)
        if not self._connections.writable and not self._connections.closed:
            await self._open_late()
        await self._recover(owner)
        return await commit_isolated(writes, self._committer.commit, self.overview)

    def end_patience(self) -> None:
        """Do nothing: a disk is there, or the store has failed."""

    async def maintain(self, lease: Lease) -> None:
        """Checkpoint when the WAL has become long."""
        self._verify(lease)
        await self._checkpointer.maintain()

    async def watch(self, lease: Lease) -> None:
        """Look at the files, and ask SQLite whether another connection committed."""
        self._verify(lease)
        if not self._connections.writable:
            self._watch.look_closely()
            return
        writer = self._connections.writer
        try:
            await writer.run(self._watch.look_at_commits, writer.raw)
        except sqlite3.Error as error:
            raise failure(error) from error

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Yield nothing: nobody else commits."""
        nothing: tuple[Change, ...] = ()
        for change in nothing:
            yield change

    def look(self) -> None:
        """Do nothing."""

    def sizes(self) -> Sizes:
        """Return the bytes of the two files, and those that are free beside them."""
        return sizes(self._path)

    def _verify(self, lease: Lease) -> FileLease:
        if self._lease is None or lease is not self._lease:
            raise RuntimeError("this lease is not the owner's")
        return self._lease

    async def _open(self, owner: FileLease) -> None:
        try:
            self._watch.begin(owner)
            await self._connections.open()
            # To open a copy for the WAL may change its header.
            self._watch.note()
            await self._recover(owner)
        except DiskFull:
            self.opened_full = True
            log.warning("the disk is full: serving reads, adding nothing")

    async def _recover(self, owner: FileLease) -> None:
        """Recover once; from then on the WAL is there, and stays."""
        if self._recovered:
            return
        await self._checkpointer.recover()
        self._watch.begin(owner, *await self._connections.page_of("origin"))
        await self.watch(owner)
        self._committer.left = left = await self.figures()
        if ahead := self._stamps.follow(left.last_stamp):
            log.warning(
                "the last stamp is %.0f s ahead of the clock: until the clock has caught up, each"
                " restart waits the head's whole timeout anew",
                ahead / SECOND,
            )
        self._recovered = True

    async def _open_late(self) -> None:
        """Open for writing what could only be read so far."""
        try:
            await self._connections.open()
        except sqlite3.Error as error:
            raise failure(error) from error
        self._watch.note()
