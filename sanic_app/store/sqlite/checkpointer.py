"""When the WAL is copied into the database.

SQLite's automatic checkpoint is off, because it ignores I/O errors.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from sanic_app.errors import StoreBusy
from sanic_app.store import Figures
from sanic_app.store.sqlite import origin
from sanic_app.store.sqlite.connections import Connections
from sanic_app.store.sqlite.disk import failure_of_write
from sanic_app.store.sqlite.failures import IN_USE
from sanic_app.store.sqlite.watch import Watch

PAGE_BYTES = 4_096
CHECKPOINT_PAGES = 1_000
"""A checkpoint runs between commits after about so many pages were written to the WAL."""
WAL_SHARE = 8
"""It runs sooner when they take this part of a small file system: the database must grow too."""


class Checkpointer:
    """Knows how much the WAL holds, and checkpoints on the writer's connection."""

    def __init__(self, connections: Connections, watch: Watch) -> None:
        """Take the connections, not open yet, and the watch over the files."""
        self._connections = connections
        self._watch = watch
        self.mark_due = False
        """Whether the next commit renews the mark: all before it is in the database."""
        self._pages = 0
        self._pages_max = CHECKPOINT_PAGES

    def fit(self, folder: Path) -> None:
        """Keep the WAL small on a small file system."""
        # Some file systems do not say how large they are.
        share = 0
        with suppress(OSError):
            share = shutil.disk_usage(folder).total // PAGE_BYTES // WAL_SHARE
        self._pages_max = min(share, CHECKPOINT_PAGES) or CHECKPOINT_PAGES

    def count(self, before: Figures, after: Figures) -> None:
        """Note what a commit wrote.

        SQLite tells nobody how long the WAL is, and the file's length says only how long it was at
        most. So this is an estimate: the state row, the ends of the tables, and the rows. A finish
        writes three.
        """
        added = after.last_history_num - before.last_history_num
        finished = after.last_finish_num - before.last_finish_num
        self._pages += 4 + (added + 3 * finished) // 32

    async def recover(self) -> None:
        """Put what an earlier process left in the WAL into the database, before any write.

        If an earlier commit in the WAL never reached the disk, the WAL ends there after a power
        cut, whatever was synced behind it. So nothing is written behind an earlier process's
        frames.

        Raises:
            as ``checkpoint``.
        """
        await self.checkpoint("TRUNCATE")
        await self._begin()
        await self.checkpoint("TRUNCATE")

    async def _begin(self) -> None:
        """Mark the database: no copy of its file as it was has this mark."""
        writer = self._connections.writer
        try:
            await writer.run(origin.begin, writer.raw)
        except sqlite3.Error as error:
            raise failure_of_write(error, self._watch.path) from error
        finally:
            # A cookie that another program has changed is mended in the database itself.
            self._watch.note()

    async def maintain(self) -> None:
        """Checkpoint when the WAL has become long.

        Raises:
            as ``checkpoint``.
        """
        if self._pages >= self._pages_max:
            self._pages = 0
            await self.checkpoint("PASSIVE")

    async def checkpoint(self, mode: str) -> None:
        """Copy the WAL into the database.

        Raises:
            DiskFull, StoreFailed: it could not be copied, or the database is not ours any more.
            StoreBusy: another program holds a lock on the database.
        """
        # Never into what somebody else has put there.
        self._watch.look_closely()
        try:
            ((busy, pages, copied),) = await self._connections.writer.execute_fetchall(
                f"PRAGMA wal_checkpoint({mode})"
            )
        except sqlite3.Error as error:
            raise failure_of_write(error, self._watch.path) from error
        finally:
            self._watch.note()
        if not busy and pages == copied:
            self.mark_due = True
        if busy and mode == "TRUNCATE":
            raise StoreBusy(IN_USE)
