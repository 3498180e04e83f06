"""`sanic-app check` and `copy` on a queue in PostgreSQL, while nodes may serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from sanic_app.store.audit import faults
from sanic_app.store.postgres.servers import Connection
from sanic_app.store.postgres.snapshot import PostgresSnapshot, PostgresTables
from sanic_app.store.snapshot import TABLES
from tests.fake_clock import FakeClock
from tests.parts import PostgresEngine, SqliteEngine, opened
from tests.test_check import DAMAGE, command, found, lived_in
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


async def test_a_queue_is_whole_until_it_is_damaged(
    place: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    assert check(place, tmp_path)[0] == 0
    place.cluster.execute(f"UPDATE {place.name}.state SET backlog = backlog + 1")
    status, lines = check(place, tmp_path)
    assert status == 1
    assert "backlog is" in lines


ONLY_SQLITE = {
    "no lineage",
    "no UUID",
    "no marks",
    "half a mark",
    "an index is gone",
    "a table too many",
    "a trigger",
    "an older schema",
}
"""Of the damages that are planted: what the schema looks like, and what PostgreSQL has not."""

DAMAGED = {name: each for name, each in DAMAGE.items() if name not in ONLY_SQLITE} | {
    "an older schema": ("UPDATE meta SET schema = 0", "its schema version is 0"),
    "an index that is not valid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idempotency_last'::regclass",
        "the index idempotency_last is not valid",
    ),
    "a constraint that was not validated": (
        "ALTER TABLE queue ADD CONSTRAINT odd CHECK (num > 0) NOT VALID",
        "the constraint odd is not validated",
    ),
    "a trigger": (
        (
            "CREATE TRIGGER odd BEFORE UPDATE ON queue"
            " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        "queue has the trigger odd",
    ),
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to a queue with everything in it, without what forbids to damage it."""
    place = PostgresEngine(tmp_path_factory.mktemp("lived"))
    asyncio.run(lived_in(place, FakeClock()))
    with psycopg.connect(place.cluster.url(), autocommit=True) as connection:
        connection.execute(f"SET search_path TO {place.name}")
        for table, name in connection.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c'"
            f" AND connamespace = '{place.name}'::regnamespace"
        ).fetchall():
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        with connection.transaction():
            connection.execute("SAVEPOINT begun")
            assert list(faults(PostgresTables(connection, 1))) == []
        yield connection


@pytest.mark.parametrize("name", DAMAGED)
def test_each_kind_of_damage_is_found(lived: Connection, name: str) -> None:
    change, words = DAMAGED[name]
    with suppress(psycopg.Rollback), lived.transaction():
        lived.execute(change)
        ((version,),) = lived.execute("SELECT schema FROM meta").fetchall()
        lived.execute("SAVEPOINT begun")
        lines = list(faults(PostgresTables(lived, version)))
        assert any(words in line for line in lines), lines
        assert all(line.isprintable() for line in lines)
        # After an error the other parts are looked at as well.
        assert not any("aborted" in line for line in lines)
        raise psycopg.Rollback


async def test_a_check_changes_nothing(
    place: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    tables = ("meta", "node", "node_commit", *TABLES)

    def contents() -> list[list[tuple[object, ...]]]:
        return [
            place.cluster.query(f"SELECT ctid, xmin, xmax, each FROM {place.name}.{table} AS each")
            for table in tables
        ] + [place.cluster.query("SELECT oid, xmin, nspname FROM pg_namespace ORDER BY oid")]

    before = contents()
    assert check(place, tmp_path)[0] == 0
    assert contents() == before


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
