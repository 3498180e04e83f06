"""`sanic-app copy`: a whole queue as of one moment, and nothing where it cannot be."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sanic_app.client import stores
from sanic_app.errors import StartError, StoreBusy
from sanic_app.store.snapshot import TABLES
from sanic_app.store.sqlite.checkpointer import CHECKPOINT_PAGES
from sanic_app.store.sqlite.connections import WAL_KEPT_BYTES
from sanic_app.store.sqlite.disk import UNFINISHED
from sanic_app.store.sqlite.file import prepare
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.store.sqlite.schema import APPLICATION_ID, migrate
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.store.sqlite.target import SqliteTarget
from tests.fake_clock import FakeClock
from tests.parts import SqliteEngine, damage_page_of, opened
from tests.running import Running
from tests.test_check import command, contents, found, lived_in
from tests.test_sqlite_file import beside, change, crashed, wal_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> SqliteEngine:
    (tmp_path / "from").mkdir()
    return SqliteEngine(tmp_path / "from")


def rows_of(path: Path) -> dict[str, list[object]]:
    """Return all rows of all tables that make a queue."""
    with SqliteSnapshot(path) as store:
        return {
            name: list(store.select(f"SELECT {table.listed} FROM {name} ORDER BY {table.key}"))
            for name, table in TABLES.items()
        }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lineage_of(path: Path) -> str:
    with SqliteSnapshot(path) as store:
        ((uuid,),) = store.select("SELECT uuid FROM lineage")
        return str(uuid)


def copied(source: Path, target: Path) -> None:
    done = command("copy", str(source), str(target), folder=source.parent)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout == f"copied {source} to {target}\n"


async def test_a_copy_has_everything_and_a_lineage_of_its_own(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    before = contents(place.path.parent)
    target = tmp_path / "copy.db"
    copied(place.path, target)
    assert contents(place.path.parent) == before
    assert found(target) == []
    assert rows_of(target) == rows_of(place.path)
    assert rows_of(target)["queue"]
    assert lineage_of(target) != lineage_of(place.path)
    assert names(tmp_path) == ["copy.db", "copy.db.lock", "from"]
    assert target.stat().st_mode & 0o777 == 0o600
    async with opened(SqliteEngine(target.parent), clock):
        # Not the copy: the place beside it is as good as before.
        pass
    target.replace(tmp_path / "queue.db")
    clock.advance(2)
    async with opened(SqliteEngine(tmp_path), clock) as store:
        overview = await store.store.overview()
        assert overview.head is not None
        assert overview.head.history_num == 6
        assert overview.seconds_left == 5 - 3
        assert (await store.add(1)).first == 14


async def test_a_pause_is_copied(place: SqliteEngine, clock: FakeClock, tmp_path: Path) -> None:
    async with opened(place, clock) as store:
        await store.switch(paused=True)
        await store.add(1)
    copied(place.path, tmp_path / "queue.db")
    async with opened(SqliteEngine(tmp_path), clock) as store:
        assert (await store.store.figures()).paused == 1


async def test_rows_of_another_engine_make_the_same_copy(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    """What an engine without pages of SQLite gives: its rows alone."""

    class Rows:
        def __init__(self, store: SqliteSnapshot) -> None:
            self.select, self.verify = store.select, store.verify
            self.engine_faults, self.outdated = store.engine_faults, store.outdated

    await lived_in(place, clock)
    target = tmp_path / "queue.db"
    with SqliteSnapshot(place.path) as store, SqliteTarget(target) as made:
        made.fill(Rows(store), lambda _, __: None)
        made.publish()
    assert found(target) == []
    assert rows_of(target) == rows_of(place.path)
    assert lineage_of(target) != lineage_of(place.path)
    async with opened(SqliteEngine(tmp_path), clock) as reopened:
        assert (await reopened.add(1)).first == 14


async def test_what_a_killed_service_left_is_copied_from_its_wal(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await crashed(place, clock)
    before = contents(place.path.parent)
    copied(place.path, tmp_path / "copy.db")
    assert contents(place.path.parent) == before
    assert [row[0] for row in rows_of(tmp_path / "copy.db")["history"]] == [1, 2]  # type: ignore[index]


async def test_a_copy_of_an_older_schema_has_the_newest(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(place.path, isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode = WAL").fetchall()
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(old, 2)
    assert ["schema version is 2" in line for line in found(place.path)] == [True]
    copied(place.path, tmp_path / "queue.db")
    assert found(tmp_path / "queue.db") == []
    async with opened(SqliteEngine(tmp_path), clock) as store:
        assert (await store.add(1)).first == 1


async def test_a_target_that_is_there_or_in_use_is_refused(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    source = str(place.path)
    target = tmp_path / "copy.db"
    target.touch()
    journal = tmp_path / "third.db-journal"
    for file in (target, wal_of(tmp_path / "other.db"), journal, place.path):
        if not file.exists():
            file.write_bytes(b"x")
        to = str(file).removesuffix("-wal").removesuffix("-journal")
        before = contents(tmp_path)
        done = command("copy", source, to, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{file} exists: copy to another place, or move" in done.stderr
        after = contents(tmp_path)
        after.pop(f"{Path(to).name}.lock", None)
        assert after == before
    lease = FileLease(tmp_path / "owned.db")
    done = command("copy", source, str(tmp_path / "owned.db"), folder=tmp_path)
    lease.release()
    assert done.returncode == 1
    assert "another process owns the queue" in done.stderr
    done = command("copy", source, str(tmp_path / "no" / "copy.db"), folder=tmp_path)
    assert done.returncode == 1
    assert "there is no folder" in done.stderr
    done = command("copy", source, "x" * 300, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"sanic-app: cannot write {tmp_path / ('x' * 300)}: File name too long\n"
    for arguments in ([source], [source, "a", "b"], [source, ":memory:"]):
        assert command("copy", *arguments, folder=tmp_path).returncode == 2


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal", ".lock", UNFINISHED])
async def test_no_database_begins_under_the_name_of_a_file_beside_another(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path, end: str
) -> None:
    await lived_in(place, clock)
    folder = place.path.parent
    before = contents(folder)
    for path in (beside(place.path, end), folder / f"other.db{end}"):
        if not path.exists():
            done = command("copy", str(place.path), str(path), folder=folder)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"a new database cannot be called {path.name}: " in done.stderr
            with pytest.raises(StartError, match="a new database cannot be called"):
                prepare(path)
    assert contents(folder) == before


async def test_a_copy_touches_no_file_with_a_name_that_a_user_may_give(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    """A backup beside its queue, before it is renamed, was taken for an unfinished copy."""
    await lived_in(place, clock)
    backup = tmp_path / "backup.db.new"
    copied(place.path, backup)
    copied(backup, tmp_path / "backup.db")
    assert rows_of(backup) == rows_of(tmp_path / "backup.db") == rows_of(place.path)


@pytest.mark.parametrize("damage", ["row", "page"])
async def test_a_source_that_is_not_whole_is_not_copied(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path, damage: str
) -> None:
    await lived_in(place, clock)
    if damage == "page":
        damage_page_of(place.path, "history")
    else:
        change(place.path, "UPDATE state SET backlog = backlog + 1")
    done = command("copy", str(place.path), str(tmp_path / "copy.db"), folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was copied" in done.stderr
    assert names(tmp_path) == ["copy.db.lock", "from"]


async def test_no_service_starts_at_a_place_that_is_copied_to(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    target = tmp_path / "queue.db"
    with SqliteTarget(target) as made:
        running = Running(tmp_path, ready=False)
        assert running.wait() == 1
        assert "another process owns the queue" in running.log
        with SqliteSnapshot(place.path) as store:
            made.fill(store, lambda _, __: None)
        assert not target.exists()
    # It was not published.
    assert not target.exists()
    assert not beside(target, UNFINISHED).exists()


def store_at(path: Path) -> stores._Store:
    return stores._Store(str(path), lambda: SqliteSnapshot(path), lambda: SqliteTarget(path))


async def test_a_service_that_starts_meanwhile_has_its_store_read_anew(
    place: SqliteEngine,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await lived_in(place, clock)
    tries = []
    verify = SqliteSnapshot.verify

    def busy(self: SqliteSnapshot) -> None:
        tries.append(self)
        verify(self)
        if len(tries) < 3:
            raise StoreBusy

    monkeypatch.setattr(SqliteSnapshot, "verify", busy)
    assert stores._copy(store_at(place.path), store_at(tmp_path / "copy.db")) == 0
    assert len(tries) == 3
    assert "copied" in capsys.readouterr().out
    assert found(tmp_path / "copy.db") == []
    tries.clear()
    assert stores._check(store_at(tmp_path / "copy.db")) == 0
    assert len(tries) == 3
    monkeypatch.setattr(stores, "TRIES", 2)
    tries.clear()
    with pytest.raises(StoreBusy):
        stores._copy(store_at(place.path), store_at(tmp_path / "other.db"))
    assert not (tmp_path / "other.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_copy_that_root_makes_belongs_to_the_owner_of_the_folder(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 1234, 4321)
    # A lock file of root's would keep the service from starting there.
    done = command("copy", "none.db", str(folder / "queue.db"), folder=tmp_path)
    assert done.returncode == 1
    status = (folder / "queue.db.lock").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    copied(place.path, folder / "queue.db")
    for name in ("queue.db", "queue.db.lock"):
        status = (folder / name).stat()
        assert (status.st_uid, status.st_gid) == (1234, 4321)


def test_a_bar_is_shown_on_a_terminal_alone(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    asyncio.run(lived_in(place, clock))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sanic_app", "copy", str(place.path), str(tmp_path / "copy.db")],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    assert process.wait(20) == 0
    assert b"copying" in shown
    assert b"100%" in shown


# While the source is in service, and killed.


def batches(running: Running, stop: threading.Event) -> None:
    body = {"tasks": [{"num": n, "timeout": 0} for n in range(50)]}
    while not stop.is_set():
        assert running.request("POST", "/api/v1/tasks/batch", body)[0] == 201


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Running]:
    """A service with a long history, to which tasks are added and finished all the time."""
    folder = tmp_path / "from"
    folder.mkdir(exist_ok=True)
    stop = threading.Event()
    with Running(folder) as running:
        body = {"tasks": [{"num": 1, "timeout": 0}] * 10_000}
        for _ in range(5):
            assert running.request("POST", "/api/v1/tasks/batch", body)[0] == 201
        adding = threading.Thread(target=batches, args=(running, stop))
        adding.start()
        try:
            yield running
        finally:
            stop.set()
            adding.join()


def test_a_copy_under_load_is_of_one_moment_and_the_wal_goes_back(
    loaded: Running, tmp_path: Path
) -> None:
    source = loaded.folder / "queue.db"
    for number in range(3):
        target = tmp_path / f"copy{number}.db"
        copied(source, target)
        assert found(target) == []
        ((last,),) = _select(target, "SELECT last_history_num FROM state")
        ((now,),) = _select(source, "SELECT last_history_num FROM state")
        assert 50_000 < last <= now
    deadline = time.monotonic() + 20
    limit = max(WAL_KEPT_BYTES, 2 * CHECKPOINT_PAGES * 4_096)
    while wal_of(source).stat().st_size > limit:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_snapshot_stays_as_it_is_while_tasks_are_added_and_finished(
    loaded: Running, tmp_path: Path
) -> None:
    last = "SELECT last_history_num, last_finish_num FROM state"
    target = tmp_path / "copy.db"
    with SqliteSnapshot(loaded.folder / "queue.db") as store, SqliteTarget(target) as made:
        (before,) = store.select(last)
        time.sleep(0.3)
        assert _select(loaded.folder / "queue.db", last) != [before]
        made.fill(store, lambda _, __: time.sleep(0.02))
        assert _select(made.new, last) == [before]
        assert list(store.select(last)) == [before]


def test_a_copy_that_is_killed_leaves_nothing_that_counts(loaded: Running, tmp_path: Path) -> None:
    chance = random.Random(5)
    source, target = loaded.folder / "queue.db", tmp_path / "copy.db"
    killed = whole = 0
    while killed < 6:
        process = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "copy", str(source), str(target)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.2, 1.0))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        if target.exists():
            assert found(target) == []
            target.unlink()
            whole += 1
    copied(source, target)
    assert found(target) == []
    assert not beside(target, UNFINISHED).exists()


def test_a_signal_ends_a_copy_and_leaves_nothing(loaded: Running, tmp_path: Path) -> None:
    source, target = loaded.folder / "queue.db", tmp_path / "copy.db"
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "copy", str(source), str(target)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not beside(target, UNFINISHED).exists():
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) in ((128 + number, ""), (0, ""))
        assert target.exists() == (process.returncode == 0)
        target.unlink(missing_ok=True)
        assert not beside(target, UNFINISHED).exists()


def test_a_signal_at_the_beginning_of_a_copy_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = SqliteTarget(tmp_path / "copy.db")
    empty = target.empty

    def interrupted() -> None:
        empty()
        raise KeyboardInterrupt

    monkeypatch.setattr(target, "empty", interrupted)
    with pytest.raises(KeyboardInterrupt), target:
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["copy.db.lock"]


def _select(path: Path, sql: str) -> list[tuple[int, ...]]:
    with SqliteSnapshot(path) as store:
        return list(store.select(sql))


# The documented steps.


def test_backup_restore_and_move_as_documented(loaded: Running, tmp_path: Path) -> None:
    """README.md, "In production": Backup, Restore and Move, from a service under load."""
    home = loaded.folder
    copied(home / "queue.db", home / "backup.db")
    ((saved,),) = _select(home / "backup.db", "SELECT last_history_num FROM state")
    with closing(sqlite3.connect(home / "queue.db")) as raw:
        assert raw.execute("SELECT last_history_num FROM state").fetchone()[0] >= saved
    # Over a service nothing is restored.
    refused = command("copy", "backup.db", "queue.db", folder=home)
    assert refused.returncode == 1
    assert "another process owns the queue" in refused.stderr

    # A move, while nobody serves it.
    moved = tmp_path / "moved"
    moved.mkdir()
    copied(home / "backup.db", moved / "queue.db")
    with Running(moved) as service:
        assert service.add(7, 600)["history_num"] == saved + 1
        copied(moved / "queue.db", moved / "backup.db")
        assert service.add(8, 600)["history_num"] == saved + 2
        before = lines_of(service, "0.0", 2)[1]
        service.stop()

    # A restore: what was added since the backup is gone, and listeners are told so.
    for suffix in ("", "-wal", "-shm"):
        beside(moved / "queue.db", suffix).unlink(missing_ok=True)
    copied(moved / "backup.db", moved / "queue.db")
    assert command("check", "queue.db", folder=moved).returncode == 0
    with Running(moved) as service:
        assert service.request("GET", f"/api/v1/tasks/{saved + 1}")[1]["num"] == 7
        assert service.add(9, 600)["history_num"] == saved + 2
        assert "event: reset" in lines_of(service, before.removeprefix("id: "), 5)


def lines_of(service: Running, after: str, count: int) -> list[str]:
    """Return the first lines of the stream of events after an id."""
    request = urllib.request.Request(f"{service.url}/api/v1/events")
    request.add_header("Last-Event-ID", after)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return [answer.readline().decode().strip() for _ in range(count)]
