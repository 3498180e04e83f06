"""Whether the files of an open database are still those that this process opened."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

from sanic_app.errors import StoreFailed
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.wal import Wal

HEADER_BYTES = 100


_Identity = tuple[int, int, int]
"""Inode, device, and the number of names, in the order of ``os.stat_result``."""


class Watch:
    """Remembers the database and its WAL, and looks whether their names still mean them.

    What is committed to a file that was deleted or replaced, no restart will find.
    """

    def __init__(self, path: Path) -> None:
        """Take the real path of the database."""
        self.path = path
        self._wal_path, self._index_path = Path(f"{path}-wal"), Path(f"{path}-shm")
        self._wal = Wal(self._wal_path)
        self._lease: FileLease | None = None
        # By name as text: each commit looks, and a Path costs it several times as much.
        self._identities: dict[str, _Identity] = {}
        self._page = (0, 0)
        self._content: tuple[int, bytes, bytes] | None = None
        self.data_version: int | None = None
        """What the writer's connection says of commits by others; None: not asked yet."""

    def begin(self, lease: FileLease, offset: int = 0, length: int = 0) -> None:
        """Remember the files as they are, once they are open; the lease has locked the database.

        Offset and length are those of the page that has the mark (see ``origin.py``): a copy of
        another moment has another mark, or another header.

        Raises:
            StoreFailed: the database is not the locked one any more.
        """
        self._lease = lease
        self._page = (length, offset)
        self._identities = {}
        for path in map(str, (self.path, self._wal_path, self._index_path)):
            with suppress(FileNotFoundError):
                self._identities[path] = _identity(os.stat(path))  # noqa: PTH116 - see above
        if lease.descriptor >= 0:
            self._identities[str(self.path)] = _identity(os.fstat(lease.descriptor))
        if length:
            self._wal.open()
        self.look()
        self.note()

    def note(self) -> None:
        """Remember what the database holds now: this process has written to it."""
        self._content = self._read()

    def end(self) -> None:
        """Forget the files, once they are closed."""
        self._wal.close()

    def look(self) -> None:
        """Look whether the names still mean the opened files, and the WAL is whole: microseconds.

        Raises:
            StoreFailed: they do not.
        """
        for path, identity in self._identities.items():
            try:
                found = os.stat(path)[1:4]  # noqa: PTH116 - see above
            except FileNotFoundError:
                raise _foreign(f"{path} was deleted while the service was using it") from None
            except OSError as error:
                raise _hidden(path, error) from None
            if found != identity:
                raise _foreign(_difference(path, found, identity))
        try:
            whole = self._wal.is_whole()
        except OSError as error:
            raise _hidden(self._wal_path, error) from None
        if not whole:
            raise _foreign(f"{self._wal_path} was written over while the service was using it")

    def look_closely(self) -> None:
        """Look at the files, and whether the database holds what this process left in it.

        Only between commits and checkpoints.

        Raises:
            StoreFailed: somebody else has written to it.
        """
        self.look()
        if (content := self._read()) is not None and content != self._content:
            raise _foreign(f"{self.path} was written over while the service was using it")

    def look_at_commits(self, connection: sqlite3.Connection) -> None:
        """Look closely, and ask SQLite by the writer's connection whether another one committed.

        Raises:
            as ``look_closely``.
        """
        self.look_closely()
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if self.data_version not in (None, version):
            raise _foreign(f"another program wrote to the database {self.path}")
        self.data_version = version

    def _read(self) -> tuple[int, bytes, bytes] | None:
        if sys.platform == "win32" or self._lease is None or self._lease.descriptor < 0:
            return None
        descriptor = self._lease.descriptor
        try:
            header, page = os.pread(descriptor, HEADER_BYTES, 0), os.pread(descriptor, *self._page)
            return os.fstat(descriptor).st_size, header, page
        except OSError as error:
            raise _hidden(self.path, error) from None


def _identity(status: os.stat_result) -> _Identity:
    return status.st_ino, status.st_dev, 1


def _difference(path: str, found: tuple[int, ...], identity: _Identity) -> str:
    if found[:2] != identity[:2]:
        return f"{path} was replaced by another file while the service was using it"
    return (
        f"{path} was given {found[2]} names (hard links) while the service was using it: remove"
        " all but one"
    )


def _foreign(detail: str) -> StoreFailed:
    return StoreFailed("other", detail)


def _hidden(path: Path | str, error: OSError) -> StoreFailed:
    """Of a file that cannot be looked at: nobody knows whether a restart will find the commits."""
    return StoreFailed("io", f"{path} cannot be looked at any more: {error.strerror}")
