"""A backup that is put in the place of a killed service's database, with its WAL and without."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sanic_app.command_line import run
from sanic_app.errors import StartError
from sanic_app.store.sqlite.checkpointer import Checkpointer
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import Retention
from tests.fake_clock import FakeClock
from tests.parts import Opened, SqliteEngine, opened
from tests.running import Running
from tests.test_sqlite_file import beside, contents, prepared, wal_of

pytestmark = pytest.mark.anyio

ADVICE = "keep a copy of that file, remove it and the -shm file, and start again"

Copy = Callable[[Path, Path], None]


def backup(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as from_, closing(sqlite3.connect(target)) as to:
        from_.backup(to)


def vacuum(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def plain(source: Path, target: Path) -> None:
    """Copy the file alone, as nobody should. Not by this process: it would drop SQLite's locks."""
    with closing(sqlite3.connect(f"file:{source}?immutable=1", uri=True)) as raw:
        (pages,) = raw.execute("PRAGMA page_count").fetchone()
        assert pages
        target.write_bytes(raw.serialize())


LIVE: list[Copy] = [backup, vacuum]
KEPT = Retention(tasks=2_000)


async def work(store: Opened, clock: FakeClock, chance: random.Random, rounds: int) -> None:
    """Add and finish batches of zero timeouts, with a service's checkpoints between."""
    for _ in range(rounds):
        tasks = chance.choice((1, 10, 300, 1_000))
        await store.add(*[0] * tasks)
        while (await store.store.figures()).head is not None:
            await store.finish_head()
        clock.advance(1)
        await store.store.maintain(store.lease)


def killed(place: SqliteEngine, folder: Path) -> SqliteEngine:
    """Return a place as a kill at this moment would leave it."""
    folder.mkdir()
    if wal_of(place.path).exists():
        shutil.copyfile(wal_of(place.path), wal_of(folder / place.path.name))
    plain_bytes = place.path.parent / "plain"
    shutil.copyfile(place.path, plain_bytes)
    plain_bytes.rename(folder / place.path.name)
    return SqliteEngine(folder)


