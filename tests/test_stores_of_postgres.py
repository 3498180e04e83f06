"""`sanic-app check` and `copy` on a queue in PostgreSQL, while nodes may serve it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from sanic_app.errors import StartError
from sanic_app.store.audit import faults
from sanic_app.store.postgres.foreseen import NEWEST
from sanic_app.store.postgres.servers import Connection, Servers
from sanic_app.store.postgres.snapshot import PostgresSnapshot, PostgresTables
from sanic_app.store.snapshot import TABLES
from sanic_app.task import SECOND
from tests.fake_clock import FakeClock
from tests.parts import KEEP, PostgresEngine, SqliteEngine, opened
from tests.schema import MIGRATIONS, listing
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
    "another state row",
    "another lineage",
    "no lineage",
    "other marks",
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
    "reads begin behind a task": (
        "UPDATE state SET first_history_num = 7",
        "first_history_num is 7, and the queue begins with 6",
    ),
    "a commit of a node that is yet to come": (
        "UPDATE node_commit SET commit_num = commit_num + 5",
        "and a node has made commit",
    ),
}

CHANGED = {
    "a table is gone": ("DROP TABLE node", "the table node is missing"),
    "a table too many": ("CREATE TABLE more (x int UNIQUE)", "the table more is none that"),
    "a view": ("CREATE VIEW more AS SELECT 1", "the view more is none that"),
    "a table that a crash empties": (
        "ALTER TABLE history SET UNLOGGED",
        "the table history is: not logged",
    ),
    "rows that are hidden": (
        "ALTER TABLE queue ENABLE ROW LEVEL SECURITY",
        "the table queue is: logged, with row security",
    ),
    "a table whose rows are read too": (
        "CREATE TABLE public.more () INHERITS (queue)",
        "the child queue.public.more is none that",
    ),
    "a column is gone": (
        "ALTER TABLE idempotency DROP COLUMN request",
        "the column idempotency.request is missing",
    ),
    "a column too many": (
        "ALTER TABLE queue ADD COLUMN more int",
        "the column queue.more is none that",
    ),
    "columns in another order": (
        (
            "ALTER TABLE queue DROP COLUMN num;"
            "ALTER TABLE queue ADD COLUMN num bigint NOT NULL DEFAULT 0;"
            "ALTER TABLE queue ALTER COLUMN num DROP DEFAULT"
        ),
        "the column queue.num is: number 5, bigint NOT NULL; the migrations make: number 2,",
    ),
    "another type": (
        "ALTER TABLE queue ALTER COLUMN timeout TYPE numeric",
        "the column queue.timeout is: number 3, numeric NOT NULL",
    ),
    "another collation": (
        'ALTER TABLE idempotency ALTER COLUMN key TYPE text COLLATE "C"',
        "the column idempotency.key is: number 1, text COLLATE C NOT NULL",
    ),
    "no default": (
        "ALTER TABLE meta ALTER COLUMN lineage DROP DEFAULT",
        "the column meta.lineage is: number 4, uuid NOT NULL",
    ),
    "a column that may be null": (
        "ALTER TABLE history ALTER COLUMN finish_num DROP NOT NULL",
        "the column history.finish_num is: number 8, bigint",
    ),
    "a constraint is gone": (
        "ALTER TABLE history DROP CONSTRAINT history_check2",
        "the constraint history.history_check2 is missing",
    ),
    "a weaker constraint": (
        (
            "ALTER TABLE queue DROP CONSTRAINT queue_timeout_check;"
            "ALTER TABLE queue ADD CONSTRAINT queue_timeout_check CHECK (timeout >= -1)"
        ),
        "the constraint queue.queue_timeout_check is: CHECK ((timeout >= ",
    ),
    "a constraint that was not validated": (
        (
            "ALTER TABLE queue DROP CONSTRAINT queue_timeout_check;"
            "ALTER TABLE queue ADD CONSTRAINT queue_timeout_check CHECK (timeout >= 0) NOT VALID"
        ),
        "the constraint queue.queue_timeout_check is: CHECK ((timeout >= 0)) NOT VALID",
    ),
    "a constraint too many": (
        "ALTER TABLE queue ADD CHECK (num < 9)",
        "the constraint queue.queue_num_check is none that",
    ),
    "no primary key": (
        "ALTER TABLE queue DROP CONSTRAINT queue_pkey",
        "the constraint queue.queue_pkey is missing",
    ),
    "numbers that may be given twice": (
        (
            "ALTER TABLE history DROP CONSTRAINT history_finish_num_key;"
            "CREATE INDEX history_finish_num_key ON history (finish_num)"
        ),
        "the constraint history.history_finish_num_key is missing",
    ),
    "an index is gone": ("DROP INDEX idempotency_last", "the index idempotency.idempotency_last"),
    "an index of other columns": (
        "DROP INDEX history_done; CREATE INDEX history_done ON history (num)",
        "the index history.history_done is: CREATE INDEX history_done ON history USING",
    ),
    "an index that is not valid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idempotency_last'::regclass",
        "(not valid)",
    ),
    "an index that lacks a row": (
        (
            "CREATE EXTENSION amcheck SCHEMA public;"
            "UPDATE pg_index SET indisready = false"
            " WHERE indexrelid = 'idempotency_last'::regclass;"
            "INSERT INTO idempotency VALUES ('k', 'r', 13, 13, 1, 0, 1);"
            "UPDATE pg_index SET indisready = true"
            " WHERE indexrelid = 'idempotency_last'::regclass"
        ),
        'lacks matching index tuple within index "idempotency_last"',
    ),
    "a trigger": (
        (
            "CREATE TRIGGER odd BEFORE UPDATE ON queue"
            " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        "the trigger queue.odd is none that",
    ),
    "a rule": (
        "CREATE RULE odd AS ON DELETE TO queue DO INSTEAD NOTHING",
        "the rule queue.odd is none that",
    ),
}
"""What the catalogues show."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to a queue with everything in it."""
    place = PostgresEngine(tmp_path_factory.mktemp("lived"))
    asyncio.run(lived_in(place, FakeClock()))
    with psycopg.connect(place.cluster.url(), autocommit=True) as connection:
        connection.execute(f"SET search_path TO {place.name}")
        yield connection


