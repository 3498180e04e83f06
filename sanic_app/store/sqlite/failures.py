"""What follows from an error that SQLite reports."""

from __future__ import annotations

import sqlite3

from sanic_app.errors import DiskFull, StoreBusy, StoreFailed
from sanic_app.store.isolation import WriteFailed

IN_USE = "another program is using the database"


def failure(error: Exception) -> Exception:
    """Return the error that stands for it; the primary result code decides."""
    if isinstance(error, StoreFailed):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.OperationalError):
        # Python's own: a text that is not UTF-8.
        return StoreFailed("corrupt", str(error))
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return DiskFull()
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreBusy()
        case None | sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH | sqlite3.SQLITE_TOOBIG:
            return WriteFailed()
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreFailed("corrupt", str(error))
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return StoreFailed("io", str(error))
        case _:
            return StoreFailed("other", str(error))


def explain(error: Exception) -> str:
    """Return what an error of SQLite means to an operator.

    Before anything can be read, SQLite needs 32 KiB for the memory that connections share. It
    reports the lack of them as an I/O error.
    """
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE:
        return "the disk is full, and reading needs 32 KiB of it"
    return IN_USE if isinstance(failure(error), StoreBusy) else str(error)
