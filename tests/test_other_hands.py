"""What others do to the files of a running service: it finds out, says so and ends."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sanic_app.errors import EXIT_FAILED, EXIT_START
from sanic_app.store.sqlite.file import _is_mount
from tests.running import Running

SECONDS = 2.0
"""An end that was noticed within a second, and the answers to those who wait."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Serve a queue with a head that waits, and with tasks that are done."""
    with Running(tmp_path) as service:
        for number in (1, 2, 3):
            service.add(number)
        service.add(4, 600)
        service.wait_for_result([1, 2, 3])
        yield service


def ended(running: Running) -> str:
    """Return the line that says why it ended; it must end soon, with 70 and one such line."""
    assert running.wait(SECONDS) == EXIT_FAILED, running.log
    (line,) = [line for line in running.lines if "the store failed" in line]
    assert "CRITICAL" in line
    assert "Traceback" not in running.log
    return line


def refused(folder: Path, database: str, running: Running | None = None) -> str:
    """Return the one line with which a start on this database is refused."""
    begun = time.monotonic()
    with Running(folder, "--database", database, ready=False) as late:
        assert late.wait(10) == EXIT_START, late.log
    (line,) = late.lines
    if running is not None:
        # An owner is met before the framework is loaded.
        assert time.monotonic() - begun < 2 * SECONDS
        assert running.process.poll() is None
        running.add(9, 600)
    return line


def backed_up(folder: Path) -> Path:
    (folder / "kept").mkdir()
    for name in ("queue.db", "queue.db-wal"):
        shutil.copyfile(folder / name, folder / "kept" / name)
    copy = folder / "copy.db"
    copied(folder / "queue.db", copy)
    return copy


def copied(source: Path, target: Path) -> None:
    """Do what the shell's .backup and .restore do."""
    with closing(sqlite3.connect(source)) as from_, closing(sqlite3.connect(target)) as to:
        from_.backup(to)


# A second owner.


def test_without_its_lock_file_a_queue_still_has_one_owner(
    running: Running, tmp_path: Path
) -> None:
    (tmp_path / "queue.db.lock").unlink()
    assert "another process owns the queue" in refused(tmp_path, "queue.db", running)