@pytest.fixture(scope="module")
def damageable(whole: Connection) -> str:
    """What takes away all that forbids to damage the rows."""
    return ";".join(
        f"ALTER TABLE {table} DROP CONSTRAINT {name}"
        for table, name in whole.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c'"
            " AND connamespace = current_schema()::regnamespace"
        ).fetchall()
    )


def faults_after(whole: Connection, change: str) -> list[str]:
    """Return what is found after a change, which is taken back."""
    lines: list[str] = []
    with suppress(psycopg.Rollback), whole.transaction():
        whole.execute(change)
        ((version,),) = whole.execute("SELECT schema FROM meta").fetchall()
        whole.execute("SAVEPOINT begun")
        lines += faults(PostgresTables(whole, version))
        raise psycopg.Rollback
    assert all(line.isprintable() for line in lines)
    # After an error the other parts are looked at as well.
    assert not any("aborted" in line for line in lines)
    return lines


@pytest.mark.parametrize("name", DAMAGED)
def test_each_kind_of_damage_is_found(whole: Connection, damageable: str, name: str) -> None:
    change, words = DAMAGED[name]
    lines = faults_after(whole, f"{damageable}; {change}")
    assert any(words in line for line in lines), lines


def test_rows_that_were_not_damaged_are_whole_without_constraints(
    whole: Connection, damageable: str
) -> None:
    """The control."""
    lines = faults_after(whole, damageable)
    assert len(lines) == damageable.count(";") + 1
    assert all(re.fullmatch(r"schema: the constraint \S+ is missing", line) for line in lines)


@pytest.mark.parametrize("name", CHANGED)
def test_each_change_of_the_schema_is_found(whole: Connection, name: str) -> None:
    assert faults_after(whole, "SELECT 1") == []
    change, words = CHANGED[name]
    lines = faults_after(whole, change)
    assert any(words in line for line in lines), lines
    if "table" in name or "view" in name:
        # Its columns are not told one by one.
        assert len([line for line in lines if line.startswith("schema:")]) == 1


def test_an_index_that_no_other_query_reads_is_read_to_its_end(whole: Connection) -> None:
    """As one with a damaged page is. A start may need it, or a key."""
    broken = (
        "CREATE OR REPLACE FUNCTION broken(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS"
    )
    change = (
        f"{broken} 'BEGIN RETURN $1; END'; CREATE INDEX history_more ON history (broken(num));"
        f"{broken} $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = 'XX001'; END $$"
    )
    lines = faults_after(whole, change)
    assert lines[1:] == ["index history_more: cannot be read: on purpose"], lines
    assert lines[0].startswith("schema: the index history.history_more is none that")
    with suppress(psycopg.Rollback), whole.transaction():
        whole.execute("SAVEPOINT begun")
        scans = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables"
        mine = "WHERE schemaname = current_schema() AND relname = 'idempotency'"
        ((rows, entries),) = whole.execute(f"{scans} {mine}").fetchall()
        assert list(PostgresTables(whole, 1).engine_faults()) == []
        assert whole.execute(f"{scans} {mine}").fetchall() == [(rows, entries + 3)]
        assert whole.execute("SHOW enable_seqscan").fetchall() == [("on",)]
        raise psycopg.Rollback


def test_what_an_administrator_may_tune_is_no_fault(whole: Connection) -> None:
    change = (
        "CREATE EXTENSION amcheck SCHEMA public; ALTER TABLE queue SET (fillfactor = 70);"
        "ALTER TABLE history ALTER COLUMN num SET STATISTICS 500; ANALYZE queue;"
        "ALTER INDEX history_pkey SET (fillfactor = 80); GRANT SELECT ON queue TO public;"
        "COMMENT ON TABLE queue IS 'ours'; CLUSTER history USING history_pkey"
    )
    assert faults_after(whole, change) == []


