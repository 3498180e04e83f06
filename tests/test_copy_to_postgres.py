"""`sanic-app copy` to a schema of PostgreSQL, and back: the same queue, or nothing that is seen."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sanic_app.errors import ServiceError, StartError
from sanic_app.store import Add, Cancel, CancelRange, SetPaused, Write
from sanic_app.store.audit import faults
from sanic_app.store.postgres.snapshot import PostgresSnapshot
from sanic_app.store.postgres.target import PostgresTarget
from sanic_app.store.snapshot import TABLES, Snapshot, Target
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.store.sqlite.target import SqliteTarget
from sanic_app.task import SECOND, NewTask, Retention
from tests import postgres
from tests.fake_clock import FakeClock
from tests.parts import Opened, PostgresEngine, SqliteEngine, opened
from tests.proxy import Proxy
from tests.running import Running
from tests.test_check import command, found, lived_in
from tests.test_copy import batches, lines_of, rows_of
from tests.test_sqlite_file import change

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> SqliteEngine:
    (tmp_path / "from").mkdir()
    return SqliteEngine(tmp_path / "from")


@pytest.fixture
def target(tmp_path: Path) -> PostgresEngine:
    return PostgresEngine(tmp_path)


def url_of(place: PostgresEngine) -> str:
    return f"{place.cluster.url()}?schema={place.name}"


def shown(place: PostgresEngine) -> str:
    """Return its name in messages."""
    url = place.cluster.url().replace("postgres@", "")
    return f"{url} schema {place.name}"


def copied(source: Path | str, to: Path | str, folder: Path) -> None:
    done = command("copy", str(source), str(to), folder=folder)
    assert (done.returncode, done.stderr) == (0, ""), done


def rows_in(place: PostgresEngine) -> dict[str, list[object]]:
    """Return all rows of all tables that make a queue."""
    with PostgresSnapshot(place.cluster.url(), place.name) as store:
        return {
            name: list(store.select(f"SELECT {table.listed} FROM {name} ORDER BY {table.key}"))
            for name, table in TABLES.items()
        }


def left(place: PostgresEngine) -> list[tuple[object, ...]]:
    """Return the schemas of copies that were not published, and what sessions still do.

    The server notices a moment later that a session has gone.
    """
    end = time.monotonic() + 5
    while True:
        found = place.cluster.query(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%new%'"
            " UNION ALL SELECT state FROM pg_stat_activity WHERE state LIKE 'idle in%'"
        )
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def exists(place: PostgresEngine) -> bool:
    sql = f"SELECT 1 FROM pg_namespace WHERE nspname = '{place.name}'"
    return bool(place.cluster.query(sql))


async def test_a_file_becomes_a_schema_and_a_file_again(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock, kept=5)
    done = command("copy", str(place.path), url_of(target), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout == f"copied {place.path} to {shown(target)}\n"
    assert rows_in(target) == rows_of(place.path)
    assert command("check", url_of(target), folder=tmp_path).stdout == f"{shown(target)}: whole\n"
    other = PostgresEngine(tmp_path)
    copied(url_of(target), url_of(other), tmp_path)
    copied(url_of(other), tmp_path / "queue.db", tmp_path)
    assert rows_in(other) == rows_of(tmp_path / "queue.db") == rows_of(place.path)
    assert found(tmp_path / "queue.db") == []
    lineages = target.cluster.query(
        f"SELECT lineage FROM {target.name}.meta UNION SELECT lineage FROM {other.name}.meta"
    )
    assert len(lineages) == 2
    for each in (target, other):
        assert each.cluster.query(
            "SELECT commit_num, first_history_num, idempotency_keep, history_keep_tasks"
            f" FROM {each.name}.state, {each.name}.meta"
        ) == [(0, 6, None, None)]
    clock.advance(2)
    for engine in (target, other, SqliteEngine(tmp_path)):
        # The first node that starts may have other settings than the source had.
        async with opened(engine, clock, keep=77, history_keep=Retention(tasks=3)) as store:
            overview = await store.store.overview()
            assert overview.head is not None
            assert (overview.head.history_num, overview.seconds_left) == (6, 5 - 3)
            assert (await store.add(1)).first == 14
            assert [task.history_num for task in await store.queue()] == [6, 7, 10, 11, 13, 14]


@pytest.mark.parametrize("paused", [False, True])
async def test_a_queue_without_tasks_is_copied(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path, paused: bool
) -> None:
    async with opened(place, clock) as store:
        await store.add(0)
        await store.finish(1)
        if paused:
            await store.switch(paused=True)
    copied(place.path, url_of(target), tmp_path)
    async with opened(target, clock) as store:
        assert (await store.store.figures()).paused == paused
        assert (await store.add(1)).first == 2
        assert [task.history_num for task in await store.queue()] == [2]


# Any history.

TIMEOUTS = st.sampled_from([0, 0, 1, SECOND // 2, 3 * SECOND])
TASKS = st.lists(
    st.builds(NewTask, st.integers(-(2**63), 2**63 - 1), TIMEOUTS), min_size=1, max_size=6
)
KEYS = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NUMBERS = st.integers(1, 40)
STEPS = st.one_of(
    st.builds(Add, TASKS, KEYS, st.sampled_from(["r", 's"\t\\N'])),
    st.builds(Cancel, NUMBERS),
    st.builds(lambda first, more: CancelRange(first, first + more), NUMBERS, st.integers(0, 6)),
    st.builds(SetPaused, st.booleans()),
    st.sampled_from(["finish", "finish", "finish", "wait"]),
)


async def live(store: Opened, clock: FakeClock, steps: Sequence[Write | str]) -> list[object]:
    """Do these steps; return what each one said."""
    said: list[object] = []
    for step in steps:
        head = (await store.store.overview()).head
        if step == "wait" or (step == "finish" and head is None):
            clock.advance(1.5)
        elif head is not None and step == "finish":
            clock.advance(head.timeout / SECOND)
            said.append(await store.finish(head.history_num))
        elif not isinstance(step, str):
            try:
                said.append(await store.one(step))
            except ServiceError as error:
                said.append(type(error))
    return said


def moved(source: Snapshot, target: Target) -> None:
    target.fill(source, lambda _, __: None)
    with target.made() as made:
        assert list(faults(made)) == []
    target.publish()


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    before=st.lists(STEPS, max_size=25),
    after=st.lists(STEPS, max_size=10),
    kept=st.none() | st.integers(1, 4),
)
def test_any_history_is_moved_there_and_back(
    before: list[Write | str], after: list[Write | str], kept: int | None
) -> None:
    """What moved says the same to all that follows, and so do its copies."""

    async def all_of_it(folder: Path) -> None:
        clock = FakeClock()
        places: list[Any] = [SqliteEngine(folder / "1"), PostgresEngine(folder)]
        places += [PostgresEngine(folder), SqliteEngine(folder / "2")]
        one, two, three, four = places
        for file in (one, four):
            file.path.parent.mkdir()
        keep = None if kept is None else Retention(tasks=kept)
        async with opened(one, clock, history_keep=keep) as store:
            await live(store, clock, before)
        url = two.cluster.url()
        with SqliteSnapshot(one.path) as source, PostgresTarget(url, two.name) as target:
            moved(source, target)
        with PostgresSnapshot(url, two.name) as source, PostgresTarget(url, three.name) as target:
            moved(source, target)
        with PostgresSnapshot(url, three.name) as source, SqliteTarget(four.path) as file:
            moved(source, file)
        assert rows_in(two) == rows_in(three) == rows_of(four.path) == rows_of(one.path)
        begun, said = clock.wall(), []
        for place in (one, two, four):
            clock.step_wall((begun - clock.wall()) / SECOND)
            async with opened(place, clock, history_keep=keep) as store:
                said.append(await live(store, clock, after))
        assert said[0] == said[1] == said[2]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(all_of_it(Path(folder)))


# What is refused.


async def test_a_schema_that_is_not_empty_is_refused_and_left_as_it_is(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    other = PostgresEngine(tmp_path)
    # A word of SQL.
    other.name = "order"
    target.cluster.execute('CREATE SCHEMA "order"; CREATE TABLE "order".mine (a int)')
    statements = []
    async with opened(target, clock) as store:
        await store.add(5)
        for engine in (target, other):
            done = command("copy", str(place.path), url_of(engine), folder=tmp_path)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.count("\n") == 1
            assert f"the schema {engine.name} at 127.0.0.1" in done.stderr
            assert "is not empty: copy to another one, or stop all nodes" in done.stderr
            statements += re.findall(r"ALTER SCHEMA [^)]*", done.stderr)
        assert [task.history_num for task in await store.queue()] == [1]
    assert left(target) == []
    # What the line says.
    for engine, statement in zip((target, other), statements, strict=True):
        target.cluster.execute(statement)
        copied(place.path, url_of(engine), tmp_path)
        assert rows_in(engine) == rows_of(place.path)


async def test_a_node_that_starts_during_the_copy_keeps_its_schema(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    with SqliteSnapshot(place.path) as source, PostgresTarget(url_of_cluster(), target.name) as to:
        to.fill(source, lambda _, __: None)
        # It is not held up, and sees nothing of the copy.
        async with opened(target, clock) as store:
            assert (await store.add(5)).first == 1
        with pytest.raises(StartError, match="is not empty"):
            to.publish()
    assert len(rows_in(target)["queue"]) == 1
    assert left(target) == []


def url_of_cluster() -> str:
    return postgres.shared().url()


async def test_a_node_that_starts_waits_for_the_last_step_and_then_serves_the_copy(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    lock = "SELECT pg_advisory_xact_lock(1366648181, 0)"
    with psycopg.connect(url_of_cluster()) as starting:
        starting.execute(lock)
        copying = threading.Thread(target=copied, args=(place.path, url_of(target), tmp_path))
        copying.start()
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 30
        while not target.cluster.query(waits):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert not exists(target)
    copying.join()
    assert rows_in(target) == rows_of(place.path)


async def test_an_empty_schema_that_was_made_for_the_queue_keeps_its_rights(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    target.cluster.execute(
        f"CREATE SCHEMA {target.name}; GRANT USAGE ON SCHEMA {target.name} TO public"
    )
    acl = f"SELECT nspacl::text FROM pg_namespace WHERE nspname = '{target.name}'"
    before = target.cluster.query(acl)
    copied(place.path, url_of(target), tmp_path)
    assert rows_in(target) == rows_of(place.path)
    assert target.cluster.query(acl) == before
    assert left(target) == []
    async with opened(target, clock) as store:
        assert (await store.add(5)).first == 14


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE queue SET wait_sum = wait_sum + 1 WHERE history_num = 7", "task 7: its wait_sum"),
        ("UPDATE queue SET timeout = -1 WHERE history_num = 7", "violates check constraint"),
        ("INSERT INTO skipped VALUES (7, 0, 1, 1, 0)", "violates check constraint"),
        ("DELETE FROM state", "state: depth is 0"),
    ],
)
async def test_a_source_that_is_not_whole_is_not_copied(
    place: SqliteEngine,
    target: PostgresEngine,
    clock: FakeClock,
    damage: str,
    words: str,
) -> None:
    await lived_in(place, clock)
    change(place.path, damage)
    done = command("copy", str(place.path), url_of(target), folder=place.path.parent)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert "is not whole" in done.stderr
    assert not exists(target)


async def test_a_server_that_cannot_be_written_is_one_line(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    await lived_in(place, clock)
    name = target.name
    target.cluster.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'sesame'")
    url = target.cluster.url(f"{name}:sesame")
    for to, words in (
        (f"{url}?schema={name}", f"cannot write the schema {name} at 127.0.0.1"),
        (f"{url.replace('/postgres', '/nobodys')}", 'database "nobodys" does not exist'),
        ("postgresql://u:sesame@127.0.0.1:1/x", "cannot connect to 127.0.0.1 port 1"),
        ("postgresql://u:ses/ame@127.0.0.1:1/x", "must be a URL such as"),
        ("postgresql://u:sesame@h/x?schema=pg_x", "must be a name of lower-case letters"),
        ("postgresql://u:sesame@h/x?schema=a&schema=b", "must name one schema"),
        ("postgresql://u:sesame@h/x?what=b", "is not a URL that PostgreSQL understands"),
        (
            "postgresql://u:sesame@/x?host=a,b,c&port=1,2",
            "gives 2 values of port, which does not fit its hosts (3)",
        ),
        (
            "postgresql://u:sesame@h/x?port=1,2",
            "gives 2 values of port, which does not fit its hosts (1)",
        ),
        ("sqlite://u:sesame@h/x", "the URL: must be a path or a URL such as"),
    ):
        for arguments in (("copy", str(place.path), to), ("check", to)):
            done = command(*arguments, folder=tmp_path)
            assert done.returncode in (1, 2), done
            assert done.stdout + done.stderr.replace("\n", "", 1) == done.stderr.strip()
            assert arguments[0] == "check" or words in done.stderr, done
            assert not any(part in done.stderr for part in ("sesame", "ses", "ame@")), done


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_check_of_a_server_that_does_not_answer_ends_at_once_when_it_is_told_to(
    target: PostgresEngine, number: int, status: int
) -> None:
    asyncio.run(lived_in(target, FakeClock()))
    with Proxy(target.cluster.port) as proxy, psycopg.connect(target.cluster.url()) as other:
        # It waits for somebody, and then the server freezes.
        other.execute(f"LOCK TABLE {target.name}.meta")
        checking = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "check", f"{proxy.url}?schema={target.name}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '% FROM meta' AND wait_event"
        while not target.cluster.query(f"{waiting} = 'relation'"):
            assert checking.poll() is None
        proxy.freeze()
        checking.send_signal(number)
        # The driver asks the server to cancel, and waits for 10 s.
        assert checking.communicate(timeout=5) == (b"", b"")
        assert checking.returncode == status


def test_a_connection_that_is_lost_during_the_copy_is_one_line(
    place: SqliteEngine, target: PostgresEngine, tmp_path: Path
) -> None:
    """Though the driver has something to say about it as well."""
    asyncio.run(lived_in(place, FakeClock()))
    change(
        place.path,
        "WITH RECURSIVE more (n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM more LIMIT 300000)"
        " INSERT INTO history SELECT n, 0, 0, 0, 'cancelled', NULL, 0, n FROM more",
    )
    copying = subprocess.Popen(
        [sys.executable, "-m", "sanic_app", "copy", str(place.path), url_of(target)],
        stderr=subprocess.PIPE,
        text=True,
    )
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY history%'"
    )
    while not target.cluster.query(ended):
        assert copying.poll() is None
    _, lines = copying.communicate(timeout=30)
    assert (copying.returncode, lines.count("\n")) == (1, 1), lines
    assert lines.startswith(f"sanic-app: cannot write the schema {target.name} at ")


async def test_a_role_needs_few_rights(
    place: SqliteEngine, target: PostgresEngine, clock: FakeClock, tmp_path: Path
) -> None:
    """A backup and a check may read, a restore owns a schema that was made for it."""
    await lived_in(place, clock)
    copied(place.path, url_of(target), tmp_path)
    name, admin = target.name, target.cluster.execute
    admin(
        f"CREATE ROLE {name}_reads LOGIN; GRANT USAGE ON SCHEMA {name} TO {name}_reads;"
        f" GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {name}_reads;"
        f" CREATE ROLE {name}_owns LOGIN; GRANT CREATE ON DATABASE postgres TO {name}_owns"
    )
    # Without the right to use the schema it seems to be empty. Options of the URL count too.
    owns = target.cluster.url(f"{name}_owns")
    for verb, url, *to in (
        ("check", f"{owns}?schema={name}"),
        ("copy", f"{owns}?schema={name}", str(tmp_path / "backup.db")),
        ("check", f"{url_of(target)}&options=-c%20role%3D{name}_owns"),
    ):
        done = command(verb, url, *to, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"the role {name}_owns may not use the schema {name}" in done.stderr
    reads = f"{target.cluster.url(f'{name}_reads')}?schema={name}"
    assert command("check", reads, folder=tmp_path).returncode == 0
    copied(reads, tmp_path / "backup.db", tmp_path)
    assert rows_of(tmp_path / "backup.db") == rows_of(place.path)
    done = command("copy", reads, f"{reads}_2", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"sanic-app: cannot write the schema {name}_2 at 127.0.0.1 port {target.cluster.port}:"
        " permission denied for database postgres\n"
    )
    for schema in (f"{name}_3", f"{name}_4"):
        if schema.endswith("4"):
            admin(f"CREATE SCHEMA {schema} AUTHORIZATION {name}_owns")
        copied(place.path, f"{owns}?schema={schema}", tmp_path)
        assert command("check", f"{owns}?schema={schema}", folder=tmp_path).returncode == 0


# While the source is in service, and killed.


@pytest.fixture(params=["sqlite", "postgres"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Running]]:
    """A service with a long history, to which tasks are added and finished all the time."""
    (tmp_path / "from").mkdir()
    source = str(tmp_path / "from" / "queue.db")
    if request.param == "postgres":
        source = url_of(PostgresEngine(tmp_path))
    with under_load(source, tmp_path / "from") as running:
        yield source, running


@contextmanager
def under_load(source: str, folder: Path) -> Iterator[Running]:
    stop = threading.Event()
    with Running(folder, "-D", source) as running:
        body = {"tasks": [{"num": 1, "timeout": 0}] * 10_000}
        for _ in range(3):
            assert running.request("POST", "/api/v1/tasks/batch", body)[0] == 201
        adding = threading.Thread(target=batches, args=(running, stop))
        adding.start()
        try:
            yield running
        finally:
            stop.set()
            adding.join()


def test_a_copy_that_is_killed_leaves_nothing_that_is_seen(
    loaded: tuple[str, Running], target: PostgresEngine, tmp_path: Path
) -> None:
    chance = random.Random(5)
    source, _ = loaded
    killed = 0
    while killed < 5:
        process = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "copy", source, url_of(target)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.3, 2.0))
        process.send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
        killed += process.wait() != 0
        deadline = time.monotonic() + 10
        while left(target):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if exists(target):
            with PostgresSnapshot(url_of_cluster(), target.name) as store:
                assert list(faults(store)) == []
            target.cluster.execute(f"DROP SCHEMA {target.name} CASCADE")
    copied(source, url_of(target), tmp_path)
    assert command("check", url_of(target), folder=tmp_path).returncode == 0


# The documented steps.


def test_backup_and_restore_with_postgres_as_documented(
    target: PostgresEngine, tmp_path: Path
) -> None:
    """README.md, "In production": "With PostgreSQL", from two nodes under load."""
    url = url_of(target)
    with under_load(url, tmp_path) as node, Running(tmp_path, "-D", url) as other:
        copied(url, "backup.db", tmp_path)
        assert command("check", "backup.db", folder=tmp_path).returncode == 0
        assert command("check", url, folder=tmp_path).returncode == 0
        ((saved,),) = _rows(tmp_path / "backup.db", "SELECT last_history_num FROM state")
        assert other.add(7, 600)["history_num"] > saved > 30_000
        seen = lines_of(other, "0.0", 2)[1].removeprefix("id: ")
        refused = command("copy", "backup.db", url, folder=tmp_path)
        assert refused.returncode == 1
        assert "is not empty" in refused.stderr
        assert node.add(8, 600)
    target.cluster.execute(f"ALTER SCHEMA {target.name} RENAME TO {target.name}_before")
    copied("backup.db", url, tmp_path)
    assert command("check", url, folder=tmp_path).returncode == 0
    with Running(tmp_path, "-D", url) as node:
        assert node.add(9, 600)["history_num"] == saved + 1
        assert "event: reset" in lines_of(node, seen, 5)


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with SqliteSnapshot(path) as store:
        return list(store.select(sql))


def test_a_move_there_and_back_as_documented_leaves_the_wait_as_it_is(
    target: PostgresEngine, tmp_path: Path
) -> None:
    """Each service that has the queue finishes the head that the one before has started."""
    seconds = 12
    places = ["queue.db", url_of(target), "back.db"]
    add = {"num": 5, "timeout": seconds}
    key = {"Idempotency-Key": "moved"}
    with Running(tmp_path, "-D", places[0]) as service:
        status, head = service.request("POST", "/api/v1/tasks", add, key)
        assert status == 201
        for num in (6, 7):
            service.add(num, seconds)
        service.request("DELETE", "/api/v1/tasks/2")
        service.stop()
    for number, (before, place) in enumerate(itertools.pairwise(places)):
        copied(before, place, tmp_path)
        with Running(tmp_path, "-D", place) as service:
            # It is the same add.
            again = service.request("POST", "/api/v1/tasks", add, key)[1]
            assert again["history_num"] == head["history_num"]
            waiting = service.request("GET", "/api/v1/queue")[1]["head"]
            assert waiting["num"] == (5, 7)[number]
            service.wait_for_result([5, 7][: number + 1], 2 * seconds)
            path = f"/api/v1/tasks/{waiting['history_num']}"
            done = service.request("GET", path)[1]
            wait = datetime.fromisoformat(done["date_finished"]) - datetime.fromisoformat(
                waiting["date_started"]
            )
            assert done["date_started"] == waiting["date_started"]
            assert 0 <= wait.total_seconds() - seconds < 1
            service.stop()
        assert command("check", place, folder=tmp_path).returncode == 0
