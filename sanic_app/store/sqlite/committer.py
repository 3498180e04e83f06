"""One commit on SQLite: all of it or nothing, and synced."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sanic_app.errors import DiskFull, StoreFailed
from sanic_app.store import Commit, Figures, Write
from sanic_app.store.sqlite import origin
from sanic_app.store.sqlite.checkpointer import Checkpointer
from sanic_app.store.sqlite.connections import Connections
from sanic_app.store.sqlite.disk import failure_of_write
from sanic_app.store.sqlite.rows import SqliteRows
from sanic_app.store.sqlite.watch import Watch
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Limits, Transition


class Committer:
    """Commits on the writer's connection, in its thread."""

    left: Figures
    """The state row as this process left it; the start sets it."""

    def __init__(
        self,
        connections: Connections,
        checkpointer: Checkpointer,
        watch: Watch,
        stamps: Stamps,
        limits: Limits,
    ) -> None:
        """Take the connections, not open yet, and what each commit has to keep."""
        self._connections = connections
        self._checkpointer = checkpointer
        self._watch = watch
        self._stamps = stamps
        self._limits = limits
        # What SQLite calls the state of the database in which the state row was found as left. It
        # calls it so until another connection commits.
        self._version: int | None = None

    async def commit(self, writes: Sequence[Write]) -> Commit:
        """Apply the writes in one transaction, and return when it is synced.

        Raises:
            WriteFailed, DiskFull, StoreBusy: nothing of it is applied.
            StoreFailed: nothing may be written any more.
        """
        try:
            return await self._commit(writes)
        except DiskFull:
            # The connection may have forgotten its pages, as it does after another's commit.
            self._watch.data_version = None
            # What fills the disk may be the WAL itself. Once it is copied into the database it
            # starts again from its beginning, and there is room: nobody need be refused.
            await self._checkpointer.checkpoint("PASSIVE")
            return await self._commit(writes)

    async def _commit(self, writes: Sequence[Write]) -> Commit:
        writer = self._connections.writer
        return await writer.run(self._or_nothing, writer.raw, writes)

    def _or_nothing(self, connection: sqlite3.Connection, writes: Sequence[Write]) -> Commit:
        try:
            return self._apply(connection, writes)
        except Exception as error:
            found = failure_of_write(error, self._watch.path)
            if not isinstance(found, StoreFailed) and connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error as second:
                    found = StoreFailed("io", str(second))
            if found is error:
                raise
            raise found from error

    def _apply(self, connection: sqlite3.Connection, writes: Sequence[Write]) -> Commit:
        left, checkpointer = self.left, self._checkpointer
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        wall = self._stamps.wall_after(left.last_stamp)
        rows = SqliteRows(connection, wall, left, alone=version == self._version)
        transition = Transition(rows, self._limits)
        self._version = version
        results = [transition.apply(write) for write in writes]
        figures, changed = transition.end()
        if changed:
            rows.put_figures(figures)
            if checkpointer.mark_due:
                origin.renew(connection)
        connection.execute("COMMIT" if changed else "ROLLBACK")
        if changed:
            checkpointer.mark_due = False
        self.left = figures
        # Not acknowledged before it is known that a restart will find it.
        self._watch.look()
        checkpointer.count(left, figures)
        return Commit(results, figures, transition.started, transition.prune_in)
