"""Whether the end of a WAL is still where SQLite left it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sanic_app.errors import StoreFailed
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.wal import Wal
from sanic_app.store.sqlite.watch import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there it is looked for")

FRAME = 24 + 4_096


class Database:
    """A database in use, and what watches its WAL."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.wal = Path(f"{path}-wal")
        self.run = connection.execute
        self.watched = Wal(self.wal)

    def commit(self, rows: int = 1) -> None:
        self.run("BEGIN")
        for _ in range(rows):
            # Digits, so that no byte of it is zero: what is cut from it must be missed.
            self.run("INSERT INTO kept VALUES (hex(randomblob(1500)))")
        self.run("COMMIT")

    def write(self, offset: int, content: bytes) -> None:
        with self.wal.open("r+b") as file:
            file.seek(offset)
            file.write(content)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE kept (row)")
        made = Database(path, connection)
        made.watched.open()
        made.commit()
        shutil.copyfile(made.wal, tmp_path / "kept")
        made.commit()
        assert made.watched.is_whole()
        yield made
    made.watched.close()


def emptied(database: Database) -> None:
    os.truncate(database.wal, 0)


def frame_cut(database: Database) -> None:
    os.truncate(database.wal, database.wal.stat().st_size - 1)


def first_frame_left(database: Database) -> None:
    os.truncate(database.wal, 32 + FRAME)


def header_written(database: Database) -> None:
    database.write(0, bytes(32))


def last_frame_written(database: Database) -> None:
    database.write(database.wal.stat().st_size - FRAME, bytes(24))


def older_copied_over(database: Database) -> None:
    shutil.copyfile(database.path.with_name("kept"), database.wal)


DEEDS = [
    emptied,
    frame_cut,
    first_frame_left,
    header_written,
    last_frame_written,
    older_copied_over,
]


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 1), (1, 0)])
def test_a_wal_that_was_written_by_others_is_not_whole(
    database: Database, deed: Callable[[Database], None], before: int, after: int
) -> None:
    for _ in range(before):
        database.commit()
    deed(database)
    for _ in range(after):
        # SQLite itself does not notice.
        database.commit()
    assert not database.watched.is_whole()


@pytest.mark.parametrize("rows", [1, 50])
def test_what_sqlite_does_itself_leaves_a_whole_wal(database: Database, rows: int) -> None:
    database.run("PRAGMA cache_size = 5")
    database.run("PRAGMA journal_size_limit = 100000")
    for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE") * 3:
        for _ in range(3):
            database.commit(rows)
            assert database.watched.is_whole()
            database.run("BEGIN")
            database.run("DELETE FROM kept")
            database.run("INSERT INTO kept VALUES (randomblob(90000))")
            database.run("ROLLBACK")
            assert database.watched.is_whole()
        database.run(f"PRAGMA wal_checkpoint({mode})").fetchall()
        assert database.watched.is_whole()
    os.utime(database.wal)
    assert database.watched.is_whole()


def test_a_deleted_index_is_noticed(database: Database) -> None:
    watch = Watch(database.path)
    lease = FileLease(database.path)
    watch.begin(lease, 0, 4_096)
    watch.look()
    Path(f"{database.path}-shm").unlink()
    with pytest.raises(StoreFailed, match="db-shm was deleted"):
        watch.look()
    watch.end()
    lease.release()
