"""The files of a database on their disk: made and named, their sizes, and room for more."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from tempfile import TemporaryFile

from sanic_app.errors import DiskFull, StartError
from sanic_app.files import sync
from sanic_app.store import Sizes
from sanic_app.store.sqlite.failures import failure

ROOM_BYTES = 65_536
"""What an opened database takes beside itself: the index of the WAL, and the first commits."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room on the disk, none in the quota, or none under the limit of a file's size."""

UNFINISHED = ".sanic-app-new"
"""The end of a name that no user gives to a file: what a kill has left there is removed."""
_BESIDE = ("-wal", "-shm", "-journal", ".lock", UNFINISHED)

log = logging.getLogger(__name__)


def unfinished(path: Path) -> Path:
    """Return where a database lies until it is whole and gets its name.

    Raises:
        StartError: the name is that of a file beside a database, which would be read or removed.
    """
    if path.name.endswith(_BESIDE):
        raise StartError(
            f"a new database cannot be called {path.name}: that is the name of a file beside"
            " another database"
        )
    return Path(f"{path}{UNFINISHED}")


def begin(new: Path) -> None:
    """Make an empty file where a database is to be, in place of what a kill left there."""
    remove(new)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def remove(path: Path) -> None:
    """Remove every file that may lie at the path of a database."""
    for file in (path, *(Path(f"{path}-{name}") for name in ("wal", "shm", "journal"))):
        file.unlink(missing_ok=True)


def publish(new: Path, path: Path) -> None:
    """Give a database its name once it is whole: it is there whole or not at all."""
    sync(new)
    new.replace(path)
    _sync_folder(path.parent)


def size_of(path: Path) -> int:
    """Return the bytes of a file, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sizes(path: Path) -> Sizes:
    """Return the bytes of a database and of its WAL, and those that are free beside them."""
    try:
        free: float = shutil.disk_usage(path.parent).free
    except OSError:
        free = math.nan
    return Sizes(size_of(path), size_of(Path(f"{path}-wal")), free)


def has_room(path: Path) -> bool:
    """Return whether a database that was closed in order can be opened for writing.

    SQLite needs 32 KiB for the index of its WAL. Without them it reports an I/O error or, where
    the index is mapped into memory with a hole in it, the kernel ends the process (SIGBUS). So
    this tries, because no figure of a file system tells what it would refuse.
    """
    if size_of(Path(f"{path}-wal")):
        # Killed: the index lies there, and what only the WAL holds must be read through it.
        return True
    return not _refused_as_full(path, 0)


def failure_of_write(error: Exception, path: Path) -> Exception:
    """Return the error that stands for one that a commit or a checkpoint met.

    Of all that says that a disk is full, SQLite knows ENOSPC alone. A used-up quota and a file that
    may not grow it calls an I/O error, so whether the disk is full is tried out.
    """
    found = failure(error)
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE):
        end = max(size_of(path), size_of(Path(f"{path}-wal")))
        if _refused_as_full(path, end):
            return DiskFull()
    return found


def why_not_written(error: OSError | sqlite3.Error, path: Path, size: int = 0) -> str:
    """Return why a database could not be made or changed, as its operator reads it.

    ``size`` is what it was to have: SQLite may have given back the room that was too little.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    full = isinstance(failure_of_write(error, path), DiskFull) or (
        getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_WRITE
        and _lacks(path.parent, size)
    )
    return "database or disk is full" if full else str(error)


def _lacks(folder: Path, size: int) -> bool:
    """Return whether there is no room for a file of this size."""
    if sys.platform == "win32" or not size:
        return False
    try:
        with TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        return error.errno in _FULL
    return False


def _refused_as_full(path: Path, offset: int) -> bool:
    """Return whether a file beside the database finds no room at this offset."""
    try:
        with TemporaryFile(dir=path.parent, buffering=0) as file:
            file.seek(offset)
            for _ in range(ROOM_BYTES // 512):
                file.write(bytes(512))
            os.fsync(file.fileno())
    except OSError as error:
        # Whatever else is wrong with the place, SQLite meets it too and says so.
        return error.errno in _FULL
    return False


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where it can be opened and its file system does that."""
    if sys.platform == "win32":
        return
    try:
        sync(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
        log.warning("the folder %s cannot be synced: %s", path, error.strerror)
