"""`sanic-app check`: it finds every kind of damage, and changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from sanic_app.errors import StartError, StoreBusy
from sanic_app.store import WAIT_SUM_MODULUS
from sanic_app.store.audit import faults
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.task import SECOND, STAMP_MAX, Retention
from tests import warm
from tests.fake_clock import FakeClock
from tests.parts import Engine, SqliteEngine, damage_page_of, opened
from tests.running import Running
from tests.test_sqlite_file import change, crashed, wal_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> SqliteEngine:
    return SqliteEngine(tmp_path)


def command(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SANIC_APP_")}
    return warm.run(arguments, env={**clean, **environ}, cwd=folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Return each file of a folder; of the memory that connections share, that it is there."""
    return {
        file.name: b"" if file.name.endswith("-shm") else file.read_bytes()
        for file in folder.iterdir()
        if file.is_file()
    }


def found(path: Path) -> list[str]:
    try:
        with SqliteSnapshot(path) as store:
            return list(faults(store))
    except StartError as error:
        return [error.detail]


async def lived_in(place: Engine, clock: FakeClock, kept: int | None = None) -> None:
    """Make a queue with everything that can be in one.

    Tasks 1 to 4 are done, 5 was cancelled while it waited, 6 is the head; 8, 9 and 12 were
    cancelled behind it. ``ended`` is a key whose tasks are finished, ``open`` one whose are not.
    """
    retention = None if kept is None else Retention(tasks=kept)
    async with opened(place, clock, history_keep=retention) as store:
        await store.add(0, 1, key="ended", request="r")
        clock.advance(0.5)
        await store.add(0, 2, 3)
        await store.finish(1)
        for number, seconds in ((2, 1), (3, 1), (4, 2)):
            clock.advance(seconds)
            await store.finish(number)
        clock.advance(1)
        await store.add(5, 6, 7, 8, 9, key="open", request="r")
        await store.cancel(5)
        clock.advance(1)
        await store.cancel(8, 9)
        await store.add(1, 1, 1)
        await store.cancel(12)


SHIFT = SECOND * 100

