"""The database file: its creation, and the checks before any writing open."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import struct
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from sanic_app.errors import StartError
from sanic_app.store import Figures
from sanic_app.store.consistency import Ends, agrees
from sanic_app.store.sqlite import origin
from sanic_app.store.sqlite.connections import BUSY_TIMEOUT
from sanic_app.store.sqlite.disk import begin, publish, size_of, unfinished, why_not_written
from sanic_app.store.sqlite.failures import explain, failure
from sanic_app.store.sqlite.rows import FIGURES
from sanic_app.store.sqlite.schema import APPLICATION_ID, latest, migrate

OLDEST_SQLITE = (3, 37)
"""The first version that knows STRICT tables."""

WHOLE_CHECK_BYTES = 32 * 2**20
"""Up to this size everything is read at a start after a kill: some 10 ms for each MiB."""

_HEADER = {
    0: b"SQLite format 3\0",
    20: b"\0\x40\x20\x20",  # no bytes reserved in a page; the fixed fractions
    44: b"\0\0\0\4",  # the schema format
    52: bytes(4),  # no automatic vacuum
    56: b"\0\0\0\1",  # UTF-8
    64: bytes(4),  # no incremental vacuum
    72: bytes(20),  # reserved
}
"""What stands where in the header (sqlite.org/fileformat2.html, 1.3)."""

_APART = "keep a copy of that file, remove it and the -shm file, and start again"

log = logging.getLogger(__name__)


def prepare(path: Path) -> None:
    """Check the database, make it when there is none, and bring its schema up to date.

    Nothing is written before everything that can be checked has been.

    Raises:
        StartError: one line that says why this file cannot be used.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StartError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and {oldest} or newer is needed"
        )
    try:
        status = path.stat()
    except FileNotFoundError:
        _create(path)
        return
    except OSError as error:
        raise StartError(f"cannot open the database {path}: {error.strerror}") from None
    if unfit := _unfit(path, status):
        raise StartError(f"cannot use the database {path}: {unfit}")
    if status.st_size == 0:
        # What a failed copy or export leaves behind. A queue of it would hide the loss.
        raise StartError(
            f"the database {path} is empty (0 bytes): restore a backup, or remove the file to"
            " begin with a new queue"
        )
    left = size_of(Path(f"{path}-wal")) > 0
    try:
        refuse_journal(path)
        version = _check(path, left=left)
        check_header(path)
        if not left:
            origin.adopt(path)
    except sqlite3.Error as error:
        hint = ""
        if left and getattr(failure(error), "kind", "") in ("corrupt", "other"):
            hint = f"; if a backup was put here beside an older {path.name}-wal: {_APART}"
        raise StartError(f"cannot use the database {path}: {explain(error)}{hint}") from None
    except OSError as error:
        raise StartError(f"cannot use the database {path}: {error.strerror}") from None
    if version < latest():
        _migrate(path)


def _unfit(path: Path, status: os.stat_result) -> str:
    """Return why the file must not be used, whatever is in it, or nothing."""
    if status.st_nlink > 1:
        # A service or a program that uses another name has another WAL.
        return f"it has {status.st_nlink} names (hard links); remove all but one"
    if _is_mount(path):
        return "it is mounted as a single file, and its WAL would not be; mount the folder instead"
    return _not_writable(path)


def _not_writable(path: Path) -> str:
    """Return what the service may not write of the database and the files beside it, or nothing.

    SQLite says only that there is something. Somebody else may have copied the files here.
    """
    if not os.access(path, os.W_OK):
        return "not writable"
    wal, index, journal = (Path(f"{path}-{name}") for name in ("wal", "shm", "journal"))
    for file in (wal, index, journal):
        if file.exists() and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
            return f"{file.name} beside it is not writable"
    if not (wal.exists() and index.exists()) and not os.access(path.parent, os.W_OK):
        return f"its folder {path.parent} is not writable"
    return ""


def refuse_journal(path: Path) -> None:
    """Refuse a database with a rollback journal beside it; this service never leaves one.

    SQLite writes what a journal holds into whatever database lies beside it, before any read.

    Raises:
        StartError: one that SQLite would apply lies there.
        OSError: it cannot be read.
    """
    journal = Path(f"{path}-journal")
    try:
        with journal.open("rb") as file:
            # SQLite empties a journal, or its first bytes, when it is done with it.
            hot = file.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return
    if hot:
        raise StartError(
            f"{journal} would be written into the database {path}: if another program was"
            f" interrupted while it changed this database, open it once with the sqlite3 shell,"
            " which undoes that; otherwise move that file away"
        )


