"""The database file: its place, its creation, and what is checked before it is opened."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from sanic_app import files
from sanic_app.errors import StartError
from sanic_app.store import Add
from sanic_app.store.migrations import Migration, migrations
from sanic_app.store.sqlite import disk
from sanic_app.store.sqlite.disk import UNFINISHED
from sanic_app.store.sqlite.file import prepare
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.store import SqliteStore
from tests.fake_clock import FakeClock
from tests.parts import KEEP, SqliteEngine, damage_rows_of, new, opened, shut

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


PREPARE = """
import pathlib, sys
from sanic_app.errors import StartError
from sanic_app.store.sqlite.file import prepare
try:
    prepare(pathlib.Path(sys.argv[1]))
except StartError as error:
    print(error.detail)
"""


def prepare_without_rights(path: Path) -> str:
    """Return what a process says that has no more rights than any user."""
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    command = (*(prefix if os.geteuid() == 0 else ()), sys.executable, "-c", PREPARE, path)
    root = Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("queue.db-wal", 0o000, "queue.db-wal beside it is not writable"),
        ("queue.db-shm", 0o400, "queue.db-shm beside it is not writable"),
        ("", 0o500, "its folder {} is not writable"),
    ],
)
async def test_what_somebody_else_owns_is_named(
    place: SqliteEngine, clock: FakeClock, name: str, mode: int, expected: str
) -> None:
    """Whoever restores as root may give the service the database alone."""
    await crashed(place, clock)
    folder = place.path.parent
    if name:
        (folder / name).touch()
    else:
        (folder / "queue.db-shm").unlink(missing_ok=True)
    before = contents(folder)
    (folder / name).chmod(mode)
    told = prepare_without_rights(place.path)
    (folder / name).chmod(0o700)
    reason = expected.format(folder)
    assert told == f"cannot use the database {place.path}: {reason}\n"
    assert contents(folder) == before


def test_a_folder_that_cannot_be_synced_is_warned_of(
    place: SqliteEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sync = files.sync

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
    with pytest.raises(StartError) as error:
        await place.store(clock).own()
    assert error.value.detail == f"cannot use the database {place.path}: not a regular file"
    assert listed(place.path.parent) == [place.path.name]


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


@pytest.mark.parametrize("length", [241, 248])
def test_a_name_too_long_for_the_files_beside_it_is_refused(tmp_path: Path, length: int) -> None:
    # The lock file's name fits into 255 characters; those of a new database and its journal do not.
    path = tmp_path / ("q" * length)
    lease = FileLease(path)
    try:
        with pytest.raises(StartError, match=r"cannot create the database .*: File name too long"):
            prepare(path)
    finally:
        lease.release()
    assert listed(tmp_path) == [f"{path.name}.lock"]


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
    "last_stamp": ["0", "-1", "last_stamp - 1", "head_started_at - 1", "253402300800000000"],
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queue.created_at", "'x'"),
        ("queue.timeout", "'x'"),
        ("queue.wait_sum", "1.5"),
        ("history.finished_at", "'x'"),
        ("state.head_started_at", "'x'"),
        ("state.oldest_created_at", "'x'"),
    ],
)
async def test_a_number_that_is_none_is_damage(
    place: SqliteEngine, clock: FakeClock, field: str, value: str
) -> None:
    await filled(place, clock)
    damage_rows_of(place.path, field, value)
    assert (await refusal(place, clock)).endswith(ROW)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM origin",
        "UPDATE origin SET mark = -1",
        "UPDATE origin SET mark = mark + 1",
        "UPDATE origin SET mark_before = 7",
    ],
)
async def test_a_mark_that_is_none_is_damage(
    place: SqliteEngine, clock: FakeClock, sql: str
) -> None:
    await filled(place, clock)
    change(place.path, sql)
    assert "is damaged: its mark is wrong" in await refusal(place, clock)


@pytest.mark.parametrize("value", ["x'00'", "'x'", "hex(randomblob(16))"])
async def test_a_lineage_that_is_none_is_damage(
    place: SqliteEngine, clock: FakeClock, value: str
) -> None:
    await filled(place, clock)
    damage_rows_of(place.path, "lineage.uuid", value)
    with pytest.raises(StartError, match="the lineage is missing or damaged"):
        async with opened(place, clock):
            pass


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
