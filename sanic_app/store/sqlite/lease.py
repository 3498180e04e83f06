"""The owner's lock: one process owns a database."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sanic_app.errors import NotOwner, StartError
from sanic_app.files import lock
from sanic_app.store.sqlite.disk import unfinished

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_CLOSE = getattr(os, "O_CLOEXEC", 0)


def real_path(path: Path) -> Path:
    """Return the path of a file, links followed.

    Raises:
        StartError: it is relative, and the working folder was deleted.
    """
    try:
        return Path(os.path.realpath(path))
    except OSError as error:
        raise StartError(f"cannot find {path}: the working folder: {error.strerror}") from None


class FileLease:
    """The owner's lock: an empty file beside the database, and the database, locked while it lives.

    The file beside it is there before the database is, and is never deleted: whoever deletes a
    lock file can delete a younger owner's. The lock on the database itself holds for its other
    names too: a hard link, or a mount of the file.
    """

    def __init__(self, database: Path) -> None:
        """Take the lock, on the database too where there is one.

        Raises:
            NotOwner: another process has it.
            StartError: no database can be there, the lock file cannot be made, or its file system
                has no locks.
        """
        self._database = real_path(database)
        _refuse_what_is_no_place(self._database)
        self.descriptor = -1
        """The locked database, -1 where there is none yet.

        It is opened before SQLite's connections and closed after them: closing any descriptor of
        the database drops all locks that SQLite has on it.
        """
        path = Path(f"{self._database}.lock")
        try:
            self._lock_file = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | _CLOSE, 0o600)
        except OSError as error:
            link = error.errno == errno.ELOOP
            reason = "it is a symbolic link, remove it" if link else error.strerror
            raise StartError(f"cannot open the lock file {path}: {reason}") from None
        try:
            _lock(self._lock_file, path, f"another process owns the queue {self._database}")
            self.hold()
        except StartError:
            os.close(self._lock_file)
            raise

    def hold(self) -> None:
        """Lock the database itself, if that was not done yet.

        Raises:
            NotOwner: another process has locked it, under whatever name.
            StartError: its file system has no locks.
        """
        if self.descriptor >= 0 or sys.platform == "win32":
            return
        try:
            descriptor = os.open(self._database, os.O_RDONLY | _NO_LINK | _NO_WAIT | _CLOSE)
        except OSError:
            # There is none, or the checks before it is opened will say what is wrong.
            return
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                taken = (
                    f"another process owns the queue {self._database}, through another name of the"
                    " file or since before its lock file was deleted"
                )
                _lock(descriptor, self._database, taken)
                self.descriptor = descriptor
        finally:
            if self.descriptor < 0:
                os.close(descriptor)

    @property
    def released(self) -> bool:
        """Whether the lock was given back."""
        return self._lock_file < 0

    def release(self) -> None:
        """Give the lock back; may be called twice."""
        for descriptor in (self.descriptor, self._lock_file):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._lock_file = -1


def _refuse_what_is_no_place(path: Path) -> None:
    """Refuse a path at which no database can be, before a lock file is left beside it."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        unfinished(path)
    except OSError:
        # The lock file cannot be made either, and says why.
        return
    else:
        if not regular:
            raise StartError(f"cannot use the database {path}: not a regular file")


def _lock(descriptor: int, path: Path, taken: str) -> None:
    try:
        lock(descriptor)
    except (BlockingIOError, PermissionError):
        # Windows says the second.
        raise NotOwner(taken) from None
    except OSError as error:
        raise StartError(f"cannot lock {path}: {error.strerror}") from None


@contextmanager
def unowned(database: Path) -> Iterator[bool]:
    """Lock the database for a moment, without a lock file; yield whether nobody owned it.

    Not while this process has the database open: closing a second handle drops SQLite's locks.
    """
    try:
        descriptor = os.open(database, os.O_RDONLY | _NO_LINK | _NO_WAIT | _CLOSE)
    except OSError:
        yield False
        return
    try:
        lock(descriptor)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