def _is_mount(path: Path) -> bool:
    """Return whether the file is a mount point by itself; only Linux tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    escaped = re.sub(rb"[ \t\n\\\\]", lambda match: b"\\%03o" % ord(match[0]), os.fsencode(path))
    return any(line.split(b" ")[4] == escaped for line in lines)


def _create(path: Path) -> None:
    """Make the database under another name and rename it: it is there whole or not at all."""
    new = unfinished(path)
    try:
        for left in (Path(f"{path}-wal"), Path(f"{path}-journal")):
            # SQLite would apply it to the new database.
            if size_of(left):
                raise StartError(
                    f"the database {path} is missing, but {left} is not: put the two together"
                    " again, or restore a backup and move that file away"
                )
        begin(new)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(connection)
            # The close would do this too, but swallow an I/O error or a full disk, and half a
            # database would get the name.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        publish(new, path)
    except (OSError, sqlite3.Error) as error:
        reason = why_not_written(error, new)
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise StartError(f"cannot create the database {path}: {reason}") from None
    log.info("created the database", extra={"database": str(path)})


def _migrate(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            applied = migrate(connection)
    except sqlite3.Error as error:
        reason = why_not_written(error, path)
        raise StartError(f"cannot migrate the database {path}: {reason}") from None
    log.info("migrated the database", extra={"database": str(path), "migrations": applied})


def _check(path: Path, *, left: bool) -> int:
    """Read what a damaged or foreign database would show, and return its schema version.

    ``left`` says whether there is a WAL.
    The connection is read-only: the database and its WAL stay as they are, byte for byte.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    # Without a WAL nothing but the file is to be read, and not even an empty one is left beside it.
    how = uri if left else f"{uri}&immutable=1"
    patience = BUSY_TIMEOUT / 1_000
    with closing(
        sqlite3.connect(how, timeout=patience, uri=True, isolation_level=None)
    ) as connection:
        if left and not origin.belongs(uri, connection):
            raise StartError(
                f"the database {path} does not belong to {path.name}-wal, which a killed service"
                f" left beside it: to go on with this database, {_APART}; to go on with what that"
                " service knew, put its own database back"
            )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        if application != APPLICATION_ID:
            raise StartError(f"{path} is not a database of this service")
        if version > latest():
            raise StartError(
                f"the database {path} has schema version {version}, newer than this service's"
                f" {latest()}: use a newer service"
            )
        if version < 1:
            raise StartError(f"the database {path} is damaged: its schema version is {version}")
        _check_length(path, pages, page_size)
        if left and pages * page_size <= WHOLE_CHECK_BYTES:
            _check_pages(path, connection)
        _check_state(path, connection)
        if not origin.is_sound(connection):
            raise StartError(f"the database {path} is damaged: its mark is wrong")
        return int(version)


def check_header(path: Path) -> None:
    """Refuse a header that this service never writes, where SQLite itself looks away.

    While no connection is open: closing a second handle on the file would drop its locks.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if any(header[start : start + len(value)] != value for start, value in _HEADER.items()):
        raise StartError(f"the database {path} is damaged: its header is wrong")


def _check_length(path: Path, pages: int, page_size: int) -> None:
    """Refuse a database whose end is missing: each page lies in the file or in the WAL."""
    missing = range(path.stat().st_size // page_size + 1, pages + 1)
    if missing and not _pages_of_wal(Path(f"{path}-wal"), page_size).issuperset(missing):
        raise StartError(f"the database {path} is damaged: its end is missing")


def _pages_of_wal(wal: Path, page_size: int) -> set[int]:
    """Return the numbers of the pages that the WAL holds (sqlite.org/fileformat2.html, 4)."""
    pages: set[int] = set()
    try:
        with wal.open("rb") as file:
            salt = file.read(32)[16:24]
            while len(frame := file.read(24)) == 24 and frame[8:16] == salt:  # noqa: PLR2004 - the size of a frame's header
                pages.add(struct.unpack(">I", frame[:4])[0])
                file.seek(page_size, os.SEEK_CUR)
    except FileNotFoundError:
        pass
    return pages


def _check_pages(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse pages that do not fit together, as in files that were copied one after the other."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        reason = " ".join(found.split())
        raise StartError(f"the database {path} is damaged: {reason}")


def _check_state(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a state row that contradicts itself or the two tables."""
    connection.execute("BEGIN")
    row = connection.execute(FIGURES).fetchone()
    ends = connection.execute(
        """
        SELECT first.history_num, first.created_at, first.timeout, first.wait_sum,
               last.history_num, last.created_at, last.wait_sum,
               (SELECT max(history_num) FROM history),
               (SELECT min(finish_num) FROM history),
               finish.finish_num, finish.finished_at
        FROM (SELECT 1)
        LEFT JOIN queue AS first ON first.history_num = (SELECT min(history_num) FROM queue)
        LEFT JOIN queue AS last ON last.history_num = (SELECT max(history_num) FROM queue)
        LEFT JOIN history AS finish ON finish.finish_num = (SELECT max(finish_num) FROM history)
        """
    ).fetchone()
    connection.execute("COMMIT")
    if row is None or not agrees(Figures(*row), Ends(*ends)):
        raise StartError(f"the database {path} is damaged: its state row is wrong")
