"""The store on SQLite: its owner, its connections, recovery, and what goes wrong while it runs."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from sanic_app.command_line import run
from sanic_app.errors import DiskFull, NotHead, NotOwner, StartError, StoreBusy, StoreFailed
from sanic_app.store import Add, Finish
from sanic_app.store.sqlite import disk, lease, origin
from sanic_app.store.sqlite.disk import has_room
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.schema import APPLICATION_ID
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import SECOND, NewTask
from tests.fake_clock import FakeClock
from tests.parts import KEEP, Opened, SqliteEngine, damage_page_of, limit_pages, new, opened
from tests.test_sqlite_file import (
    beside,
    change,
    contents,
    crashed,
    filled,
    listed,
    prepared,
    refusal,
    wal_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> SqliteEngine:
    return SqliteEngine(tmp_path)


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


@pytest.mark.parametrize("locked", [0, 1])
def test_a_file_system_without_locks_is_not_taken_for_another_owner(
    place: SqliteEngine, monkeypatch: pytest.MonkeyPatch, locked: int
) -> None:
    place.path.touch()
    descriptors: list[int] = []

    def refuse(descriptor: int) -> None:
        descriptors.append(descriptor)
        if len(descriptors) > locked:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lease, "lock", refuse)
    name = ("queue.db.lock", "queue.db")[locked]
    with pytest.raises(StartError, match=f"cannot lock .*{name}: No locks available$"):
        FileLease(place.path)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


async def test_a_lease_is_given_back_once(place: SqliteEngine) -> None:
    first = FileLease(place.path)
    first.release()
    second = FileLease(place.path)
    first.release()
    with pytest.raises(NotOwner):
        FileLease(place.path)
    second.release()


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


async def test_a_start_beside_another_program_that_lets_nobody_read_is_refused(
    place: SqliteEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanic_app.store.sqlite.file.BUSY_TIMEOUT", 20)
    await crashed(place, clock)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        async with prepared(place, clock) as store:
            # No advice to remove the WAL.
            with pytest.raises(StartError, match=r"another program is using the database$"):
                await store.open(await store.own())
        uri = f"file:{place.path}?mode=ro"
        # A WAL that nobody could look at does not pass for one without marks.
        with (
            closing(sqlite3.connect(uri, timeout=0.02, uri=True)) as connection,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            origin.belongs(uri, connection)
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


@pytest.mark.parametrize(
    ("total", "early"), [(2**20, True), (2**40, False), (0, False), (None, False)]
)
async def test_on_a_small_file_system_the_wal_is_copied_sooner(
    place: SqliteEngine,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    total: int | None,
    early: bool,
) -> None:
    usage = shutil.disk_usage(place.path.parent)

    def disk_usage(_: Path) -> object:
        if total is None:
            raise OSError(errno.ENOSYS, "Function not implemented")
        return usage._replace(total=total)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
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
            assert run(["copy", str(place.path), str(beside(place.path, ".copy"))]) == 1
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


@pytest.mark.parametrize("idle", [True, False])
async def test_a_folder_that_cannot_be_looked_into_fails_the_store(
    tmp_path: Path, clock: FakeClock, idle: bool
) -> None:
    """Its right was taken away, or a file lies in its place: a restart finds no commit there."""
    place = SqliteEngine(tmp_path / "folder")
    place.path.parent.mkdir()
    async with opened(place, clock) as store:
        await store.add(1)
        place.path.parent.rename(tmp_path / "away")
        place.path.parent.touch()
        with pytest.raises(StoreFailed, match=r"queue\.db cannot be looked at any more") as error:
            await (
                store.store.watch(store.lease) if idle else store.commit(Add(new(1)), Add(new(2)))
            )
        assert error.value.kind == "io"
        place.path.parent.unlink()
        (tmp_path / "away").rename(place.path.parent)
        # Nothing of it was tried again.
        assert len(await store.queue()) == (1 if idle else 3)


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


CHANGED = "the state row was changed by another program"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM state", ("corrupt", "the state row is missing")),
        ("UPDATE state SET last_stamp = 9", ("other", CHANGED)),
        ("UPDATE state SET wait_sum = 9", ("other", CHANGED)),
    ],
)
@pytest.mark.parametrize("commits", [0, 2])
async def test_a_state_row_that_is_not_as_it_was_left_fails_the_store(
    place: SqliteEngine, clock: FakeClock, commits: int, sql: str, expected: tuple[str, str]
) -> None:
    await filled(place, clock)
    async with opened(place, clock) as store:
        for _ in range(commits):
            await store.add(1)
        change(place.path, sql)
        with pytest.raises(StoreFailed) as error:
            await store.add(1)
        assert (error.value.kind, error.value.detail) == expected


async def test_a_commit_of_another_program_that_left_the_state_row_is_no_failure(
    place: SqliteEngine, clock: FakeClock
) -> None:
    """The watch notices it."""
    async with opened(place, clock) as store:
        await store.add(1)
        change(place.path, "UPDATE origin SET mark = mark")
        await store.add(2)
        assert len(await store.queue()) == 2


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