def test_a_hard_link_leads_to_the_same_owner(tmp_path: Path) -> None:
    with Running(tmp_path) as service:
        service.add(1, 600)
        # Both at once: the owner ends soon when it sees the second name.
        os.link(tmp_path / "queue.db", tmp_path / "other.db")
        assert "given 2 names" in ended(service)
    for name in ("queue.db", "other.db"):
        assert "it has 2 names (hard links); remove all but one" in refused(tmp_path, name)
    (tmp_path / "other.db").unlink()
    with Running(tmp_path) as service:
        assert service.request("GET", "/api/v1/queue")[1]["depth"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_of_the_file_leads_to_the_same_owner(running: Running, tmp_path: Path) -> None:
    other = tmp_path / "a folder" / "queue.db"
    other.parent.mkdir()
    other.touch()
    try:
        subprocess.run(["mount", "--bind", tmp_path / "queue.db", other], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    try:
        assert "another process owns the queue" in refused(tmp_path, str(other), running)
        assert running.stop() == 0
        assert "mount the folder instead" in refused(tmp_path, str(other))
    finally:
        subprocess.run(["umount", other], check=True)


def test_a_file_is_no_mount_point(tmp_path: Path) -> None:
    assert not _is_mount(tmp_path)
    assert _is_mount(Path("/proc"))


@pytest.mark.parametrize("target", ["nowhere", "queue.db"])
def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "queue.db.lock").symlink_to(target)
    assert "queue.db.lock: it is a symbolic link, remove it" in refused(tmp_path, "queue.db")
    assert not (tmp_path / target).exists()


# Files that are taken away or exchanged.


def deleted(folder: Path, _: Path) -> None:
    (folder / "queue.db").unlink()


def moved_away(folder: Path, _: Path) -> None:
    (folder / "queue.db").rename(folder / "away.db")


def replaced(folder: Path, copy: Path) -> None:
    copy.replace(folder / "queue.db")


def copied_over(folder: Path, copy: Path) -> None:
    shutil.copyfile(copy, folder / "queue.db")


def emptied(folder: Path, _: Path) -> None:
    os.truncate(folder / "queue.db", 0)


def wal_deleted(folder: Path, _: Path) -> None:
    (folder / "queue.db-wal").unlink()


def wal_replaced(folder: Path, _: Path) -> None:
    (folder / "new").touch()
    (folder / "new").rename(folder / "queue.db-wal")


def wal_cut(folder: Path, _: Path) -> None:
    wal = folder / "queue.db-wal"
    os.truncate(wal, wal.stat().st_size - 1_000)


def all_copied_back(folder: Path, _: Path) -> None:
    """Copy back what was copied before the last commit: the database is the same since."""
    for name in ("queue.db", "queue.db-wal"):
        shutil.copyfile(folder / "kept" / name, folder / name)


def folder_moved(folder: Path, _: Path) -> None:
    # Not the folder itself: it is the test's.
    for file in folder.glob("queue.db*"):
        file.rename(folder / f"away-{file.name}")


def restored(folder: Path, copy: Path) -> None:
    copied(copy, folder / "queue.db")


def written(folder: Path, _: Path) -> None:
    with closing(sqlite3.connect(folder / "queue.db")) as connection, connection:
        connection.execute("UPDATE history SET num = 9 WHERE history_num = 1")


DEEDS: dict[Callable[[Path, Path], None], str] = {
    deleted: "queue.db was deleted while",
    moved_away: "queue.db was deleted while",
    replaced: "queue.db was replaced by another file",
    copied_over: "queue.db was written over",
    emptied: "queue.db was written over",
    wal_deleted: "queue.db-wal was deleted while",
    wal_replaced: "queue.db-wal was replaced by another file",
    all_copied_back: "queue.db-wal was written over",
    folder_moved: "was deleted while",
    restored: "another program wrote to the database",
    written: "another program wrote to the database",
}


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_an_idle_service_notices_within_a_second(
    running: Running, tmp_path: Path, deed: Callable[[Path, Path], None]
) -> None:
    copy = backed_up(tmp_path)
    running.add(5, 600)
    deed(tmp_path, copy)
    assert DEEDS[deed] in ended(running)


@pytest.mark.parametrize(
    "deed",
    [deleted, replaced, wal_deleted, wal_cut],
    ids=lambda deed: deed.__name__,
)
def test_a_commit_into_other_hands_is_not_acknowledged(
    running: Running, tmp_path: Path, deed: Callable[[Path, Path], None]
) -> None:
    copy = backed_up(tmp_path)
    running.add(5, 600)
    deed(tmp_path, copy)
    status, problem = running.request("POST", "/add_task", {"num": 6, "timeout": 600})
    assert (status, problem["type"].rpartition(":")[2]) == (500, "outcome-unknown")
    assert problem["applied"] is None
    ended(running)


def test_a_stop_does_not_write_into_a_file_that_was_replaced(
    running: Running, tmp_path: Path
) -> None:
    copy = backed_up(tmp_path)
    running.add(5, 600)
    content = copy.read_bytes()
    replaced(tmp_path, copy)
    assert running.stop() == EXIT_FAILED
    assert (tmp_path / "queue.db").read_bytes() == content


def test_a_head_that_another_program_took_away_does_not_leave_the_queue_stuck(
    tmp_path: Path,
) -> None:
    with Running(tmp_path) as service:
        service.add(1, 0.7)
        service.add(2, 0.7)
        copy = backed_up(tmp_path)
        service.wait_for_result([1])
        restored(tmp_path, copy)
        line = ended(service)
    assert "another program" in line
    with Running(tmp_path) as service:
        service.wait_for_result([1, 2])


def test_who_only_reads_and_copies_disturbs_nobody(running: Running, tmp_path: Path) -> None:
    """The control: what operators may do at any time."""
    backed_up(tmp_path)
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        connection.execute(f"VACUUM INTO '{tmp_path / 'vacuumed.db'}'")
        running.add(5, 600)
        time.sleep(1.2)
        assert connection.execute("SELECT depth FROM state").fetchone() == (2,)
    os.utime(tmp_path / "queue.db")
    time.sleep(1.2)
    running.add(6, 600)
    assert running.stop() == 0


# What a reader cannot read.


def damaged_inside(folder: Path) -> None:
    """Leave a queue whose result list has a page of noise that neither start nor commit reads."""
    with Running(folder) as service:
        body = {"tasks": [{"num": number, "timeout": 0} for number in range(2_000)]}
        for _ in range(3):
            assert service.request("POST", "/api/v1/tasks/batch", body)[0] == 201
        service.wait_for_result([*range(2_000)] * 3)
        service.add(9, 600)
        assert service.stop() == 0
    with closing(sqlite3.connect(folder / "queue.db")) as connection:
        (page,) = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'history' AND pagetype = 'leaf'"
            " ORDER BY path LIMIT 1 OFFSET 5"
        ).fetchone()
    with (folder / "queue.db").open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(b"\xa5" * 4_096)


def test_damage_that_a_reader_meets_ends_the_process(tmp_path: Path) -> None:
    try:
        damaged_inside(tmp_path)
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat")
    for path in ("/api/v1/results?limit=1000", "/api/v1/results?limit=900&after=100"):
        with Running(tmp_path) as service:
            assert service.request("GET", "/health/ready")[0] == 200
            begun = time.monotonic()
            assert service.request("GET", path)[0] == 500
            assert "malformed" in ended(service)
            assert time.monotonic() - begun < SECONDS
