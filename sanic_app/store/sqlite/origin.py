"""Which database a WAL belongs to.

SQLite plays a WAL into whatever database lies beside it. When a backup is copied over the database
of a killed service and the WAL is left there, the result is the newest state again, or a database
of pages that do not fit together.

So the first commit after each whole checkpoint writes a new random mark, together with the one
before. A database belongs to a WAL when its own mark is one of the two that are read through the
WAL: the one before as long as nothing of the WAL was copied into it, else the new one. Each start
does that too, so that a copy of the closed file has another mark from then on.

A copy that SQLite makes of a running queue (``VACUUM INTO``, ``.backup``) may have the same mark.
But SQLite gives each such copy another schema cookie: the counter in the header that tells
connections to read the schema anew. So the database itself always has the same one.

A WAL that was copied from a running service before its database may lack what a checkpoint has put
there meanwhile, and has the same mark. But its state row is then older than that of the database.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

COOKIE = 0x51756575
"""The schema cookie of a database that a service has opened (``Queu``)."""
_COOKIE_AT = 40

_MARKS = "SELECT mark, mark_before FROM origin"
_NUMBERS = "SELECT last_history_num, last_finish_num, depth FROM state"


def adopt(path: Path) -> None:
    """Give the database its cookie; it has no WAL, and this process has not opened it.

    Not through SQLite: until the next checkpoint a WAL would lie beside the wrong cookie, and after
    a kill the start would be refused.
    """
    with path.open("r+b", buffering=0) as file:
        file.seek(_COOKIE_AT)
        if file.read(4) != COOKIE.to_bytes(4):
            file.seek(_COOKIE_AT)
            file.write(COOKIE.to_bytes(4))
            os.fsync(file.fileno())


def begin(connection: sqlite3.Connection) -> None:
    """Write a new mark, at a start that finds an empty WAL."""
    (cookie,) = connection.execute("PRAGMA schema_version").fetchone()
    if cookie != COOKIE:
        # Another program has changed the schema meanwhile, and the WAL brought that in.
        connection.execute(f"PRAGMA schema_version = {COOKIE}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    renew(connection)


def renew(connection: sqlite3.Connection) -> None:
    """Write a new mark: the database holds everything that was committed before."""
    connection.execute("UPDATE origin SET mark_before = mark, mark = ?", (_new_mark(),))


def belongs(uri: str, through_wal: sqlite3.Connection) -> bool:
    """Return whether the database belongs to the WAL through which this connection reads.

    ``uri`` leads to the database. It may be half written, where a power cut met a checkpoint: a
    page that cannot be read, or a mark that is no mark, says nothing. The WAL has that page whole.
    """
    rows = _rows(through_wal)
    if rows is None:
        return True
    marks = rows[0] if rows else None
    cookie = 0
    with closing(sqlite3.connect(f"{uri}&immutable=1", uri=True)) as alone:
        try:
            (cookie,) = alone.execute("PRAGMA schema_version").fetchone()
            (mark,) = alone.execute(_MARKS).fetchone()[:1]
        except sqlite3.OperationalError:
            mark = 0
        except (sqlite3.DatabaseError, TypeError):
            return True
        newer = _is_newer(alone, through_wal)
    if marks is None or newer or (is_mark(mark) and mark not in marks):
        return False
    return bool(marks[0] == 0 or cookie == COOKIE)


def _is_newer(alone: sqlite3.Connection, through_wal: sqlite3.Connection) -> bool:
    """Return whether the database knows more alone than through its WAL, as far as can be read."""
    try:
        (added, finished, depth), (added_then, finished_then, depth_then) = (
            connection.execute(_NUMBERS).fetchone() for connection in (alone, through_wal)
        )
        # A damaged row says nothing.
        whole = depth == added - finished and depth_then == added_then - finished_then
        return bool(whole and (added > added_then or finished > finished_then))
    except (sqlite3.DatabaseError, TypeError):
        return False


def is_sound(connection: sqlite3.Connection) -> bool:
    """Return whether the database has one row of two marks, or comes from a service without any."""
    rows = _rows(connection)
    return rows is None or (len(rows) == 1 and all(map(is_mark, rows[0])))


def _rows(connection: sqlite3.Connection) -> list[tuple[object, object]] | None:
    """Return what the table of marks holds; None of a service that wrote no marks."""
    try:
        return connection.execute(_MARKS).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        # There is no such table.
        return None


def _new_mark() -> int:
    value = secrets.randbits(31) or 1
    return value << 32 | zlib.crc32(value.to_bytes(4))


def is_mark(mark: object) -> bool:
    """Return whether it was written whole."""
    if not isinstance(mark, int) or mark < 0:
        return False
    return mark == 0 or zlib.crc32((mark >> 32).to_bytes(4)) == mark & 0xFFFFFFFF
