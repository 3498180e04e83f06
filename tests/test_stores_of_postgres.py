"""`sanic-app check` and `copy` on a queue in PostgreSQL, while nodes may serve it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanic_app.store.postgres.snapshot import PostgresSnapshot
from sanic_app.store.snapshot import TABLES
from tests.fake_clock import FakeClock
from tests.parts import PostgresEngine, SqliteEngine, opened
from tests.test_check import command, found, lived_in
from tests.test_copy import rows_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> PostgresEngine:
    return PostgresEngine(tmp_path)


def check(place: PostgresEngine, folder: Path) -> tuple[int, str]:
    done = command(
        "check", place.cluster.url(), folder=folder, SANIC_APP_DATABASE_SCHEMA=place.name
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("state SET backlog = backlog + 1", "backlog is"),
        ("state SET last_history_num = 14, depth = 6", "are 13, and 14 were added"),
        ("queue SET created_at = created_at - 1 WHERE history_num = 10", "task 10: was created"),
        ("queue SET wait_sum = wait_sum + 1 WHERE history_num = 7", "task 7: its wait_sum"),
        ("history SET started_at = started_at - 1 WHERE history_num = 4", "task 4: was started"),
        ("history SET finished_at = finished_at - 1 WHERE history_num = 9", "finish number is"),
        ("skipped SET tasks = tasks + 1 WHERE level = 1", "block 0 of level 1"),
        ("idempotency SET finished_at = finished_at + 1 WHERE key = 'ended'", "key 'ended'"),
    ],
)
async def test_a_queue_is_whole_until_it_is_damaged(
    place: PostgresEngine, clock: FakeClock, tmp_path: Path, change: str, words: str
) -> None:
    await lived_in(place, clock)
    assert check(place, tmp_path)[0] == 0
    place.cluster.execute(f"UPDATE {place.name}.{change}")
    status, lines = check(place, tmp_path)
    assert status == 1
    assert words in lines


async def test_a_queue_that_is_not_there_is_one_line(place: PostgresEngine, tmp_path: Path) -> None:
    status, lines = check(place, tmp_path)
    assert (status, lines.count("\n")) == (1, 1)
    assert f"there is no queue in the schema {place.name}" in lines


async def test_a_queue_is_copied_from_postgres_while_it_is_open(
    place: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    target = tmp_path / "queue.db"
    async with opened(place, clock) as store:
        done = command(
            *("copy", place.cluster.url(), str(target)),
            folder=tmp_path,
            SANIC_APP_DATABASE_SCHEMA=place.name,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        await store.add(1)
    assert found(target) == []
    with PostgresSnapshot(place.cluster.url(), place.name) as tables:
        history = f"SELECT {TABLES['history'].listed} FROM history ORDER BY history_num"
        assert rows_of(target)["history"] == list(tables.select(history))
    async with opened(SqliteEngine(tmp_path), clock) as copy:
        overview = await copy.store.overview()
        assert overview.head is not None
        assert overview.head.history_num == 6
        assert (await copy.add(1)).first == 14
