"""Migrations: numbered, whole or not at all, and packed where they are found."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sanic_app.store.migrations import Migration, migrations
from sanic_app.store.sqlite import schema as module
from sanic_app.store.sqlite.schema import migrate

REPOSITORY = Path(__file__).parents[1] / "migrations" / "sqlite"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as connection:
        yield connection


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


def version(connection: sqlite3.Connection) -> int:
    number: int
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    return number


def pretend(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Have these statements as the migrations, from the first on."""
    made = [Migration(number, f"{number:04}_x.sql", sql) for number, sql in enumerate(steps, 1)]
    monkeypatch.setattr(module, "migrations", lambda engine: made)


def test_the_migrations_are_the_files_of_the_repository_in_order() -> None:
    found = migrations("sqlite")
    assert [each.name for each in found] == sorted(path.name for path in REPOSITORY.glob("*.sql"))
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    for each in found:
        assert each.sql == (REPOSITORY / each.name).read_text(encoding="utf-8")


def test_an_empty_database_gets_them_all_and_a_second_time_none(
    connection: sqlite3.Connection,
) -> None:
    assert migrate(connection) == [each.name for each in migrations("sqlite")]
    assert version(connection) == len(migrations("sqlite"))
    tables = {name for name, _ in schema(connection)}
    assert {"queue", "history", "state", "idempotency"} <= tables
    before = schema(connection)
    assert migrate(connection) == []
    assert schema(connection) == before


def test_every_table_is_strict(connection: sqlite3.Connection) -> None:
    migrate(connection)
    rows = connection.execute(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    ).fetchall()
    assert {name for name, strict in rows if not strict} == {"sqlite_schema"}


def test_only_what_is_missing_is_applied(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = "CREATE TABLE a (x);", "CREATE TABLE b (x);"
    pretend(monkeypatch, first)
    assert migrate(connection) == ["0001_x.sql"]
    pretend(monkeypatch, first, second)
    assert migrate(connection) == ["0002_x.sql"]
    assert [name for name, _ in schema(connection)] == ["a", "b"]
    assert version(connection) == 2


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE b (x); CREATE TABLE a (x);",
        "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);",
        "CREATE TABLE b (x); SELECT syntax error;",
        "DROP TABLE a; INSERT INTO a VALUES (1);",
    ],
)
def test_a_migration_that_fails_leaves_nothing_of_itself(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    pretend(monkeypatch, "CREATE TABLE a (x);", broken, "CREATE TABLE c (x);")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection)
    assert not connection.in_transaction
    # The one before it stands, and the next try goes on there.
    assert [name for name, _ in schema(connection)] == ["a"]
    assert version(connection) == 1
    pretend(monkeypatch, "CREATE TABLE a (x);", "CREATE TABLE b (x);")
    assert migrate(connection) == ["0002_x.sql"]


def test_a_migration_and_its_number_are_one_transaction(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    """Whoever looks from elsewhere sees both or neither."""
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        seen: list[tuple[int, int]] = []

        def look(statement: str) -> None:
            seen.append((version(other), len(schema(other))))

        connection.execute("PRAGMA journal_mode = WAL")
        connection.set_trace_callback(look)
        migrate(connection)
        connection.set_trace_callback(None)
        seen.append((version(other), len(schema(other))))
    steps = range(len(migrations("sqlite")) + 1)
    assert [number for number, _ in sorted(set(seen))] == list(steps)
    assert {(0, 0), (steps[-1], len(schema(connection)))} <= set(seen)


@pytest.mark.parametrize("names", [["0002_x.sql"], ["0001_x.sql", "0003_x.sql"]])
def test_a_gap_in_the_numbers_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    packed = tmp_path / "migrations" / "sqlite"
    packed.mkdir(parents=True)
    for name in names:
        (packed / name).write_text("", encoding="utf-8")
    monkeypatch.setattr("sanic_app.store.migrations.files", lambda package: tmp_path)
    with pytest.raises(RuntimeError, match="without gaps"):
        migrations.__wrapped__("sqlite")


def test_packed_migrations_are_found_and_other_files_are_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "migrations" / "sqlite"
    shutil.copytree(REPOSITORY, packed)
    for name in ("README.md", "1_x.sql", "0001_x.sql.orig", "00002_x.sql"):
        (packed / name).write_text("x", encoding="utf-8")
    monkeypatch.setattr("sanic_app.store.migrations.files", lambda package: tmp_path)
    assert [each.number for each in migrations.__wrapped__("sqlite")] == list(
        range(1, len(list(REPOSITORY.glob("*.sql"))) + 1)
    )