def interrupted(path: Path) -> None:
    """Leave a rollback journal beside a database, as the end of another program does."""
    lines = (
        "import os, sqlite3, sys",
        "raw = sqlite3.connect(sys.argv[1], isolation_level=None)",
        "for line in ('PRAGMA journal_mode = DELETE', 'PRAGMA cache_size = 1', 'BEGIN',",
        "             'UPDATE history SET num = 9'): raw.execute(line).fetchall()",
        "os._exit(0)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines), path], check=True)


def done_with(journal: Path) -> None:
    with journal.open("r+b") as file:
        file.write(bytes(28))


async def refused(place: SqliteEngine, clock: FakeClock) -> str:
    before = contents(place.path.parent)
    async with prepared(place, clock) as store:
        with pytest.raises(StartError) as error:
            await store.open(await store.own())
    assert contents(place.path.parent) == before
    return error.value.detail


async def last_num(place: SqliteEngine, clock: FakeClock) -> int:
    async with opened(place, clock) as store:
        return (await store.store.figures()).last_history_num


@pytest.mark.parametrize("copy", LIVE, ids=lambda copy: copy.__name__)
@pytest.mark.parametrize("seed", range(12))
async def test_a_backup_beside_an_older_wal_is_refused_and_a_kill_is_not(
    place: SqliteEngine, clock: FakeClock, seed: int, copy: Copy, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    saved = tmp_path / "saved.db"
    store = place.store(clock, history_keep=KEPT)
    assert isinstance(store, SqliteStore)
    lease = await store.own()
    await store.open(lease)
    one = Opened(store, lease)
    try:
        await work(one, clock, chance, chance.randrange(0, 9))
        copy(place.path, saved)
        at_copy = (await store.figures()).last_history_num
        if seed:
            await work(one, clock, chance, chance.randrange(1, 9))
        at_kill = (await store.figures()).last_history_num
        gone = killed(place, tmp_path / "killed")
        other = killed(place, tmp_path / "other")
    finally:
        await store.close()
        lease.release()
    assert await last_num(gone, clock) == at_kill

    if not wal_of(other.path).stat().st_size:
        return
    shutil.copyfile(saved, other.path)
    line = await refused(other, clock)
    # Where the pages of the two are at other places, they cannot even be read together.
    assert "does not belong to queue.db-wal" in line or "beside an older queue.db-wal" in line
    assert ADVICE in line
    # Done as the line says.
    wal_of(other.path).unlink()
    beside(other.path, "-shm").unlink(missing_ok=True)
    assert await last_num(other, clock) == at_copy


@pytest.fixture
def place(tmp_path: Path) -> SqliteEngine:
    (tmp_path / "live").mkdir()
    return SqliteEngine(tmp_path / "live")


async def test_a_copy_of_the_closed_file_is_another_database_after_the_next_start(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    async with opened(place, clock) as store:
        await store.add(1, 2)
    saved = tmp_path / "saved.db"
    shutil.copyfile(place.path, saved)
    async with opened(place, clock) as store:
        await store.add(3)
        other = killed(place, tmp_path / "killed")
    shutil.copyfile(saved, other.path)
    assert "does not belong" in await refused(other, clock)


async def test_a_copy_of_the_open_file_alone_is_another_database_after_two_checkpoints(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.db"
    async with opened(place, clock) as store:
        await work(store, clock, random.Random(1), 3)
        plain(place.path, saved)
        for _ in range(3):
            await store.add(*[1] * 9_000)
            assert isinstance(store.store, SqliteStore)
            await store.store._checkpointer.checkpoint("PASSIVE")
        await store.add(1)
        other = killed(place, tmp_path / "killed")
    shutil.copyfile(saved, other.path)
    assert "does not belong" in await refused(other, clock)


async def test_a_wal_that_was_copied_before_its_database_is_refused(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    """File by file, in some order, from a running service: a checkpoint came between the two."""
    folder = tmp_path / "copy"
    folder.mkdir()
    other = SqliteEngine(folder)
    async with opened(place, clock) as store:
        await store.add(*[1] * 2_000)
        shutil.copyfile(wal_of(place.path), wal_of(other.path))
        await store.finish(1)
        assert isinstance(store.store, SqliteStore)
        await store.store._checkpointer.checkpoint("PASSIVE")
        shutil.copyfile(place.path, other.path)
    assert "does not belong" in await refused(other, clock)


@pytest.mark.parametrize("seed", [3, 10, 11, 18])
async def test_a_copy_whose_pages_are_of_two_moments_is_refused_or_whole(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path, seed: int
) -> None:
    """The WAL was copied first, and a checkpoint came while the database was copied."""
    chance = random.Random(seed)
    said = []
    async with opened(place, clock) as store:
        assert isinstance(store.store, SqliteStore)
        checkpoint = store.store._checkpointer.checkpoint
        await work(store, clock, chance, chance.randrange(2, 6))
        await checkpoint("PASSIVE")
        await work(store, clock, chance, 1)
        wal, before = (path.read_bytes() for path in (wal_of(place.path), place.path))
        await work(store, clock, chance, chance.randrange(1, 4))
        await checkpoint("PASSIVE")
        after = place.path.read_bytes()
        for cut in range(0, len(after), 4 * 4_096):
            copy = SqliteEngine(tmp_path / str(cut))
            copy.path.parent.mkdir()
            wal_of(copy.path).write_bytes(wal)
            copy.path.write_bytes(before[:cut] + after[min(cut, len(before)) :])
            try:
                async with opened(copy, clock):
                    pass
            except StartError as error:
                said.append(error.detail)
            else:
                assert run(["check", str(copy.path)]) == 0
    # Without a look at all pages, these were ready.
    assert any("is damaged: " in each for each in said)


async def test_all_files_of_a_killed_service_together_are_a_copy(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    async with opened(place, clock) as store:
        await store.add(*[1] * 9_000)
        copies = [killed(place, tmp_path / name) for name in ("one", "two")]
    # The first goes on and is killed too; the second is put over all of it.
    async with opened(copies[0], clock) as store:
        await store.add(1)
        gone = killed(copies[0], tmp_path / "three")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{copies[1].path}{suffix}", f"{gone.path}{suffix}")
    assert await last_num(gone, clock) == 9_000


async def test_a_restored_backup_can_be_killed_at_any_moment_of_its_first_start(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place, clock) as store:
        await store.add(1, 2)
        vacuum(place.path, tmp_path / "saved.db")
    moments: list[SqliteEngine] = []
    restored = SqliteEngine(tmp_path / "restored")
    restored.path.parent.mkdir()
    shutil.copyfile(tmp_path / "saved.db", restored.path)
    real = Checkpointer.checkpoint

    async def watched(self: Checkpointer, mode: str) -> None:
        moments.append(killed(restored, tmp_path / f"moment{len(moments)}"))
        await real(self, mode)
        moments.append(killed(restored, tmp_path / f"moment{len(moments)}"))

    monkeypatch.setattr(Checkpointer, "checkpoint", watched)
    async with opened(restored, clock) as store:
        await store.add(3)
        moments.append(killed(restored, tmp_path / f"moment{len(moments)}"))
    monkeypatch.undo()
    assert len(moments) > 4
    assert {await last_num(each, clock) for each in moments} == {2, 3}


def test_the_documented_backup_ends_while_the_queue_is_busy(tmp_path: Path) -> None:
    with Running(tmp_path) as service:
        body = {"tasks": [{"num": 1, "timeout": 0.01}] * 2_000}
        for _ in range(3):
            assert service.request("POST", "/api/v1/tasks/batch", body)[0] == 201
        before = service.request("GET", "/api/v1/queue")[1]["depth"]
        begun = time.monotonic()
        with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
        assert time.monotonic() - begun < 10
        # It is none the worse for it, and goes on.
        while (depth := service.request("GET", "/api/v1/queue")[1]["depth"]) == before:
            assert time.monotonic() - begun < 10
        assert 0 < depth < before
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copyfile(tmp_path / "copy.db", restored / "queue.db")
    with Running(restored) as service:
        assert service.add(1)["history_num"] == 6_001


async def test_the_journal_of_an_older_copy_is_not_written_into_the_database(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, journal = tmp_path / "older.db", Path(f"{place.path}-journal")
    chance = random.Random(1)
    for rounds in (8, 1):
        async with opened(place, clock) as store:
            await work(store, clock, chance, rounds)
        if not older.exists():
            shutil.copyfile(place.path, older)
            interrupted(older)
    shutil.copyfile(f"{older}-journal", journal)
    assert f"{journal} would be written into the database" in await refused(place, clock)
    for arguments in (["check", place.path], ["copy", place.path, tmp_path / "new.db"]):
        assert run([str(each) for each in arguments]) == 1
        assert "-journal would be written into the database" in capsys.readouterr().err
    done_with(journal)
    async with opened(place, clock) as store:
        await work(store, clock, chance, 1)
    assert run(["check", str(place.path)]) == 0