def test_who_may_only_read_the_tables_is_told_of_no_fault(whole: Connection) -> None:
    ((schema,),) = whole.execute("SELECT current_schema()").fetchall()
    change = (
        "CREATE EXTENSION amcheck SCHEMA public; CREATE ROLE who_reads;"
        f"GRANT USAGE ON SCHEMA {schema} TO who_reads;"
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO who_reads; SET LOCAL ROLE who_reads"
    )
    assert faults_after(whole, change) == []


@pytest.mark.parametrize(
    ("limit", "query", "words"),
    [
        (
            "SET LOCAL statement_timeout = '20ms'",
            "SELECT 1 FROM pg_sleep(9)",
            "canceling statement due to statement timeout",
        ),
        (
            "SET LOCAL temp_file_limit = 0; SET LOCAL work_mem = '64kB'",
            "SELECT n FROM generate_series(1, 100000) AS n ORDER BY -n",
            "temporary file size exceeds temp_file_limit",
        ),
        (
            "CREATE ROLE who_may_not; SET LOCAL ROLE who_may_not",
            "SELECT 1 FROM pg_authid",
            "permission denied for table pg_authid",
        ),
    ],
)
def test_what_the_server_could_not_read_is_no_damage(
    whole: Connection, limit: str, query: str, words: str
) -> None:
    """Somebody has cancelled the query, or granted too little; or there is no room for files."""
    with suppress(psycopg.Rollback), whole.transaction():
        whole.execute(f"SAVEPOINT begun; {limit}")
        with pytest.raises(StartError, match=f"cannot read all of it: {words}"):
            list(PostgresTables(whole, 1).select(query))
        raise psycopg.Rollback


def test_a_newer_schema_is_refused_in_one_line(
    place: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    asyncio.run(lived_in(place, clock))
    place.cluster.execute(f"UPDATE {place.name}.meta SET schema = 2")
    status, lines = check(place, tmp_path)
    assert (status, lines.count("\n")) == (1, 1)
    assert "has schema version 2, newer than this program's 1: use a newer one" in lines


async def test_a_copy_of_rows_that_are_whole_has_the_schema_that_it_should(
    place: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    """What RELIABILITY.md advises."""
    await lived_in(place, clock)
    place.cluster.execute(f"ALTER TABLE {place.name}.queue DROP CONSTRAINT queue_timeout_check")
    status, lines = check(place, tmp_path)
    assert (status, lines.count("\n")) == (1, 1)
    other = PostgresEngine(tmp_path)
    done = command(
        *("copy", f"{place.cluster.url()}?schema={place.name}"),
        f"{place.cluster.url()}?schema={other.name}",
        folder=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert check(other, tmp_path)[0] == 0


def test_what_is_stated_of_the_schema_is_what_the_migrations_make(whole: Connection) -> None:
    assert listing(whole) == (MIGRATIONS / "schema.txt").read_text("utf-8")


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


async def test_the_newest_state_row_is_found_at_once_behind_dead_ones(
    place: PostgresEngine, clock: FakeClock
) -> None:
    """An old snapshot keeps them, and statistics say that there is one row."""
    async with opened(place, clock) as store:
        await store.add(3_600)
        with psycopg.connect(place.cluster.url()) as dump:
            dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            dump.execute(f"SELECT 1 FROM {place.name}.state")
            for _ in range(50):
                await store.add(3_600)
            with Servers(place.cluster.url(), place.name).connect() as connection:
                connection.execute("ANALYZE state")
                plan = connection.execute(
                    f"EXPLAIN (ANALYZE, TIMING OFF) SELECT 1 FROM state WHERE {NEWEST}"
                ).fetchall()
    fetches = re.findall(r"Heap Fetches: (\d+)", str(plan))
    assert sum(map(int, fetches)) <= 2, plan


async def test_expired_keys_that_were_removed_are_not_passed_again(
    place: PostgresEngine, clock: FakeClock
) -> None:
    """An old snapshot keeps them, and each add with a key removes some more."""
    with psycopg.connect(place.cluster.url()) as dump:
        async with opened(place, clock) as store:
            for number in range(50):
                await store.add(0, key=f"old {number}", request="r")
                await store.finish_head()
                clock.advance(0.001)
            clock.advance(KEEP / SECOND)
            dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            dump.execute(f"SELECT 1 FROM {place.name}.state")
            for number in range(50):
                await store.add(1, key=f"new {number}", request="r")
        # The statistics of a session are there when it has ended.
        ((passed,),) = place.cluster.query(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname ="
            f" 'idempotency_finished' AND schemaname = '{place.name}'"
        )
    assert isinstance(passed, int)
    assert 50 <= passed < 200


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
