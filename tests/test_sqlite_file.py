"""The database file: its owner, its creation, what is checked before it is opened, and faults."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from sanic_app.client import stores
from sanic_app.errors import DiskFull, NotHead, NotOwner, StartError, StoreBusy, StoreFailed
from sanic_app.store import Add, Finish
from sanic_app.store.migrations import Migration, migrations
from sanic_app.store.sqlite import disk
from sanic_app.store.sqlite.disk import UNFINISHED, has_room
from sanic_app.store.sqlite.file import prepare
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.schema import APPLICATION_ID
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND, NewTask
from tests.fake_clock import FakeClock
from tests.parts import KEEP, Opened, SqliteEngine, damage_page_of, limit_pages, new, opened, shut

pytestmark = pytest.mark.anyio

NOBODY = 65_534


@pytest.fixture
def place(tmp_path: Path) -> SqliteEngine:
    return SqliteEngine(tmp_path)


def wal_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name.

    The shared memory is no part of the database, and an empty WAL says the same as none: to read
    a database, SQLite makes both.
    """
    return {
        file.name: content
        for file in folder.iterdir()
        if file.is_file() and not file.name.endswith(("-shm", ".lock"))
        if (content := file.read_bytes()) or not file.name.endswith("-wal")
    }


def listed(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


async def filled(place: SqliteEngine, clock: FakeClock, tasks: int = 5) -> None:
    """Make a database, closed in order: two tasks are done, the third is the head."""
    async with opened(place, clock) as store:
        await store.add(*[1] * tasks, key="key", request="r")
        clock.advance(1)
        await store.finish(1)
        clock.advance(1)
        await store.finish(2)


async def crashed(place: SqliteEngine, clock: FakeClock, tasks: int = 5) -> None:
    """Make the same as a killed process leaves it: the newest of it is in the WAL alone."""
    folder = place.path.parent / "before"
    folder.mkdir()
    before = SqliteEngine(folder)
    async with opened(before, clock) as store:
        await store.add(*[1] * tasks, key="key", request="r")
        clock.advance(1)
        await store.finish(1)
        clock.advance(1)
        await store.finish(2)
        for path in (before.path, wal_of(before.path)):
            shutil.copyfile(path, place.path.parent / path.name)
    shutil.rmtree(folder)


@asynccontextmanager
async def prepared(place: SqliteEngine, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    """Own a store that a test tries to open, and let go of it whatever happens."""
    store = place.store(clock)
    lease = await store.own()
    try:
        yield store
    finally:
        await shut(store)
        lease.release()


async def refusal(place: SqliteEngine, clock: FakeClock) -> str:
    """Return the one line with which the start is refused; nothing was changed."""
    before = contents(place.path.parent)
    async with prepared(place, clock) as store:
        with pytest.raises(StartError) as error:
            await store.open(await store.own())
        assert contents(place.path.parent) == before
    assert contents(place.path.parent) == before
    assert error.value.detail.isprintable()
    assert str(place.path) in error.value.detail
    return error.value.detail


def change(path: Path, sql: str, *, keep_wal: bool = False) -> None:
    """Damage the database as no service would; with keep_wal the damage is in the WAL alone."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.executescript(sql)
        if not keep_wal:
            return
        copies = [(each, Path(f"{each}.kept")) for each in (path, wal_of(path))]
        for source, copy in copies:
            shutil.copyfile(source, copy)
    for source, copy in copies:
        copy.replace(source)


# The owner.


async def test_a_second_owner_is_refused_and_touches_nothing(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock) as store:
        await store.add(1)
        before = contents(place.path.parent)
        names = listed(place.path.parent)
        with pytest.raises(NotOwner) as error:
            await place.store(clock).own()
        assert error.value.detail == f"another process owns the queue {place.path}"
        assert contents(place.path.parent) == before
        assert listed(place.path.parent) == names
    async with opened(place, clock) as store:
        assert len(await store.queue()) == 1


@pytest.mark.parametrize("link", ["other.db", "folder/queue.db"])
async def test_a_link_to_a_database_in_use_leads_to_the_same_owner(
    place: SqliteEngine, clock: FakeClock, link: str
) -> None:
    other = place.path.parent / "elsewhere" / link
    other.parent.mkdir(parents=True)
    other.symlink_to(place.path)
    async with opened(place, clock):
        with pytest.raises(NotOwner):
            await SqliteStore(other, clock, KEEP).own()
        # So it is for whoever takes the lock before the store is made.
        with pytest.raises(NotOwner):
            FileLease(other)
    assert listed(other.parent) == [other.name]


async def test_a_linked_folder_leads_to_the_same_owner(
    place: SqliteEngine, clock: FakeClock
) -> None:
    link = place.path.parent / "link"
    link.symlink_to(place.path.parent, target_is_directory=True)
    async with opened(place, clock):
        with pytest.raises(NotOwner):
            await SqliteStore(link / place.path.name, clock, KEEP).own()


async def test_the_lock_file_is_empty_and_stays(place: SqliteEngine, clock: FakeClock) -> None:
    lock = beside(place.path, ".lock")
    for _ in range(2):
        async with opened(place, clock):
            assert lock.stat().st_size == 0
        assert lock.exists()


async def test_a_lock_file_that_was_left_behind_hinders_nobody(
    place: SqliteEngine, clock: FakeClock
) -> None:
    beside(place.path, ".lock").write_bytes(b"12345")
    async with opened(place, clock) as store:
        await store.add(1)


async def test_a_lease_is_given_back_once(place: SqliteEngine) -> None:
    first = FileLease(place.path)
    first.release()
    second = FileLease(place.path)
    first.release()
    with pytest.raises(NotOwner):
        FileLease(place.path)
    second.release()


# The place.


async def test_a_missing_folder_is_named(tmp_path: Path, clock: FakeClock) -> None:
    place = SqliteEngine(tmp_path / "missing")
    with pytest.raises(StartError) as error:
        await place.store(clock).own()
    line = f"cannot open the lock file {place.path}.lock: No such file or directory"
    assert error.value.detail == line


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Take the right to write into the folder from this process, also when it is root."""
    folder.chmod(0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


async def test_a_folder_without_rights_is_named(tmp_path: Path, clock: FakeClock) -> None:
    place = SqliteEngine(tmp_path)
    store = place.store(clock)
    with without_rights(tmp_path), pytest.raises(StartError) as error:
        await store.own()
    assert error.value.detail == f"cannot open the lock file {place.path}.lock: Permission denied"
    assert listed(tmp_path) == []


async def test_a_database_without_rights_is_named(place: SqliteEngine, clock: FakeClock) -> None:
    await filled(place, clock)
    before = contents(place.path.parent)
    async with prepared(place, clock) as store:
        with without_rights(place.path.parent), pytest.raises(StartError) as error:
            await store.open(await store.own())
    assert error.value.detail.isprintable()
    assert contents(place.path.parent) == before


def test_a_folder_that_cannot_be_synced_is_warned_of(
    place: SqliteEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sync = disk.sync

    def refuse(path: Path) -> None:
        if path.is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(path)

    monkeypatch.setattr(disk, "sync", refuse)
    prepare(place.path)
    assert place.path.exists()
    assert "cannot be synced: Invalid argument" in caplog.text


async def test_a_folder_is_no_database(place: SqliteEngine, clock: FakeClock) -> None:
    place.path.mkdir()
    assert "cannot use the database" in await refusal(place, clock)


@pytest.mark.parametrize("name", ["a b.db", "a?b.db", "a#b%20.db", "ü.db", "a\udcff.db", "'.db"])
async def test_any_file_name_works(tmp_path: Path, clock: FakeClock, name: str) -> None:
    for n in (1, 2):
        store = SqliteStore(tmp_path / name, clock, KEEP)
        lease = await store.own()
        try:
            await store.open(lease)
            await store.commit(lease, [Add(new(1))])
            assert (await store.figures()).depth == n
        finally:
            await store.close()
            lease.release()
    assert listed(tmp_path) == sorted([name, f"{name}.lock"])


# Creation.


async def test_the_files_can_be_read_by_nobody_else(place: SqliteEngine, clock: FakeClock) -> None:
    before = os.umask(0)
    try:
        async with opened(place, clock) as store:
            await store.add(1)
            names = listed(place.path.parent)
            assert names == ["queue.db", "queue.db-shm", "queue.db-wal", "queue.db.lock"]
            for file in place.path.parent.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    finally:
        os.umask(before)


async def test_what_a_killed_creation_left_behind_is_replaced(
    place: SqliteEngine, clock: FakeClock
) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside(place.path, f"{UNFINISHED}{suffix}").write_bytes(b"half a database")
    async with opened(place, clock) as store:
        await store.add(1)
    assert listed(place.path.parent) == ["queue.db", "queue.db.lock"]


async def test_a_creation_touches_no_file_with_a_name_that_a_user_may_give(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock) as store:
        await store.add(1)
    theirs = place.path.rename(beside(place.path, ".new"))
    before = theirs.read_bytes()
    async with opened(place, clock) as store:
        await store.add(1)
    assert theirs.read_bytes() == before


async def test_a_journal_without_its_database_is_not_applied_to_a_new_one(
    place: SqliteEngine, clock: FakeClock
) -> None:
    beside(place.path, "-journal").write_bytes(b"of another database")
    assert "is missing, but" in await refusal(place, clock)
    assert not place.path.exists()


async def test_a_creation_that_fails_leaves_nothing(place: SqliteEngine, clock: FakeClock) -> None:
    beside(place.path, UNFINISHED).mkdir()
    assert "cannot create the database" in await refusal(place, clock)
    assert not place.path.exists()


@pytest.mark.parametrize("empty", [True, False])
async def test_a_wal_without_its_database_is_not_thrown_away(
    place: SqliteEngine, clock: FakeClock, empty: bool
) -> None:
    await crashed(place, clock)
    place.path.unlink()
    if empty:
        place.path.touch()
    assert "restore a backup" in await refusal(place, clock)


@pytest.mark.parametrize("wal", [None, b"", b"x"])
async def test_an_empty_file_is_no_new_queue(
    place: SqliteEngine, clock: FakeClock, wal: bytes | None
) -> None:
    place.path.touch()
    if wal is not None:
        wal_of(place.path).write_bytes(wal)
    line = await refusal(place, clock)
    assert "is empty (0 bytes): restore a backup, or remove the file" in line


async def test_an_empty_wal_is_as_good_as_none(place: SqliteEngine, clock: FakeClock) -> None:
    wal_of(place.path).touch()
    async with opened(place, clock) as store:
        assert (await store.add(1)).first == 1


# What is set on the connections.


async def pragma(store: SqliteStore, connection: str, name: str) -> object:
    opened_one = getattr(store._connections, connection)
    ((value,),) = await opened_one.execute_fetchall(f"PRAGMA {name}")
    return value


async def test_the_writer_is_set_to_be_durable(place: SqliteEngine, clock: FakeClock) -> None:
    async with prepared(place, clock) as store:
        await store.open(await store.own())
        expected = {
            "journal_mode": "wal",
            "synchronous": 2,
            "fullfsync": 1,
            "checkpoint_fullfsync": 1,
            "foreign_keys": 1,
            "temp_store": 2,
            "wal_autocheckpoint": 0,
            "query_only": 0,
        }
        found = {name: await pragma(store, "writer", name) for name in expected}
        assert found == expected


async def test_readers_cannot_write(place: SqliteEngine, clock: FakeClock) -> None:
    async with prepared(place, clock) as store:
        await store.open(await store.own())
        for name in ("reader", "list_reader"):
            assert await pragma(store, name, "query_only") == 1
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await getattr(store._connections, name).execute_fetchall("DELETE FROM queue")


async def test_the_schema_forbids_a_task_that_is_done_early(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await filled(place, clock)
    with closing(sqlite3.connect(place.path)) as connection:
        for values in (
            "(9, 0, 1000, 5, 'done', 5, 1004, 9)",
            "(9, 0, 0, 5, 'done', NULL, 5, 9)",
            "(9, 0, 0, 5, 'done', 4, 5, 9)",
            "(9, 0, 0, 5, 'lost', 5, 5, 9)",
            "(9, 0, 0, 5, 'done', 5, 5, 2)",
            "(2, 0, 0, 5, 'done', 5, 5, 9)",
            "(9, 0, 0, 5, 'cancelled', 7, 6, 9)",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(f"INSERT INTO history VALUES {values}")
        connection.execute("INSERT INTO history VALUES (9, 0, 1000, 5, 'done', 5, 1005, 9)")


# Damage.


async def test_what_is_sound_is_opened(place: SqliteEngine, clock: FakeClock) -> None:
    """The control for all damage below: without it, neither start is refused."""
    await filled(place, clock)
    async with opened(place, clock) as store:
        assert [task.history_num for task in await store.queue()] == [3, 4, 5]
    place.path.unlink()
    await crashed(place, clock)
    async with opened(place, clock) as store:
        assert [task.history_num for task in await store.queue()] == [3, 4, 5]


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"not a database\n" * 500,
        b"SQLite format 3\0",
        b"SQLite format 3\0" + bytes(4_080),
        bytes(4_096),
        os.urandom(8_192),
    ],
    ids=["byte", "text", "magic", "magic-and-zeros", "zeros", "noise"],
)
async def test_a_file_that_is_no_database_is_refused(
    place: SqliteEngine, clock: FakeClock, content: bytes
) -> None:
    place.path.write_bytes(content)
    await refusal(place, clock)


async def test_another_programs_database_is_refused(place: SqliteEngine, clock: FakeClock) -> None:
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("CREATE TABLE queue (history_num INTEGER)")
    assert "is not a database of this service" in await refusal(place, clock)


@pytest.mark.parametrize("keep_wal", [False, True])
@pytest.mark.parametrize("version", [len(migrations("sqlite")) + 1, 99, 2**31 - 1])
async def test_a_newer_schema_is_refused(
    place: SqliteEngine, clock: FakeClock, version: int, keep_wal: bool
) -> None:
    await filled(place, clock)
    change(place.path, f"PRAGMA user_version = {version}", keep_wal=keep_wal)
    line = await refusal(place, clock)
    assert f"has schema version {version}, newer than this service's" in line


def pretend_a_second_migration(monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    found = [*migrations("sqlite"), Migration(len(migrations("sqlite")) + 1, "next.sql", sql)]
    monkeypatch.setattr("sanic_app.store.sqlite.schema.migrations", lambda _: found)


async def test_an_older_schema_is_brought_up_to_date(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crashed(place, clock)
    pretend_a_second_migration(monkeypatch, "ALTER TABLE queue ADD COLUMN extra TEXT;")
    for _ in range(2):
        async with opened(place, clock) as store:
            assert [task.history_num for task in await store.queue()] == [3, 4, 5]
    with closing(sqlite3.connect(place.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (
            len(migrations("sqlite")) + 1,
        )
        assert connection.execute("SELECT extra FROM queue").fetchall() == [(None,)] * 3


async def test_a_migration_that_fails_is_one_line_and_changes_no_row(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(place, clock)
    with monkeypatch.context() as patch:
        pretend_a_second_migration(patch, "DELETE FROM queue; SELECT * FROM nowhere;")
        line = await refusal(place, clock)
        assert line == f"cannot migrate the database {place.path}: no such table: nowhere"
    async with opened(place, clock) as store:
        assert len(await store.queue()) == 3


@pytest.mark.parametrize("version", [0, -1])
async def test_a_schema_version_that_cannot_be_is_refused(
    place: SqliteEngine, clock: FakeClock, version: int
) -> None:
    await filled(place, clock)
    change(place.path, f"PRAGMA user_version = {version}")
    assert f"is damaged: its schema version is {version}" in await refusal(place, clock)


@pytest.mark.parametrize("with_wal", [False, True])
@pytest.mark.parametrize(("start", "end"), [(0, 16), (0, 100), (16, 18), (20, 24), (100, 108)])
async def test_a_damaged_header_is_refused(
    place: SqliteEngine, clock: FakeClock, start: int, end: int, with_wal: bool
) -> None:
    await (crashed if with_wal else filled)(place, clock)
    with place.path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * (end - start))
    await refusal(place, clock)


ROW = "its state row is wrong"
STATE_DAMAGE = {
    "last_history_num": ["0", "4", "6", "-5", "9223372036854775807"],
    "last_finish_num": ["0", "1", "3", "-1"],
    "last_stamp": ["0", "-1", "last_stamp - 1", "head_started_at - 1"],
    "wait_sum": ["0", "wait_sum + 1", "wait_sum - 1", "-1"],
    "depth": ["0", "2", "4", "-1"],
    "backlog": ["0", "backlog + 1", "backlog - 1", "-1"],
    "oldest_created_at": ["NULL", "0", "oldest_created_at + 1"],
    "paused": ["2", "-1"],
    "head": ["NULL", "2", "4", "6", "0", "-1"],
    "head_started_at": ["NULL", "0", "-1", "oldest_created_at - 1", "last_stamp + 1"],
    "pruned": ["1", "2", "3", "-1"],
}


@pytest.mark.parametrize("keep_wal", [False, True])
@pytest.mark.parametrize("field", STATE_DAMAGE)
async def test_a_damaged_state_row_is_refused(
    place: SqliteEngine, clock: FakeClock, field: str, keep_wal: bool, tmp_path: Path
) -> None:
    await filled(place, clock)
    sound = place.path.read_bytes()
    for value in STATE_DAMAGE[field]:
        place.path.write_bytes(sound)
        wal_of(place.path).unlink(missing_ok=True)
        change(place.path, f"UPDATE state SET {field} = {value}", keep_wal=keep_wal)
        assert (await refusal(place, clock)).endswith(ROW), value


async def test_every_field_of_the_state_row_has_its_damage(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock) as store:
        assert STATE_DAMAGE.keys() == set((await store.store.figures())._fields)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM state",
        "UPDATE state SET id = 2",
        "DELETE FROM queue",
        "DELETE FROM queue WHERE history_num = 3",
        "DELETE FROM queue WHERE history_num = 5",
        "DELETE FROM history",
        "DELETE FROM history WHERE history_num = 1",
        "DELETE FROM history WHERE history_num = 2",
        "INSERT INTO queue SELECT 6, num, timeout, created_at, wait_sum FROM queue LIMIT 1",
        "UPDATE queue SET created_at = created_at + 9000000 WHERE history_num = 5",
        "UPDATE history SET finished_at = finished_at + 9000000 WHERE history_num = 2",
        "UPDATE state SET head = NULL, head_started_at = NULL",
    ],
)
async def test_tables_that_contradict_the_state_row_are_refused(
    place: SqliteEngine, clock: FakeClock, sql: str
) -> None:
    await filled(place, clock)
    change(place.path, sql)
    assert (await refusal(place, clock)).endswith(ROW)


@pytest.mark.parametrize("table", ["state", "queue", "history"])
async def test_a_missing_table_is_refused(
    place: SqliteEngine, clock: FakeClock, table: str
) -> None:
    await filled(place, clock)
    change(place.path, f"DROP TABLE {table}")
    assert "cannot use the database" in await refusal(place, clock)


@pytest.mark.parametrize("cut", [1, 4_096, 5_000, 20_000, -50, -512, -4_096, -8_192])
async def test_a_truncated_file_is_refused(place: SqliteEngine, clock: FakeClock, cut: int) -> None:
    """Cut at the end by so many bytes, or to so many when negative."""
    await filled(place, clock, tasks=3_000)
    size = place.path.stat().st_size
    os.truncate(place.path, size - cut if cut > 0 else -cut)
    await refusal(place, clock)


@pytest.mark.parametrize("cut", [1, 4_096])
async def test_a_truncated_file_with_a_wal_is_refused(
    place: SqliteEngine, clock: FakeClock, cut: int
) -> None:
    await filled(place, clock, tasks=3_000)
    change(place.path, "UPDATE idempotency SET request = 'x'", keep_wal=True)
    os.truncate(place.path, place.path.stat().st_size - cut)
    assert (await refusal(place, clock)).endswith("its end is missing")


async def test_what_lies_in_the_wal_is_not_missing_from_the_file(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await crashed(place, clock, tasks=3_000)
    assert wal_of(place.path).stat().st_size > place.path.stat().st_size
    async with opened(place, clock) as store:
        assert len(await store.queue()) == 2_998


async def test_half_a_frame_at_the_end_of_the_wal_is_no_damage(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await crashed(place, clock)
    with wal_of(place.path).open("ab") as file:
        file.write(b"half a frame")
    async with opened(place, clock) as store:
        assert len(await store.queue()) == 3


# Recovery.


async def test_the_wal_of_an_earlier_process_is_emptied_before_any_write(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await crashed(place, clock)
    assert wal_of(place.path).stat().st_size > 0
    async with opened(place, clock) as store:
        assert store.store.sizes().wal == 0
        assert [task.num for task in await store.done()] == [0, 1]
        # The database file alone holds everything: what is written now rests on it.
        assert place.path.read_bytes().startswith(b"SQLite format 3\0")
        alone = SqliteEngine(place.path.parent / "alone")
        alone.path.parent.mkdir()
        shutil.copyfile(place.path, alone.path)
    async with opened(alone, clock) as store:
        assert [task.history_num for task in await store.queue()] == [3, 4, 5]


async def test_a_start_beside_another_program_that_reads_is_refused(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanic_app.store.sqlite.connections.BUSY_TIMEOUT", 20)
    await crashed(place, clock)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM state").fetchall()
        async with prepared(place, clock) as store:
            with pytest.raises(StartError, match="another program is using the database"):
                await store.open(await store.own())
        other.execute("ROLLBACK")
    async with opened(place, clock) as store_again:
        assert len(await store_again.queue()) == 3


async def test_a_long_wal_is_copied_into_the_database(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock) as store:
        before = store.store.sizes().database
        await store.add(*[1] * 12_000)
        await store.store.maintain(store.lease)
        assert store.store.sizes().database == before
        for _ in range(3):
            await store.add(*[1] * 12_000)
        await store.store.maintain(store.lease)
        assert store.store.sizes().database > before + 12_000 * 10
        wal = store.store.sizes().wal
        # From here on the WAL starts again from its beginning.
        for _ in range(20):
            await store.add(1)
            await store.store.maintain(store.lease)
        assert store.store.sizes().wal == wal


# A disk without room.


async def test_a_full_disk_has_the_wal_copied_into_the_database(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock) as store:
        await store.add(*[1] * 3_000)
        before = store.store.sizes().database
        assert isinstance(store.store, SqliteStore)
        await limit_pages(store.store, 0)
        with pytest.raises(DiskFull):
            await store.add(*[1] * 3_000)
        assert store.store.sizes().database > before + 3_000 * 10


@pytest.mark.parametrize(("total", "early"), [(2**20, True), (2**40, False), (0, False)])
async def test_on_a_small_file_system_the_wal_is_copied_sooner(
    place: SqliteEngine,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    early: bool,
) -> None:
    usage = shutil.disk_usage(place.path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=total))
    async with opened(place, clock) as store:
        before = store.store.sizes().database
        await store.add(*[1] * 3_000)
        await store.store.maintain(store.lease)
        assert (store.store.sizes().database > before) == early


async def test_a_start_without_room_serves_reads_and_writes_once_there_is_some(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place, clock) as store:
        await store.add(1, 2, num=7)
        lineage = store.store.lineage
    before = contents(place.path.parent)
    with monkeypatch.context() as full:
        full.setattr(disk, "TemporaryFile", no_file(errno.ENOSPC))
        async with opened(place, clock) as store:
            assert store.store.lineage == lineage
            assert [task.num for task in await store.queue()] == [7, 8]
            assert (await store.store.queue_slice(0, 9)).text.count("history_num") == 2
            head = (await store.store.overview()).head
            assert head is not None
            assert head.num == 7
            with pytest.raises(DiskFull):
                await store.add(3, num=9)
            await store.store.maintain(store.lease)
            assert not beside(place.path, "-shm").exists()
            assert contents(place.path.parent) == before

            full.undo()
            await store.add(3, num=10)
            assert [task.num for task in await store.queue()] == [7, 8, 10]
            assert (await store.store.queue_slice(0, 9)).text.count("history_num") == 3
    async with opened(place, clock) as store:
        assert [task.num for task in await store.queue()] == [7, 8, 10]


async def test_a_start_without_room_that_is_stopped_leaves_the_database_as_it_is(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place, clock) as store:
        await store.add(1, num=7)
    before = contents(place.path.parent)
    monkeypatch.setattr(disk, "TemporaryFile", no_file(errno.EDQUOT))
    async with opened(place, clock):
        pass
    assert contents(place.path.parent) == before


@pytest.mark.parametrize(("error", "room"), [(errno.ENOSPC, False), (errno.EACCES, True)])
def test_only_a_full_disk_has_no_room(
    place: SqliteEngine, monkeypatch: pytest.MonkeyPatch, error: int, room: bool
) -> None:
    assert has_room(place.path)
    monkeypatch.setattr(disk, "TemporaryFile", no_file(error))
    assert has_room(place.path) == room
    beside(place.path, "-wal").write_bytes(b"x")
    assert has_room(place.path)


def no_file(error: int) -> Callable[..., NoReturn]:
    def refuse(**_: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    return refuse


# Faults while it runs.


async def test_a_full_disk_refuses_all_and_loses_nothing(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with prepared(place, clock) as store:
        lease = await store.own()
        await store.open(lease)
        one = Opened(store, lease)
        await one.add(1, num=1)
        before = await store.figures()
        await limit_pages(store, 0)
        with pytest.raises(DiskFull):
            await one.commit(Add(new(1, num=2)), Add(new(*[1] * 3_000)), Finish(1))
        assert await store.figures() == before
        assert [task.num for task in await one.queue()] == [1]
        # What needs no room goes on.
        await one.add(1, num=3)
        await one.finish(1)
        await limit_pages(store, 2**30)
        await one.add(*[1] * 3_000)
        assert (await store.figures()).last_history_num == 3_002


async def test_a_full_disk_in_the_middle_of_separate_writes_refuses_that_one(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with prepared(place, clock) as store:
        lease = await store.own()
        await store.open(lease)
        one = Opened(store, lease)
        await one.add(1)
        await limit_pages(store, 0)
        too_large, much = Add([NewTask(2**63, 0)]), Add(new(*[1] * 3_000))
        commit = await one.commit(too_large, Add(new(1)), much, Finish(1))
        kinds = [type(each).__name__ for each in commit.results]
        assert kinds == ["Internal", "Added", "DiskFull", "Done"]
        assert commit.started is not None
        assert commit.started.history_num == 2


async def test_another_programs_lock_is_busy_and_nothing_more(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanic_app.store.sqlite.connections.BUSY_TIMEOUT", 20)
    async with opened(place, clock) as store:
        with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                await store.commit(Add(new(1)))
            other.execute("ROLLBACK")
        assert (await store.add(1)).first == 1


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: EFBIG, an I/O error for SQLite."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_file_that_may_not_grow_is_a_full_disk(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock) as store:
        await store.add(1, num=1)
        sizes = store.store.sizes()
        with files_up_to(max(sizes.database, sizes.wal)):
            for _ in range(2):
                with pytest.raises(DiskFull):
                    await store.commit(Add(new(*[1] * 3_000)))
            assert [task.num for task in await store.queue()] == [1]
        await store.add(*[1] * 3_000)
        assert (await store.store.figures()).depth == 3_001


async def test_a_limit_that_a_new_database_meets_is_a_full_disk_too(
    place: SqliteEngine, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a broken one, for whoever makes a backup."""
    with files_up_to(8_192):
        assert (await refusal(place, clock)).endswith("database or disk is full")
    async with opened(place, clock) as store:
        await store.add(*[1] * 1_000)
    for limit in (8_192, place.path.stat().st_size - 1):
        with files_up_to(limit):
            assert stores.main(["copy", str(place.path), str(beside(place.path, ".copy"))], {}) == 1
        assert capsys.readouterr().err.endswith("database or disk is full\n")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_used_up_quota_is_a_full_disk(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    async with opened(place, clock) as store:
        await store.add(1)
        with monkeypatch.context() as full:
            full.setattr(disk, "TemporaryFile", no_file(error))
            with files_up_to(store.store.sizes().wal), pytest.raises(DiskFull):
                await store.commit(Add(new(*[1] * 3_000)))
        await store.add(1)
        assert (await store.store.figures()).depth == 2


async def test_an_io_error_fails_the_store(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "TemporaryFile", no_file(errno.EIO))
    async with opened(place, clock) as store:
        await store.add(1)
        with files_up_to(store.store.sizes().wal), pytest.raises(StoreFailed) as error:
            await store.commit(Add(new(1)))
        assert error.value.kind == "io"
        assert error.value.applied is None


async def test_an_io_error_at_the_end_fails_the_store_and_leaves_it_open(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "TemporaryFile", no_file(errno.EIO))
    async with opened(place, clock) as store:
        await store.add(*[1] * 3_000)
        with files_up_to(8_192), pytest.raises(StoreFailed) as error:
            await store.store.close()
        assert error.value.kind == "io"
        assert wal_of(place.path).stat().st_size > 8_192
    async with opened(place, clock) as store:
        assert len(await store.queue()) == 3_000


async def test_damage_met_while_writing_fails_the_store(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await filled(place, clock)
    damage_page_of(place.path, "idempotency")
    async with opened(place, clock) as store:
        with pytest.raises(StoreFailed) as error:
            await store.commit(Add(new(1)), Add(new(1), "other", "r"))
        assert error.value.kind == "corrupt"


async def test_a_head_that_is_gone_fails_the_store(place: SqliteEngine, clock: FakeClock) -> None:
    await filled(place, clock)
    async with opened(place, clock) as store:
        change(place.path, "DELETE FROM queue WHERE history_num = 3")
        with pytest.raises(StoreFailed) as error:
            await store.finish(3)
        assert error.value.kind == "corrupt"


async def test_a_missing_state_row_fails_the_store(place: SqliteEngine, clock: FakeClock) -> None:
    async with opened(place, clock) as store:
        change(place.path, "DELETE FROM state")
        with pytest.raises(StoreFailed) as error:
            await store.add(1)
        assert error.value.kind == "corrupt"


# The pause, as the state row has it.


async def test_a_paused_queue_starts_nothing(place: SqliteEngine, clock: FakeClock) -> None:
    async with opened(place, clock):
        pass
    change(place.path, "UPDATE state SET paused = 1")
    async with opened(place, clock) as store:
        commit = await store.commit(Add(new(1, 0)))
        assert commit.started is None
        assert (await store.store.overview()).head is None
        assert [task.state for task in await store.queue()] == ["queued", "queued"]
        with pytest.raises(NotHead):
            await store.finish(1)
    async with opened(place, clock) as store:
        assert (await store.store.overview())[1] is None


async def test_a_wait_that_runs_goes_on_in_a_pause(place: SqliteEngine, clock: FakeClock) -> None:
    async with opened(place, clock) as store:
        await store.add(1, 1)
        change(place.path, "UPDATE state SET paused = 1")
    async with opened(place, clock) as store:
        commit = await store.commit(Finish(1))
        assert commit.started is None
        assert commit.figures.head is None
        assert commit.figures.depth == 1


# Numbers.


async def test_the_sum_of_all_waits_ever_starts_again_at_63_bits(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await filled(place, clock, tasks=2)
    change(place.path, f"UPDATE state SET wait_sum = {2**63 - 3}")
    async with opened(place, clock) as store:
        await store.add(1, 2)
        sums = [2**63 - 3 + SECOND - 2**63, 3 * SECOND - 3]
        with closing(sqlite3.connect(place.path)) as connection:
            rows = connection.execute("SELECT wait_sum FROM queue").fetchall()
        assert [row[0] for row in rows] == sums
        assert (await store.store.figures()).backlog == 3 * SECOND
    async with opened(place, clock) as store:
        assert (await store.store.figures()).wait_sum == sums[1]


async def test_the_file_says_whose_it_is(place: SqliteEngine, clock: FakeClock) -> None:
    await filled(place, clock)
    assert place.path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4)
    assert APPLICATION_ID.to_bytes(4) == b"SQue"
