"""Upgrade and rollback: what the release before has left is served, and not the other way round."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sanic_app.errors import StartError
from sanic_app.store.migrations import Migration, migrations
from sanic_app.store.sqlite import schema
from sanic_app.store.sqlite.file import prepare
from tests.running import Running

ROOT = Path(__file__).parents[1]
BEFORE = "37ad78e"
"""The last commit whose database has schema version 2."""
VERSION = 2
KEY = {"Idempotency-Key": "order-4711"}
TASK = {"num": 7, "timeout": 600}


def in_history() -> bool:
    """Tell whether this is a clone with the commit: an archive or a shallow clone has it not."""
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{BEFORE}^{{commit}}"],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    return found.returncode == 0


def code_before(folder: Path) -> dict[str, str]:
    """Put the code of the release before into a folder; return the environment that runs it."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", BEFORE, "sanic_app", "migrations"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return {"PYTHONPATH": str(folder)}


def knows_version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this release have the migrations of the one before, and no more."""

    def first(engine: str) -> tuple[Migration, ...]:
        return migrations(engine)[:VERSION]

    monkeypatch.setattr(schema, "migrations", first)


def made_by_its_code(folder: Path, number: int) -> None:
    """Task 1 done, 2 cancelled, 3 waiting, with a key; ended by a signal."""
    with Running(folder, environ=code_before(folder / "before")) as before:
        before.add(5)
        before.wait_for_result([5])
        before.request("POST", "/api/v1/queue/pause")
        before.add(6, 600)
        assert before.request("DELETE", "/api/v1/tasks/2")[0] == 200
        before.request("POST", "/api/v1/queue/resume")
        assert before.request("POST", "/api/v1/tasks", TASK, KEY)[0] == 201
        before.signal(number)
        before.wait()


def stopped(folder: Path) -> None:
    made_by_its_code(folder, signal.SIGTERM)


def killed(folder: Path) -> None:
    made_by_its_code(folder, signal.SIGKILL)


def by_its_schema(folder: Path) -> None:
    """The same without its code: its migrations, and the rows as it writes them."""
    with pytest.MonkeyPatch.context() as patch:
        knows_version_2(patch)
        prepare(folder / "queue.db")
    now, wait = time.time_ns() // 1_000, 600_000_000
    with closing(sqlite3.connect(folder / "queue.db")) as raw, raw:
        raw.execute(f"INSERT INTO history VALUES (1, 5, 0, {now}, 'done', {now}, {now}, 1)")
        raw.execute(
            f"INSERT INTO history VALUES (2, 6, {wait}, {now}, 'cancelled', NULL, {now}, 2)"
        )
        raw.execute(f"INSERT INTO skipped VALUES (2, {wait})")
        raw.execute(f"INSERT INTO queue VALUES (3, 7, {wait}, {now}, {2 * wait})")
        raw.execute(
            f"UPDATE state SET last_history_num = 3, last_finish_num = 2, last_stamp = {now},"
            f" wait_sum = {2 * wait}, depth = 1, backlog = {wait}, oldest_created_at = {now},"
            f" head = 3, head_started_at = {now}"
        )


MAKERS = [by_its_schema, *([stopped, killed] if in_history() else [])]


def schema_version(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "queue.db")) as raw:
        (version,) = raw.execute("PRAGMA user_version").fetchone()
    return int(version)


@pytest.mark.parametrize("make", MAKERS)
def test_the_database_of_the_release_before_is_served(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path)
    assert schema_version(tmp_path) == VERSION
    with Running(tmp_path) as running:
        assert running.result() == [5]
        (waiting,) = running.request("GET", "/get_queue_work")[1]["tasks"]
        assert (waiting["history_num"], waiting["num"]) == (3, 7)
        state = running.request("GET", "/api/v1/tasks/3")[1]
        # The wait goes on: what passed in between counts.
        assert (state["state"], state["position"]) == ("waiting", 0)
        assert 500 < state["seconds_until_due"] < 600
        assert running.request("GET", "/api/v1/tasks/2")[1]["state"] == "cancelled"
        if make is not by_its_schema:
            # The answer to the key is the old one, and nothing is added.
            assert running.request("POST", "/api/v1/tasks", TASK, KEY)[1]["history_num"] == 3
        assert running.add(8)["history_num"] == 4
        assert running.request("DELETE", "/api/v1/tasks/3")[0] == 200
        running.wait_for_result([5, 8])
        assert running.stop() == 0
    check = subprocess.run(
        [sys.executable, "-m", "sanic_app", "check", "queue.db"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (check.returncode, check.stdout) == (0, "queue.db: whole\n"), check.stderr


def refused(path: Path) -> str:
    return (
        f"the database {path} has schema version {len(migrations('sqlite'))}, newer than this"
        f" service's {VERSION}: use a newer service"
    )


def test_whoever_knows_an_older_schema_refuses_this_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"
    prepare(path)
    content = path.read_bytes()
    knows_version_2(monkeypatch)
    with pytest.raises(StartError) as raised:
        prepare(path)
    assert str(raised.value) == refused(path)
    assert path.read_bytes() == content


if in_history():

    def test_the_release_before_refuses_this_database_in_one_line(
        tmp_path: Path,
    ) -> None:
        with Running(tmp_path) as running:
            running.add(5, 600)
            running.stop()
        content = (tmp_path / "queue.db").read_bytes()
        with Running(tmp_path, environ=code_before(tmp_path / "before"), ready=False) as older:
            assert older.wait() == 1
            assert older.log == f"sanic-app: {refused(tmp_path / 'queue.db')}\n"
        assert (tmp_path / "queue.db").read_bytes() == content
