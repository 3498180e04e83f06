"""PostgreSQL as nodes find it: which server is used, what is refused, and what comes and goes."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sanic_app.errors import StartError
from sanic_app.settings.values import PostgresUrl
from sanic_app.store.postgres.committer import Committer
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.link import Link
from sanic_app.store.postgres.outcome import was_applied
from sanic_app.store.postgres.servers import Servers
from sanic_app.task import Retention
from tests.nodes import GRANTS, SLACK, Queue, depth, frozen, node, seconds_of, until, url_of
from tests.postgres import Cluster
from tests.serving import ON_UVLOOP, problem, service

pytestmark = ON_UVLOOP


# Losing the database is not a death; the best host is used.


async def test_a_server_that_crashed_is_used_again_at_once(own: Queue) -> None:
    async with node(own) as a, node(own) as b:
        await a.add(1, 1_000)
        await asyncio.to_thread(own.cluster.stop, signal.SIGKILL)
        answer = await a.client.get("/api/v1/queue")
        problem(answer, "store-unavailable", 503)
        waiting = asyncio.create_task(b.add(2, 1_000))
        await asyncio.to_thread(own.cluster.start)
        begun = time.monotonic()
        assert (await waiting)["history_num"] == 2
        assert (await a.add(3, 1_000))["history_num"] == 3
        assert time.monotonic() - begun < 1.0 + SLACK
        assert a.exits == b.exits == []

        # Later than the first commit, which connects for itself.
        async def counted() -> bool:
            return a.metric("store_reconnects_total") == 1

        await until(counted)


async def test_a_write_waits_only_so_long_for_the_server(own: Queue) -> None:
    async with node(own, store_patience=1.0) as a:
        await a.add(1, 1_000)
        await asyncio.to_thread(own.cluster.stop, signal.SIGKILL)
        begun = time.monotonic()
        answer = await a.client.post("/add_task", json={"num": 2, "timeout": 0})
        assert problem(answer, "store-unavailable", 503)["applied"] is False
        assert answer.headers["retry-after"]
        assert 0.9 < time.monotonic() - begun < 1.5 + SLACK
        await asyncio.to_thread(own.cluster.start)


async def test_no_write_waits_longer_because_others_wait_before_it(own: Queue) -> None:
    async with node(own, store_patience=1.0) as a:
        await a.add(1, 1_000)
        await asyncio.to_thread(own.cluster.stop, signal.SIGKILL)
        # More than one commit takes, and one that comes while the first ones wait.
        batch = {"tasks": [{"num": 2, "timeout": 0}] * 1_000}
        begun = time.monotonic()
        waiting = [
            asyncio.create_task(a.client.post("/api/v1/tasks/batch", json=batch)) for _ in range(20)
        ]
        await asyncio.sleep(0.5)
        waiting.append(asyncio.create_task(a.client.post("/add_task", json=batch["tasks"][0])))
        for answer in await asyncio.gather(*waiting):
            assert problem(answer, "store-unavailable", 503)["applied"] is False
        assert time.monotonic() - begun < 1.5 + SLACK
        await asyncio.to_thread(own.cluster.start)


@pytest.mark.parametrize("source", ["variables", "service"])
async def test_several_hosts_may_come_from_where_libpq_finds_them(
    pair: list[Cluster], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, standby = pair
    ports = f"{standby.port},{primary.port}"
    # A shell may have these for other programs.
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    if source == "variables":
        monkeypatch.setenv("PGHOST", "127.0.0.1,127.0.0.1")
        monkeypatch.setenv("PGPORT", ports)
        url, where = "postgresql://postgres@/postgres", f"127.0.0.1 port {primary.port}"
    else:
        file = tmp_path / "services"
        file.write_text(f"[jobs]\nhost=127.0.0.1,127.0.0.1\nport={ports}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        url, where = "postgresql://postgres@/postgres?service=jobs", "the service jobs"
    servers = Servers(url, "sanic_app")
    with servers.connect() as connection:
        assert connection.info.port == primary.port
    assert where in servers.where


async def test_the_sessions_of_a_node_without_power_end_soon(queue: Queue) -> None:
    """Linux has these of the socket: for two hours nobody could change what all agree on."""
    with Servers(queue.cluster.url(), queue.name).connect() as connection:
        names = ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
        shown = [connection.execute(f"SHOW tcp_{name}").fetchall()[0][0] for name in names]
        assert shown == ["10", "5", "4", "30000"]


@pytest.mark.parametrize("order", ["primary first", "standby first"])
async def test_the_writable_host_is_used_wherever_it_stands(
    pair: list[Cluster], order: str
) -> None:
    hosts = pair if order == "primary first" else pair[::-1]
    async with service(Path(), database=url_of(hosts)) as a:
        before = (await a.get("/api/v1/queue"))["depth"]
        await a.add(1, 1_000)
        listed = pair[0].query("SELECT depth FROM sanic_app.state")
        assert listed == [(before + 1,)]


@pytest.mark.parametrize("fault", ["dead", "frozen"])
async def test_a_promoted_standby_is_used_and_the_server_before_never_again(
    pair: list[Cluster], fault: str
) -> None:
    old, new = pair
    name = f"failover_{fault}"
    with ExitStack() as life:
        async with service(Path(), database=url_of(pair), database_schema=name) as a:
            await a.add(1, 1_000)
            if fault == "dead":
                await asyncio.to_thread(old.stop, signal.SIGKILL)
            else:
                life.enter_context(frozen(old))
            new.execute("SELECT pg_promote()")
            begun = time.monotonic()
            assert (await a.add(2, 1_000))["history_num"] == 2
            assert time.monotonic() - begun < 2.0 + SLACK
            # A server that was only stopped answers again, and nobody asks it.
            life.close()
            for path in ("/get_queue_work", "/api/v1/tasks"):
                assert len((await a.get(path))["tasks"]) == 2
            # It comes back, and does not wait for a standby any more.
            await asyncio.to_thread(old.stop, signal.SIGKILL)
            (old.data / "postgresql.auto.conf").write_text("synchronous_standby_names = ''\n")
            await asyncio.to_thread(old.start)
            new.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'sanic-app'"
            )
            for number in (3, 4):
                assert (await a.add(number, 1_000))["history_num"] == number
                assert len((await a.get("/get_queue_work"))["tasks"]) == number
            assert old.query(f"SELECT depth FROM {name}.state") == [(1,)]
            # Not even while it is the only one: to end would be to start anew on it.
            await asyncio.to_thread(new.stop, signal.SIGKILL)
            answer = await a.client.get("/api/v1/queue")
            problem(answer, "store-unavailable", 503)
            await asyncio.sleep(0.5)
            assert a.exits == []
            await asyncio.to_thread(new.start)
            assert (await a.add(5, 1_000))["history_num"] == 5
    # As the primary it had before, for other tests.
    new.stop(signal.SIGKILL)
    (old.data / "postgresql.auto.conf").write_text("synchronous_standby_names = '*'\n")
    old.stop()
    old.start()


async def test_another_cluster_and_an_older_timeline_are_refused(pair: list[Cluster]) -> None:
    found = Servers(url_of(pair[:1]).url, "any")
    found.connect().close()
    found.timeline += 1
    with pytest.raises(Lost, match="timeline"):
        found.connect()
    found.timeline -= 1
    found._system = 1
    with pytest.raises(Lost, match="another cluster"):
        found.connect()


async def test_a_session_may_be_idle_whatever_the_role_says(queue: Queue) -> None:
    role = f"idle_{queue.name}"
    queue.query(f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET idle_session_timeout = '100ms'")
    with Servers(queue.cluster.url(role), queue.name).connect() as connection:
        await asyncio.sleep(0.5)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        ("array_nulls = off", "'{NULL}'::bigint[]", [None]),
        ("quote_all_identifiers = on", "format_type('text'::regtype, NULL)", "text"),
    ],
)
async def test_a_session_reads_and_writes_alike_whatever_the_role_says(
    queue: Queue, setting: str, value: str, shown: object
) -> None:
    """Else each cancel failed, and a check found all columns changed."""
    role = f"{setting.split(maxsplit=1)[0]}_{queue.name}"
    queue.query(f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET {setting}")
    with Servers(queue.cluster.url(role), queue.name).connect() as connection:
        assert connection.execute(f"SELECT {value}").fetchall() == [(shown,)]


# The wait for a synchronous standby.


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_wait_for_the_standby_that_was_ended_is_no_success(
    pair: list[Cluster], how: str
) -> None:
    primary, standby = pair
    name = f"away_{how}"
    async with service(
        Path(), database=url_of(pair[:1]), database_schema=name, store_patience=2.0
    ) as a:
        await a.add(1, 1_000)
        with frozen(standby):
            adding = asyncio.create_task(
                a.client.post("/add_task", json={"num": 2, "timeout": 1_000})
            )
            end = time.monotonic() + 4
            while not adding.done() and time.monotonic() < end:
                primary.query(
                    f"SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                )
                await asyncio.sleep(0.1)
            answer = await adding
            assert problem(answer, "outcome-unknown", 500)["applied"] is None

        # When the standby is back, everything goes on, and the task is there once.
        async def added() -> bool:
            return (await a.client.post("/add_task", json={"num": 3, "timeout": 0})).is_success

        await until(added)
        numbers = [task["num"] for task in (await a.get("/get_queue_work"))["tasks"]]
        assert numbers[:3] == [1, 2, 3]


async def test_a_call_without_an_answer_says_so(queue: Queue) -> None:
    """And not what became of the connection, which the node itself has cut."""
    link = Link(Servers(queue.cluster.url(), queue.name), "test")
    try:
        await link.run(lambda connection: connection.execute("SELECT 1"), 10)
        with pytest.raises(Lost, match=r"the server gave no answer within 0\.2 s"):
            await link.run(lambda connection: connection.execute("SELECT pg_sleep(9)"), 0.2)
    finally:
        await link.close()


# Locks of others.


async def test_the_first_commit_of_a_node_may_meet_a_lock(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        with psycopg.connect(queue.cluster.url()) as other:
            # As VACUUM FULL, or CREATE INDEX, has it.
            other.execute(f"LOCK TABLE {queue.name}.queue IN EXCLUSIVE MODE")
            adding = [asyncio.create_task(each.add(1, 1_000)) for each in (a, b)]
            # Longer than a statement waits for a lock.
            await asyncio.sleep(1.5)
            assert not any(each.done() for each in adding)
        numbers = [(await each)["history_num"] for each in adding]
        assert sorted(numbers) == [1, 2]
        assert a.exits == b.exits == []


# What all nodes have to agree on.


@pytest.mark.parametrize(
    "other", [{"idempotency_keep_us": 1}, {"history_keep": Retention(tasks=5)}]
)
async def test_a_node_with_other_settings_does_not_start(
    queue: Queue, other: dict[str, Any]
) -> None:
    async with node(queue) as a:
        await a.add(1)
        with pytest.raises(StartError, match="IDEMPOTENCY_KEEP"):
            async with node(queue, **other):
                raise AssertionError("it serves")
        await a.add(2)
    # When no node runs they may be changed.
    async with node(queue, **other) as b:
        await b.add(3)


async def test_a_node_that_was_cut_off_notices_that_the_settings_were_changed(
    queue: Queue, tmp_path: Path
) -> None:
    async with node(queue) as a:
        await a.add(1)
        queue.query("UPDATE meta SET history_keep_tasks = 5")
        answer = await a.client.post("/add_task", json={"num": 2, "timeout": 0})
        problem(answer, "outcome-unknown", 500)
        await ended(a.exits)
    assert len(queue.query("SELECT 1 FROM history")) + len(queue.query("SELECT 1 FROM queue")) == 1


async def test_a_full_queue_is_found_in_the_commit(queue: Queue) -> None:
    async with node(queue, queue_max=3) as a, node(queue, queue_max=3) as b:
        answers = await asyncio.gather(
            *(
                each.client.post("/add_task", json={"num": number, "timeout": 1_000})
                for number in range(5)
                for each in (a, b)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 7
        assert queue.query("SELECT depth FROM state") == [(3,)]


async def test_ages_go_by_the_clock_of_the_server(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sanic_app.store.postgres.opening.NOW",
        "((extract(epoch FROM clock_timestamp()) - 600) * 1000000)::bigint",
    )
    async with node(queue) as a, node(queue) as b:
        await a.add(1, 1_000)
        await until(lambda: depth(b))
        for each in (a, b):
            assert each.metric("queue_oldest_task_age_seconds") < 5
            assert 0 <= (await each.get("/api/v1/queue"))["oldest_task_age_seconds"] < 5


async def test_time_goes_on_when_the_clock_of_the_server_goes_back(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(queue) as a, node(queue) as b:
        await a.add(1)
        await a.get("/api/v1/tasks/1?wait=10")
        # As that of a standby that is promoted.
        monkeypatch.setattr(
            "sanic_app.store.postgres.opening.NOW",
            "((extract(epoch FROM clock_timestamp()) - 600) * 1000000)::bigint",
        )
        began = time.monotonic()
        head = await a.add(2, 60)
        await until(lambda: depth(b))
        await asyncio.sleep(1.5)
        for each in (b, a):
            task = await each.get(f"/api/v1/tasks/{head['history_num']}")
            left, passed = task["seconds_until_due"], time.monotonic() - began
            assert 60 - passed - SLACK < left <= 60
            due = seconds_of(task["date_due"]) - seconds_of(task["date_started"])
            assert abs(due - 60) < SLACK
            ages = (await each.get("/api/v1/queue"))["oldest_task_age_seconds"]
            for age in (ages, each.metric("queue_oldest_task_age_seconds")):
                assert 1.4 < age <= time.monotonic() - began
            assert 590 < each.metric("stamp_ahead_seconds") <= 601
        assert "s ahead of the clock of PostgreSQL" in caplog.text


async def test_an_answer_is_found_after_a_promotion_to_a_clock_days_ahead(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        # By the clock of another server, the node's commit is two days old.
        queue.query("UPDATE node_commit SET committed_at = committed_at - interval '2 days'")
        async with node(queue):
            assert len(queue.query("SELECT 1 FROM node_commit")) == 1
        queue.query("UPDATE node_commit SET commit_num = commit_num - 2000000")
        async with node(queue):
            assert queue.query("SELECT 1 FROM node_commit") == []


async def ended(exits: list[int]) -> None:
    """Return when the process would have ended with status 70."""

    async def gone() -> bool:
        return bool(exits)

    await until(gone)
    assert set(exits) == {70}


# Migrations, releases side by side, lineage.


async def test_a_newer_schema_that_is_compatible_is_used(queue: Queue) -> None:
    async with node(queue) as a:
        queue.query("UPDATE meta SET schema = 1000, compatible_from = 1")
        await a.add(1)
        async with node(queue) as b:
            await b.add(2)


async def test_a_server_that_is_too_old_is_refused(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanic_app.store.postgres.servers.OLDEST_SERVER", 1_000)
    with pytest.raises(StartError, match="1000 or newer is needed"):
        Servers(queue.cluster.url(), "any").connect()


async def test_a_schema_that_becomes_too_new_ends_a_node(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        queue.query("UPDATE meta SET schema = 1000, compatible_from = 1000")
        await ended(a.exits)


# Rights.


async def test_row_security_is_no_damage(queue: Queue) -> None:
    async with node(queue):
        pass
    role = f"row_{queue.name}"
    queue.query(f"CREATE ROLE {role} LOGIN; {GRANTS.format(schema=queue.name, role=role)}")
    queue.query("ALTER TABLE meta ENABLE ROW LEVEL SECURITY")
    url = PostgresUrl(queue.cluster.url(role))
    with pytest.raises(StartError, match="row-level security policy for table"):
        async with service(Path(), database=url, database_schema=queue.name):
            pass


async def test_a_role_that_only_serves_has_no_right_to_change_the_schema(queue: Queue) -> None:
    role = f"serving_{queue.name}"
    queue.query(f"CREATE ROLE {role} LOGIN")
    url = PostgresUrl(queue.cluster.url(role))
    with pytest.raises(StartError, match="permission denied"):
        async with service(Path(), database=url, database_schema=queue.name):
            raise AssertionError("it serves")
    async with node(queue) as owner:
        with pytest.raises(StartError, match="may not use the schema"):
            async with service(Path(), database=url, database_schema=queue.name):
                raise AssertionError("it serves")
        for line in GRANTS.format(schema=queue.name, role=role).strip().splitlines():
            queue.query(line)
        async with service(Path(), database=url, database_schema=queue.name) as a:
            await a.add(1)
            await a.get("/api/v1/tasks/1?wait=5")
            assert await owner.result() == await a.result() == [1]
            await a.add(2, 1_000, **{"Idempotency-Key": "key"})
            assert (await a.client.delete("/api/v1/tasks/2")).status_code == 200
            # What resolves a lost commit needs its rights as well.
            committer: Committer = a.store._committer  # type: ignore[attr-defined]
            look = partial(was_applied, committer.schema.lock, committer._node, 1)
            await committer.link.run(look, 2)
        with (
            psycopg.connect(url.url, autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"DROP TABLE {queue.name}.history")
