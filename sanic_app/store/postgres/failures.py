"""What follows from an error that PostgreSQL or its driver reports."""

from __future__ import annotations

import psycopg

from sanic_app.errors import DiskFull, StoreBusy, StoreFailed
from sanic_app.store.isolation import WriteFailed

WENT_BACK = "the queue went back to an earlier state while in use"
CHANGED = "another program changed the state row"
REPLACED = "the queue was replaced by another one while it was in use"


class Lost(Exception):
    """The connection is lost, or the server cannot be used now."""


def failure(error: psycopg.Error) -> Exception:
    """Return the error that stands for it: the SQLSTATE decides, and the severity.

    The codes are those of PostgreSQL's appendix A.
    """
    code, text = error.sqlstate or "", line_of(error)
    fatal = error.diag.severity_nonlocalized in ("FATAL", "PANIC")
    match code, code[:2]:
        case "", _:
            # Without a code it is the driver's: a value that it refuses, or the connection.
            return WriteFailed(text) if isinstance(error, psycopg.DataError) else Lost(text)
        case "53100", _ if not fatal:
            # The disk of the tables is full. When that of the WAL is, the server ends.
            return DiskFull()
        case ("57014", _) | (_, "40" | "54" | "55" | "72"):
            # Canceled, chosen to end a deadlock, at a limit of the server's, such as the end of its
            # transaction ids, too long waiting for a lock, or with a snapshot that is too old.
            return StoreBusy(f"PostgreSQL did not do it now: {text}")
        case ("25006", _) | (_, "08" | "53" | "57"):
            # The server has become a standby, stops, or has no connection left.
            return Lost(text)
        case "22012", _:
            # The division by zero of ``Messages.delete``.
            return StoreFailed("corrupt", "the tables do not hold what was read")
        case _, "22" | "23":
            return WriteFailed(text)
        case _, "XX":
            return StoreFailed("corrupt", text)
        case _:
            return Lost(text) if fatal else StoreFailed("other", text)


def line_of(error: psycopg.Error) -> str:
    """Return what was said, as one line. The driver's texts never hold a password."""
    return " ".join((error.diag.message_primary or str(error)).split())