DAMAGE: Mapping[str, tuple[str, str]] = {
    # The state row.
    "last_history_num": ("UPDATE state SET last_history_num = 14", "14 were added"),
    "last_finish_num": ("UPDATE state SET last_finish_num = 7", "the state row says"),
    "last_stamp": ("UPDATE state SET last_stamp = 1", "last_stamp is older"),
    "last_stamp without a date": (
        f"UPDATE state SET last_stamp = {STAMP_MAX + 1}",
        "last_stamp is beyond the year 9999",
    ),
    "wait_sum": ("UPDATE state SET wait_sum = wait_sum + 1", "the state row: its wait_sum"),
    "wait_sum too great": ("UPDATE state SET wait_sum = -1", "not from 0 to 2^63 - 1"),
    "depth": ("UPDATE state SET depth = 6", "depth is 6"),
    "backlog": ("UPDATE state SET backlog = backlog - 1", "backlog is"),
    "oldest_created_at": ("UPDATE state SET oldest_created_at = 5", "oldest_created_at is 5"),
    "paused": ("UPDATE state SET paused = 2", "paused is 2"),
    "head": ("UPDATE state SET head = 7", "head is 7"),
    "no head": ("UPDATE state SET head = NULL, head_started_at = NULL", "no task is started"),
    "half a head": ("UPDATE state SET head_started_at = NULL", "head_started_at None"),
    "head_started_at": (
        "UPDATE state SET head_started_at = oldest_created_at - 1",
        "the head was started before it was created",
    ),
    "head in another's wait": (
        (
            "UPDATE history SET finished_at = (SELECT head_started_at + 1 FROM state)"
            " WHERE history_num = 5"
        ),
        "the head was started before the wait of another task was over",
    ),
    "pruned": ("UPDATE state SET pruned = 2", "the state row says"),
    "pruned too great": ("UPDATE state SET pruned = 99", "pruned is 99"),
    "another state row": ("UPDATE state SET id = 2", "state: its row is not the one with the id 1"),
    "no state row": ("DELETE FROM state", "0 rows instead of one"),
    # Numbers.
    "a queued task is gone": ("DELETE FROM queue WHERE history_num = 10", "are 12, and 13 were"),
    "a finished task is gone": ("DELETE FROM history WHERE history_num = 2", "are 12, and 13 were"),
    "the first finish is gone": ("DELETE FROM history WHERE history_num = 1", "finishes from 2"),
    "a task in both tables": (
        (
            "INSERT INTO history SELECT history_num, num, timeout, created_at, 'cancelled', NULL,"
            " (SELECT last_stamp FROM state), 9 FROM queue WHERE history_num = 7"
        ),
        "task 7: is in the queue and in the history",
    ),
    "a gap in the finish numbers": (
        "UPDATE history SET finish_num = 9 WHERE history_num = 12",
        "has a finish number that was removed or not given yet",
    ),
    "a finish number of removed ones": (
        "UPDATE history SET finish_num = 0 WHERE history_num = 1",
        "has a finish number that was removed or not given yet",
    ),
    "a task beyond the last": (
        "UPDATE queue SET history_num = 20 WHERE history_num = 13",
        "task 20 is beyond the last one, 13",
    ),
    "a number below 1": (
        "UPDATE history SET history_num = -1 WHERE history_num = 1",
        "task -1: has no number from 1 on",
    ),
    # Rows.
    "a negative timeout": ("UPDATE queue SET timeout = -1 WHERE history_num = 13", "negative"),
    "a negative wait_sum": ("UPDATE queue SET wait_sum = -5 WHERE history_num = 13", "negative"),
    "a negative timeout in the history": (
        "UPDATE history SET timeout = -1 WHERE history_num = 12",
        "task 12: has a negative timeout",
    ),
    "an unknown outcome": (
        "UPDATE history SET outcome = 'lost' WHERE history_num = 2",
        "neither done nor cancelled",
    ),
    "done and never started": (
        "UPDATE history SET started_at = NULL WHERE history_num = 2",
        "was never started",
    ),
    "done early": (
        "UPDATE history SET timeout = timeout + 1 WHERE history_num = 4",
        "was done before its wait was over",
    ),
    "finished in the future": (
        f"UPDATE history SET finished_at = finished_at + {SHIFT} WHERE history_num = 12",
        "after the last stamp",
    ),
    "finished before it was created": (
        "UPDATE history SET finished_at = created_at - 1 WHERE history_num = 12",
        "was finished before it was created",
    ),
    "started before it was created": (
        "UPDATE history SET started_at = created_at - 1 WHERE history_num = 1",
        "was started before it was created",
    ),
    "created in the future": (
        f"UPDATE queue SET created_at = created_at + {SHIFT} WHERE history_num = 13",
        "was created after the last stamp",
    ),
    "created before 1970": (
        "UPDATE history SET created_at = -1 WHERE history_num = 1",
        "was created before 1970",
    ),
    # Order.
    "creation out of order in the history": (
        "UPDATE history SET created_at = created_at - 600000 WHERE history_num = 4",
        "task 4: was created before a task with a lower number",
    ),
    "creation out of order in the queue": (
        "UPDATE queue SET created_at = created_at - 1 WHERE history_num = 10",
        "task 10: was created before a task with a lower number",
    ),
    "creation out of order between the tables": (
        "UPDATE history SET created_at = created_at - 1 WHERE history_num = 8",
        "was created after a task with a higher number",
    ),
    "created before the history": (
        "UPDATE queue SET created_at = created_at - 5200000 WHERE history_num = 6",
        "was created before a task with a lower number",
    ),
    "finishes out of order": (
        "UPDATE history SET finished_at = finished_at - 1 WHERE history_num = 12",
        "whose finish number is lower",
    ),
    "two at a time": (
        "UPDATE history SET started_at = started_at - 1 WHERE history_num = 4",
        "task 4: was started before another was finished",
    ),
    "two at a time with a cancelled one between": (
        (
            "UPDATE history SET started_at = NULL, outcome = 'cancelled' WHERE history_num = 3;"
            "UPDATE history SET started_at = started_at - 1000001, timeout = 3000000"
            " WHERE history_num = 4"
        ),
        "task 4: was started before another was finished",
    ),
    "finishes swapped": (
        (
            "UPDATE history SET finish_num = -finish_num WHERE history_num IN (2, 3);"
            "UPDATE history SET finish_num = 5 + finish_num WHERE finish_num < 0"
        ),
        "whose finish number is lower",
    ),
    "started behind the head": (
        "UPDATE history SET started_at = finished_at WHERE history_num = 12",
        "task 12: was started, and task 6 still waits before it",
    ),
    # Skipped tasks and running sums.
    "a skipped task is missing": (
        "DELETE FROM skipped WHERE level = 0 AND block = 8",
        "skipped: holds 2 tasks behind 6",
    ),
    "a skipped task beyond the last": (
        "UPDATE skipped SET block = 20 WHERE level = 0 AND block = 12",
        "the last 20",
    ),
    "a skipped task too many": (
        "INSERT INTO skipped VALUES (0, 11, 1, 1, 0)",
        "task 11: is in the queue and skipped",
    ),
    "a skipped task that was done": (
        "INSERT INTO skipped VALUES (0, 3, 1, 1, 0)",
        "task 3: is skipped with another timeout than it had, or was not cancelled",
    ),
    "the timeout of a skipped task": (
        "UPDATE skipped SET micros = micros + 1 WHERE level = 0 AND block = 9",
        "task 9: is skipped with another timeout",
    ),
    "a skipped task twice": (
        "UPDATE skipped SET tasks = 2 WHERE level = 0 AND block = 9",
        "task 9: is skipped",
    ),
    "the tasks of a block": (
        "UPDATE skipped SET tasks = tasks + 1 WHERE level = 1",
        "block 0 of level 1 is not the sum of its parts",
    ),
    "the timeouts of a block": (
        "UPDATE skipped SET seconds = seconds + 1 WHERE level = 3",
        "block 0 of level 3 is not the sum of its parts",
    ),
    "a missing block": (
        "DELETE FROM skipped WHERE level = 2",
        "block 0 of level 2 is not the sum of its parts",
    ),
    "a block too many": (
        "INSERT INTO skipped VALUES (1, 5, 1, 0, 0)",
        "block 5 of level 1 is not the sum of its parts",
    ),
    "a running sum": (
        "UPDATE queue SET wait_sum = wait_sum + 1 WHERE history_num = 7",
        "task 7: its wait_sum",
    ),
    "a running sum behind skipped tasks": (
        "UPDATE queue SET wait_sum = wait_sum + 1 WHERE history_num = 10",
        "task 10: its wait_sum",
    ),
    "all running sums": (
        "UPDATE queue SET wait_sum = wait_sum + 1; UPDATE state SET wait_sum = wait_sum + 1",
        "the first wait_sum",
    ),
    # Keys.
    "the tasks of a key": ("UPDATE idempotency SET last = 99 WHERE key = 'open'", "never added"),
    "keys with the same tasks": (
        "UPDATE idempotency SET first = 2 WHERE key = 'open'",
        "of the key",
    ),
    "a key of another time": (
        "UPDATE idempotency SET created_at = created_at - 1 WHERE key = 'open'",
        "created at another time",
    ),
    "a key that has ended too soon": (
        "UPDATE idempotency SET finished_at = created_at WHERE key = 'open'",
        "a task of it is in the queue",
    ),
    "a key that does not end": (
        "UPDATE idempotency SET finished_at = NULL WHERE key = 'ended'",
        "none of its tasks is in the queue",
    ),
    "the end of a key": (
        "UPDATE idempotency SET finished_at = finished_at + 1 WHERE key = 'ended'",
        "has not ended with the last of its tasks",
    ),
    "a key of the future": (
        f"UPDATE idempotency SET finished_at = finished_at + {SHIFT} WHERE key = 'ended'",
        "after the last stamp",
    ),
    "the start of a key": (
        (
            "UPDATE idempotency SET created_at = created_at + 1 WHERE key = 'ended';"
            "UPDATE history SET created_at = created_at + 1 WHERE history_num = 2;"
            "UPDATE idempotency SET first = 2 WHERE key = 'ended'"
        ),
        "has not started its first task",
    ),
    "what a key started": ("UPDATE idempotency SET started = 2", "neither started"),
    # Around the tables.
    "no lineage": ("DELETE FROM lineage", "lineage: must be one UUID"),
    "another lineage": ("UPDATE lineage SET id = 0", "lineage: its row is not the one with"),
    "other marks": ("UPDATE origin SET id = 2", "origin: its row is not the one with"),
    "no UUID": ("UPDATE lineage SET uuid = 'x'", "lineage: must be one UUID"),
    "no marks": ("DELETE FROM origin", "origin: must be one row"),
    "half a mark": ("UPDATE origin SET mark = mark + 1", "origin: must be one row"),
    "an index is gone": ("DROP INDEX idempotency_last", "the index idempotency_last"),
    "a table too many": ("CREATE TABLE more (x)", "the table more"),
    "a trigger": (
        "CREATE TRIGGER odd AFTER INSERT ON queue BEGIN DELETE FROM queue; END",
        "the trigger odd",
    ),
    "a table is gone": ("DROP TABLE skipped", "skipped: cannot be read"),
    "an older schema": ("PRAGMA user_version = 1", "its schema version is 1"),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_each_kind_of_damage_is_found(
    place: SqliteEngine, clock: FakeClock, name: str
) -> None:
    await lived_in(place, clock)
    assert found(place.path) == []
    sql, words = DAMAGE[name]
    change(place.path, sql)
    lines = found(place.path)
    assert any(words in line for line in lines), lines
    assert all(line.isprintable() for line in lines)


def test_enough_kinds_of_damage_are_planted() -> None:
    assert len(DAMAGE) >= 25


@pytest.mark.parametrize("table", ["queue", "history", "skipped", "state", "idempotency"])
async def test_a_damaged_page_is_found(place: SqliteEngine, clock: FakeClock, table: str) -> None:
    await lived_in(place, clock)
    damage_page_of(place.path, table)
    assert any("integrity_check" in line or "malformed" in line for line in found(place.path))


async def test_a_damaged_header_and_a_missing_end_are_found(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    cut = tmp_path / "cut.db"
    content = place.path.read_bytes()
    cut.write_bytes(content[:-4_096])
    assert any("malformed" in line for line in found(cut))
    cut.write_bytes(content[:72] + b"\1" + content[73:])
    assert any("its header is wrong" in line for line in found(cut))


async def test_a_sum_that_starts_again_at_63_bits_is_whole(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await lived_in(place, clock)
    # Within the queue, behind skipped tasks.
    jump = WAIT_SUM_MODULUS - 35 * SECOND
    change(
        place.path,
        f"UPDATE queue SET wait_sum = CASE WHEN wait_sum > {WAIT_SUM_MODULUS - 1} - {jump}"
        f" THEN wait_sum - {WAIT_SUM_MODULUS - 1} + {jump} - 1 ELSE wait_sum + {jump} END;"
        f"UPDATE state SET wait_sum = wait_sum - {WAIT_SUM_MODULUS - 1} + {jump} - 1",
    )
    # Only what was added before the first of the queue does not add up.
    assert found(place.path) == [
        "both tables: the first wait_sum is not that of all timeouts before"
    ]


@pytest.mark.parametrize("kept", [0, 1, 5, 7])
async def test_what_retention_left_is_whole(
    place: SqliteEngine, clock: FakeClock, kept: int
) -> None:
    await lived_in(place, clock, max(kept, 1))
    assert found(place.path) == []


async def test_an_empty_queue_is_whole_and_a_paused_one(
    place: SqliteEngine, clock: FakeClock
) -> None:
    async with opened(place, clock):
        pass
    assert found(place.path) == []
    async with opened(place, clock) as store:
        await store.switch(paused=True)
        await store.add(1, 2)
    assert found(place.path) == []


async def test_a_killed_service_and_its_files_alone_are_read_and_left_as_they_are(
    place: SqliteEngine, clock: FakeClock
) -> None:
    await crashed(place, clock)
    before = contents(place.path.parent)
    assert found(place.path) == []
    assert contents(place.path.parent) == before
    # What the WAL alone holds counts.
    change(place.path, "UPDATE state SET backlog = backlog + 1", keep_wal=True)
    assert any("backlog is" in line for line in found(place.path))


def test_a_service_goes_on_and_its_files_are_left_as_they_are(tmp_path: Path) -> None:
    with Running(tmp_path) as service:
        for _ in range(5):
            assert service.add(1, 0.001)
        service.add(5, 600)
        time.sleep(0.3)
        before = contents(tmp_path)
        done = command("check", folder=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "queue.db: whole\n", "")
        assert contents(tmp_path) == before
        assert service.add(2, 0)["history_num"] == 7
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    before = contents(tmp_path)
    assert command("check", folder=tmp_path).returncode == 0
    assert contents(tmp_path) == before
    with Running(tmp_path) as service:
        assert service.add(3, 0)["history_num"] == 8
        service.stop()
    assert sorted(contents(tmp_path)) == ["queue.db", "queue.db.lock"]
    before = contents(tmp_path)
    assert command("check", folder=tmp_path).returncode == 0
    assert contents(tmp_path) == before


async def test_a_service_that_starts_meanwhile_is_noticed(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    with SqliteSnapshot(place.path) as store:
        store.verify()
        with Running(tmp_path), pytest.raises(StoreBusy):
            store.verify()


async def test_the_place_is_an_argument_or_the_setting(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    other = tmp_path / "other"
    other.mkdir()
    url = f"sqlite:///{place.path}"
    (other / "config_app.yaml").write_text(f"DATABASE: {place.path}\n")
    (other / "more.yaml").write_text("DATABASE: nowhere.db\n")
    for arguments, environ in (
        ([str(place.path)], {}),
        ([url], {}),
        ([], {}),
        (["-C", "more.yaml"], {"SANIC_APP_DATABASE": url}),
    ):
        done = command("check", *arguments, folder=other, **environ)
        assert (done.returncode, done.stderr) == (0, ""), done
    missing = command("check", "-C", "more.yaml", folder=other)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert (
        missing.stderr == f"sanic-app: cannot read {other}/nowhere.db: No such file or directory\n"
    )
    # Not even to be looked at: a folder on the way that may not be entered is the same.
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (place.path / "x.db", "Not a directory"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "pipe", "not a regular file"),
    ):
        done = command("check", str(path), folder=other)
        assert done.stderr == f"sanic-app: cannot read {path}: {words}\n"
        assert (done.returncode, done.stdout) == (1, "")
    for wrong in (["--what"], ["a", "b"], [":memory:"], ["sqlite://host/x"]):
        done = command("check", *wrong, folder=other)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1


async def test_many_faults_are_a_hundred_lines_and_a_number(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    async with opened(place, clock) as store:
        await store.add(*[1] * 300)
    change(place.path, "UPDATE queue SET timeout = -1")
    done = command("check", folder=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 101
    assert "more" in lines[-1]
    assert "negative timeout" in done.stdout or "CHECK" in done.stdout


def test_what_is_no_queue_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear Sir")
    (tmp_path / "empty.db").touch()
    (tmp_path / "folder").mkdir()
    for name in ("letter", "empty.db", "folder"):
        before = sorted(tmp_path.iterdir())
        done = command("check", name, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.count("\n") == 1
        assert name in done.stderr
        assert sorted(tmp_path.iterdir()) == before


async def test_a_backup_beside_another_wal_is_refused(
    place: SqliteEngine, clock: FakeClock, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        await crashed(SqliteEngine(tmp_path / name), clock)
    one = tmp_path / "one" / "queue.db"
    shutil.copyfile(tmp_path / "two" / "queue.db", one)
    done = command("check", str(one), folder=tmp_path)
    assert done.returncode == 1
    assert "does not belong to queue.db-wal" in done.stderr
    assert wal_of(one).exists()
