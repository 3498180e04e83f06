"""Several nodes on one queue: each of the thirteen points of several nodes (ARCHITECTURE.md)."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from sanic_app.errors import NotHead
from sanic_app.http import feed
from sanic_app.queue import writer
from sanic_app.queue.condition import UNKNOWN
from sanic_app.settings.values import PostgresUrl
from sanic_app.store.postgres import changes, committer
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.rows import PostgresRows
from sanic_app.store.postgres.servers import Servers
from sanic_app.task import SECOND, Retention
from tests.nodes import SLACK, Queue, depth, frozen, node, seconds_of, times, until
from tests.proxy import Proxy
from tests.serving import ON_UVLOOP, Service, problem, service

pytestmark = ON_UVLOOP

LOCK = "SELECT pg_advisory_xact_lock({lock})"


# 1 and 2: one lock, one order; the state row.


async def test_tasks_of_three_nodes_have_one_gapless_order(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b, node(queue) as c:
        nodes = (a, b, c)

        async def add(number: int) -> dict[str, Any]:
            return await nodes[number % 3].add(number, 1_000)

        tasks = await asyncio.gather(*map(add, range(150)))
        numbers = sorted(task["history_num"] for task in tasks)
        assert numbers == list(range(1, 151))
        rows = queue.query("SELECT history_num, created_at FROM queue ORDER BY 1")
        assert [row[1] for row in rows] == sorted(row[1] for row in rows)
        # What one node has answered stands before what another is asked later.
        later = await b.add(1_000, 1_000)
        assert later["history_num"] == 151


async def test_a_stamp_is_taken_behind_the_lock(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        with held_lock(a, queue):
            waiting = asyncio.create_task(a.add(2, 1_000))
            await asyncio.sleep(0.3)
            ((before,),) = queue.query("SELECT extract(epoch FROM clock_timestamp())::float8")
        task = await waiting
        assert seconds_of(task["date_created"]) >= before


async def test_the_state_row_is_appended_and_never_updated(queue: Queue) -> None:
    async with node(queue) as a:
        for number in range(5):
            await a.add(number)
    assert len(queue.query("SELECT 1 FROM state")) == 1
    # The statistics of a session arrive when it ends, or a while later.
    ((updated,),) = queue.query(
        "SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = current_schema()"
        " AND relname = 'state'"
    )
    assert updated == 0


async def test_no_commit_writes_over_what_another_program_wrote(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        # The commit comes before the next look.
        await a.parts.queue._follower.stop()
        queue.query("UPDATE state SET paused = 1")
        answer = await a.client.post("/add_task", json={"num": 2, "timeout": 0})
        problem(answer, "outcome-unknown", 500)
        assert queue.query("SELECT last_history_num, paused FROM state") == [(1, 1)]
        await until(lambda: ended(a))
        assert a.exits == [70]


async def ended(served: Service) -> bool:
    return bool(served.exits)


async def test_a_role_with_other_defaults_changes_nothing(queue: Queue) -> None:
    role = f"odd_{queue.name}"
    queue.query(f"CREATE ROLE {role} LOGIN SUPERUSER")
    for setting in (
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
        "synchronous_commit = local",
        "client_min_messages = error",
        "statement_timeout = 100",
        "standard_conforming_strings = off",
        "search_path = pg_catalog",
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'German'",
    ):
        queue.query(f"ALTER ROLE {role} SET {setting}")
    url = PostgresUrl(queue.cluster.url(role))
    async with (
        service(Path(), database=url, database_schema=queue.name) as a,
        service(Path(), database=url, database_schema=queue.name) as b,
    ):
        key: dict[str, Any] = {"Idempotency-Key": "a\\'b"}
        await asyncio.gather(*(each.add(number) for number in range(30) for each in (a, b)))
        assert await a.add(99, **key) == await b.add(99, **key)
        session = Servers(url.url, queue.name).connect()
        with session:
            for name, value in (("client_min_messages", "warning"), ("statement_timeout", "0")):
                assert session.execute(f"SHOW {name}").fetchall() == [(value,)]


# 3 and 4: keeper and takeover; a finish names its start.


async def test_another_node_finishes_the_head_of_a_keeper_that_does_not(queue: Queue) -> None:
    async with node(queue) as keeper, node(queue) as other:
        await keeper.parts.worker.stop()
        late = []
        for number in range(1, 9):
            await keeper.add(number, 0.3)
            task = await other.get(f"/api/v1/tasks/{number}?wait=10")
            started, finished = times(task)
            late.append(finished - started - 0.3)
        assert await other.result() == list(range(1, 9))
        assert min(late) >= 0.25, "it was left to its keeper for too short a time"
        assert statistics.median(late) <= 0.5
        # The head that it finished has made it the keeper of none: each was alone in the queue.
        assert other.metric("takeovers_total") == 8
        assert keeper.metric("takeovers_total") == 0


async def test_the_keeper_finishes_at_the_exact_deadline(queue: Queue) -> None:
    async with node(queue) as keeper, node(queue) as other:
        late = []
        for number in range(1, 9):
            await keeper.add(number, 0.1)
            started, finished = times(await other.get(f"/api/v1/tasks/{number}?wait=10"))
            late.append(finished - started - 0.1)
        assert min(late) >= 0
        assert statistics.median(late) < 0.2
        assert other.metric("takeovers_total") == 0


async def test_a_start_is_reckoned_once_whatever_reconnects(queue: Queue) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as other, node(queue) as keeper:
            await keeper.parts.worker.stop()
            await keeper.add(1, 1.0)
            await until(lambda: depth(other))
            first = other.parts.queue.timer.head
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                proxy.cut()
                await asyncio.sleep(0.05)
                assert other.parts.queue.timer.head == first
            started, finished = times(await other.get("/api/v1/tasks/1?wait=10"))
            assert 0.25 <= finished - started - 1.0 < 0.5 + SLACK


async def test_a_start_that_was_seen_before_its_answer_came_is_reckoned_from_then(
    queue: Queue,
) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as keeper:
            for number in (1, 2):
                await keeper.add(number, 1_000)
            timer = keeper.parts.queue.timer

            async def learned() -> bool:
                return timer.head is not None and timer.head.task.history_num == 2

            proxy.on_commit = "in"
            # While the answer is missing, the node looks and learns of its own commit.
            with blocked_writer(keeper):
                cancelled = asyncio.create_task(keeper.client.delete("/api/v1/tasks/1"))
                await until(learned)
                seen = timer.head
                await asyncio.sleep(0.2)
            assert (await cancelled).status_code == 200
            assert seen is not None
            # The deadline is that of the first sight, and the keeper leaves it to nobody.
            assert timer.head == seen._replace(patience=0.0)
            assert seen.patience > 0


async def test_a_finish_with_another_start_is_refused(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        await a.add(1, 1_000)
        await until(lambda: depth(b))
        head = b.parts.queue.timer.head
        assert head is not None
        with pytest.raises(NotHead):
            await b.parts.queue.finish(1, (head.task.started_at or 0) - 1)
        assert (await b.get("/api/v1/tasks/1"))["state"] == "waiting"


async def test_a_restarted_queue_waits_only_the_rest(queue: Queue) -> None:
    begun = time.monotonic()
    async with node(queue) as a:
        await a.add(1, 60)
    queue.query("UPDATE queue SET created_at = created_at - 59 * 1000000")
    queue.query(
        "UPDATE state SET head_started_at = head_started_at - 59 * 1000000,"
        " oldest_created_at = oldest_created_at - 59 * 1000000"
    )
    async with node(queue) as b:
        await b.get("/api/v1/tasks/1?wait=30")
        # A second after its start, or when the node is there, if that takes longer.
        assert 1.0 <= time.monotonic() - begun < 30


# 5: learning.


async def test_a_node_learns_at_once_by_notifications(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        took = []
        for number in range(1, 11):
            await a.add(number, 1_000)

            async def learned(number: int = number) -> bool:
                return await depth(b) >= number

            took.append(await until(learned))
            await asyncio.sleep(0.05)
        assert statistics.median(took) < 0.1, took


async def test_a_node_learns_in_a_fifth_of_a_second_without_them(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        # As if each notification were lost.
        a.store._changes._channel = "nobody"  # type: ignore[attr-defined]
        took = []
        for number in range(1, 8):
            await a.add(number, 1_000)

            async def learned(number: int = number) -> bool:
                return await depth(b) >= number

            took.append(await until(learned))
        assert statistics.median(took) < 0.25, took


async def test_nothing_ends_when_no_notification_can_be_sent(queue: Queue) -> None:
    """As when the cluster's queue of them is full, which takes 8 GB."""
    async with node(queue) as a, node(queue) as b:
        full = "DO $$ BEGIN RAISE program_limit_exceeded; END $$"
        a.store._changes._channel = f"nobody; {full}"  # type: ignore[attr-defined]
        await a.add(1, 1_000)

        async def learned() -> bool:
            return await depth(b) == 1

        await until(learned)
        assert (await a.client.get("/health/ready")).status_code == 200
        assert a.metric("store_reconnects_total") == 0
        assert a.exits == []


async def test_there_are_at_most_fifty_notifications_a_second(queue: Queue) -> None:
    async with node(queue) as a:
        looks = a.store._changes  # type: ignore[attr-defined]
        with psycopg.connect(queue.cluster.url(), autocommit=True) as connection:
            connection.execute(f"LISTEN {looks._channel}")
            begun = time.monotonic()
            while (seconds := time.monotonic() - begun) < 1.0:
                # As after a commit, a thousand times a second.
                looks._announce = True
                looks.ring()
                await asyncio.sleep(0.001)
            count = len(list(connection.notifies(timeout=0.1)))
        assert 5 <= count <= 50 * seconds + 2


async def test_each_node_answers_what_any_other_was_asked(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        for number in range(1, 4):
            await a.add(number, 1_000)
            # At once, before the other node can have learned of it.
            listed = (await b.get("/get_queue_work"))["tasks"]
            assert [task["num"] for task in listed] == list(range(1, number + 1))
            placed = await b.get(f"/api/v1/tasks/{number}")
            assert placed["position"] == number - 1
        waiting = asyncio.create_task(b.get("/api/v1/tasks/2?wait=20"))
        await asyncio.sleep(0.1)
        assert (await a.client.delete("/api/v1/tasks/2")).status_code == 200
        begun = time.monotonic()
        assert (await waiting)["state"] == "cancelled"
        assert time.monotonic() - begun < 0.5 + SLACK
        due = [(await each.get("/api/v1/tasks/3"))["date_due"] for each in (a, b)]
        assert abs(seconds_of(due[0]) - seconds_of(due[1])) < 0.5 + SLACK


async def test_a_finished_task_is_in_the_result_list_of_each_node_at_once(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        for number in range(1, 6):
            await a.add(number)
            await a.get(f"/api/v1/tasks/{number}?wait=10")
            assert await b.result() == list(range(1, number + 1))


async def test_what_a_node_finished_that_is_gone_is_removed_when_it_is_too_old(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PRUNE_PAUSE", 0.5)
    keep = Retention(age=SECOND)
    async with node(queue, history_keep=keep) as a:
        async with node(queue, history_keep=keep) as b:
            await b.add(1)
            await b.get("/api/v1/tasks/1?wait=5")

        async def removed() -> bool:
            return bool((await a.get("/api/v1/queue"))["pruned"])

        await until(removed)


async def test_a_task_that_retention_removed_is_gone_for_a_node_that_never_heard_of_it(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_SECONDS", 5.0)
    keep = Retention(tasks=1)
    async with node(queue, history_keep=keep) as a, node(queue, history_keep=keep) as b:
        # As if notifications were lost.
        a.store._changes._channel = "nobody"  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)
        for number in (1, 2):
            await a.add(number)
            await a.get(f"/api/v1/tasks/{number}?wait=5")
        assert b.parts.queue.figures.last_history_num == 0
        problem(await b.client.get("/api/v1/tasks/1"), "gone", 410)
        problem(await b.client.get("/api/v1/tasks/3"), "not-found", 404)


async def test_who_waits_for_a_task_is_woken_though_retention_removed_it_at_once(
    queue: Queue,
) -> None:
    keep = Retention(tasks=1)
    async with node(queue, history_keep=keep) as a, node(queue, history_keep=keep) as b:
        await b.add(1, 0.5)
        for number in (2, 3):
            await b.add(number)
        await b.add(4, 0.5)
        # 2 and 3 finish together, so that nobody sees 2; 4 is still there when it is looked for.
        waiting = [asyncio.create_task(state_or_status(a, number)) for number in (2, 4)]
        done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done == {waiting[0]}
        assert await waiting[0] == 410
        assert await waiting[1] == "done"


async def state_or_status(served: Service, number: int) -> object:
    """Wait for a task; return its state, or the status of what was answered instead."""
    answer = await served.client.get(f"/api/v1/tasks/{number}?wait=10")
    return answer.json()["state"] if answer.status_code == 200 else answer.status_code


async def test_a_listener_goes_on_at_any_node(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_SECONDS", 5.0)
    async with node(queue) as a, node(queue) as b:
        # As if notifications were lost: the other node does not know of the task yet.
        a.store._changes._channel = "nobody"  # type: ignore[attr-defined]
        await a.add(1, 1_000)
        assert await depth(b) == 0
        cursor = f"{a.store.lineage}.1.0"
        heard = asyncio.create_task(told(b, cursor))
        await asyncio.sleep(0.3)
        await b.add(2, 1_000)
        assert await heard == "added"


async def test_a_listener_that_comes_to_a_node_which_tells_slowly_is_not_reset(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A message a second, as with a thousand listeners and several messages in each round.
    monkeypatch.setattr(feed, "TOTAL_RATE", 1)
    async with node(queue) as a, node(queue) as b:
        live = asyncio.create_task(heard(b, None, "finished"))
        await until(lambda: listens(b))
        for number in (1, 2, 3):
            await a.add(number)
            await a.get(f"/api/v1/tasks/{number}?wait=5")
        last = asyncio.create_task(heard(b, f"{a.store.lineage}.3.3", "added"))
        await until(lambda: has_told(b, 3))
        await a.add(4, 1_000)
        assert await last == ["added"]
        await live


async def test_a_listener_that_comes_to_a_node_which_is_cut_off_is_not_reset(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue) as a, node(queue, proxy.port) as b:
            await a.add(1, 1_000)
            await until(lambda: knows(b, 1))
            proxy.freeze()
            await a.add(2, 1_000)
            # It may come back, here or elsewhere.
            with pytest.raises(httpx.HTTPError):
                await heard(b, f"{a.store.lineage}.2.0", "reset")
            # Nor is one told that it has to read everything anew.
            with pytest.raises(httpx.HTTPError):
                await heard(b, f"{a.store.lineage}.0.0", "added")
            proxy.thaw()
            last = asyncio.create_task(heard(b, f"{a.store.lineage}.2.0", "added"))
            await until(lambda: knows(b, 2))
            await a.add(3, 1_000)
            assert await last == ["added"]
            assert [record for record in caplog.records if record.exc_info] == []


async def test_who_was_told_more_than_a_restored_queue_holds_is_reset(queue: Queue) -> None:
    async with node(queue) as a:
        assert await heard(a, f"{a.store.lineage}.2.0", "reset") == ["reset"]


async def listens(served: Service) -> bool:
    """Return whether somebody follows the node's events."""
    return served.parts.feed.listeners > 0


async def has_told(served: Service, finish_num: int) -> bool:
    """Return whether those who follow the node's events were told of this finish."""
    return served.parts.feed._cursor.finished >= finish_num


async def heard(served: Service, cursor: str | None, last: str) -> list[str]:
    """Return the kinds of the events behind a cursor, up to the first of this kind."""
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    kinds: list[str] = []
    async with served.client.stream("GET", "/api/v1/events", headers=headers) as answer:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kinds.append(value)
                if value == last:
                    break
    return kinds


async def told(served: Service, cursor: str) -> str:
    """Return the kind of the first event behind a cursor."""
    headers = {"Last-Event-ID": cursor}
    async with served.client.stream("GET", "/api/v1/events", headers=headers) as answer:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                return value
    raise AssertionError("the stream ended")


@contextmanager
def held_lock(served: Service, queue: Queue) -> Iterator[psycopg.Connection[Any]]:
    """Hold the lock of all commits, as a node does in the midst of one."""
    schema = served.store._committer.schema  # type: ignore[attr-defined]
    connection = Servers(queue.cluster.url(), queue.name).connect()
    try:
        connection.execute("BEGIN")
        connection.execute(LOCK.format(lock=schema.lock))
        yield connection
    finally:
        connection.close()


@contextmanager
def full_disk_for(queue: Queue, table: str) -> Iterator[None]:
    """Let the server find no room for a row of this table."""
    queue.query(
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$"
    )
    queue.query(
        f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
        " EXECUTE FUNCTION no_room()"
    )
    try:
        yield
    finally:
        queue.query(f"DROP TRIGGER no_room ON {table}; DROP FUNCTION no_room()")


@contextmanager
def blocked_writer(served: Service) -> Iterator[None]:
    """Keep a node's writer from connecting anew."""
    link = served.store._committer.link  # type: ignore[attr-defined]
    find = link._servers.find
    opened = asyncio.Event()

    def refuse() -> Any:
        if not opened.is_set() and "writer" in threading.current_thread().name:
            raise Lost("blocked")
        return find()

    link._servers.find = refuse
    try:
        yield
    finally:
        opened.set()
        link._servers.find = find


# 6: stopped nodes and a frozen server.


async def test_a_node_stopped_with_the_lock_holds_nothing_up_for_long(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        with held_lock(a, queue):
            begun = time.monotonic()
            await a.add(2, 1_000)
            assert time.monotonic() - begun < 2.0 + SLACK


async def test_a_node_stopped_behind_its_look_goes_on(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(queue) as a, node(queue) as b:
        await a.add(1, 1_000)
        stopped, opened = threading.Event(), threading.Event()

        class Stopped(PostgresRows):
            """Stops behind the first message, as a node that gets no time from its machine."""

            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                monkeypatch.undo()
                stopped.set()
                opened.wait(10)

        monkeypatch.setattr(committer, "PostgresRows", Stopped)
        adding = asyncio.create_task(a.add(3, 1_000))
        await asyncio.to_thread(stopped.wait, 10)
        await b.add(2, 1_000)

        async def learned() -> bool:
            return await depth(a) == 2

        # Another thread of the node sees what others have done meanwhile.
        await until(learned)
        opened.set()
        assert (await adding)["history_num"] == 3
        assert a.exits == []


async def test_a_large_batch_may_take_its_time_behind_its_look(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(PostgresRows):
        """Takes as long as a busy machine for the text of such a batch."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            time.sleep(1.5)

    async with node(queue, batch_max=40_000) as a:
        monkeypatch.setattr(committer, "PostgresRows", Slow)
        tasks = {"tasks": [{"num": 1, "timeout": 1_000}] * 40_000}
        assert (await a.client.post("/api/v1/tasks/batch", json=tasks)).status_code == 201
        # Else the server would have ended its transaction, and the commit would have been resolved.
        for outcome, count in (("repeated", 0.0), ("applied", 0.0), ("absent", 0.0)):
            assert a.metric("commits_resolved_total", outcome=outcome) == count


async def test_a_frozen_server_is_noticed_and_comes_back_by_itself(
    own: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(own) as a:
        await a.add(1, 1_000)
        with frozen(own.cluster):
            begun = time.monotonic()
            paths = ["/get_queue_work", "/api/v1/queue", "/api/v1/tasks/1", "/api/v1/results"] * 5
            answers = await asyncio.gather(*map(a.client.get, paths))
            # However many ask: nobody waits behind the others.
            assert time.monotonic() - begun < 2.0 + SLACK
            for answer in answers:
                problem(answer, "store-unavailable", 503)

            async def away() -> bool:
                return (await a.client.get("/health/ready")).status_code == 503

            assert await until(away) < SLACK
            assert (await a.client.get("/health/live")).status_code == 200
            assert a.metric("store_up") == 0

        async def back() -> bool:
            return (await a.client.get("/health/ready")).status_code == 200

        assert await until(back) < 1.0 + SLACK
        # However many reads there were.
        assert [record.msg for record in caplog.records].count("reads get no answer: %s") == 1
        await a.add(2, 1_000)
        assert [task["num"] for task in (await a.get("/get_queue_work"))["tasks"]] == [1, 2]


@pytest.mark.parametrize(
    ("code", "slug", "status", "exits"),
    [
        # No room for the server's own files.
        ("53100", "store-unavailable", 503, []),
        # A value that nobody has written.
        ("22008", "internal", 500, [70]),
    ],
)
async def test_a_read_that_the_server_refuses_is_no_refusal_of_a_write(
    queue: Queue, code: str, slug: str, status: int, exits: list[int]
) -> None:
    async with node(queue) as a:
        await a.add(1)
        await a.until_empty()
        queue.query("ALTER TABLE history RENAME TO what_was")
        queue.query(
            "CREATE FUNCTION refuse() RETURNS boolean LANGUAGE plpgsql"
            f" AS $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{code}'; END $$"
        )
        queue.query("CREATE VIEW history AS SELECT * FROM what_was WHERE refuse()")
        for path in ("/api/v1/results", "/api/v1/tasks/1"):
            problem(await a.client.get(path), slug, status)
        if exits:
            await until(lambda: ended(a))
            assert a.metric("store_errors_total", kind="corrupt") == 1
        assert a.exits == exits


async def test_a_row_that_cannot_be_a_task_ends_the_node(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        await a.add(2, 1_000)
        queue.query("UPDATE queue SET created_at = 253402300800000000 WHERE history_num = 2")
        problem(await a.client.get("/api/v1/tasks/2"), "internal", 500)
        await until(lambda: ended(a))
        assert a.exits == [70]


async def test_a_history_that_is_rewritten_makes_no_node_unready(queue: Queue) -> None:
    async with node(queue) as a:
        await a.add(1, 1_000)
        looking: Any = a.store._changes  # type: ignore[attr-defined]

        async def sized() -> bool:
            return bool(looking.size)

        await until(sized)
        with psycopg.connect(queue.cluster.url()) as connection:
            # As VACUUM FULL and REINDEX do, for hours perhaps.
            connection.execute(f"LOCK TABLE {queue.name}.history IN ACCESS EXCLUSIVE MODE")
            looking._sized_at = -changes.SIZE_SECONDS
            for number in range(2, 15):
                await a.add(number, 1_000)
                assert (await a.client.get("/health/ready")).status_code == 200
                await asyncio.sleep(0.1)
        assert looking.size


async def test_a_server_that_freezes_in_a_connect_holds_up_nobody(queue: Queue) -> None:
    with Proxy(queue.cluster.port) as proxy:
        found = Servers(
            queue.cluster.url().replace(str(queue.cluster.port), str(proxy.port)), "no_schema"
        )
        verify, proxy_freezes = found._verify, proxy.freeze

        def freeze_then_verify(connection: Any) -> Any:
            proxy_freezes()
            return verify(connection)

        found._verify = freeze_then_verify  # type: ignore[method-assign]
        begun = time.monotonic()
        with pytest.raises(Lost):
            # Cancelled, the thread goes on until the proxy is closed.
            await asyncio.wait_for(asyncio.to_thread(found.connect), 6)
        assert time.monotonic() - begun < 2.0 + SLACK


async def test_a_node_far_from_its_server_connects_again(queue: Queue) -> None:
    """Each round trip is so long that a connect leaves no time for a look or a commit."""
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as a:
            await a.add(1, 1_000)
            proxy.delay = 0.17
            proxy.cut()

            async def connected() -> bool:
                return a.metric("store_reconnects_total") == 1

            await until(connected)
            assert (await a.client.get("/health/ready")).status_code == 200
            assert (await a.add(2, 1_000))["history_num"] == 2
            assert (await a.get("/api/v1/queue"))["depth"] == 2
            assert a.metric("store_reconnects_total") == 1
            proxy.delay = 0.0


# 7: a lost connection is not a lost answer.


@pytest.mark.parametrize(
    ("fault", "outcome"), [("before", "repeated"), ("in", "applied"), ("after", "applied")]
)
async def test_a_lost_answer_is_resolved(queue: Queue, fault: str, outcome: str) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as a, node(queue) as b:
            await a.add(1, 1_000)
            proxy.on_commit = fault
            task = await a.add(2, 1_000)
            assert task["history_num"] == 2
            assert a.metric("commits_resolved_total", outcome=outcome) == 1
            numbers = [task["num"] for task in (await b.get("/get_queue_work"))["tasks"]]
            assert numbers == [1, 2]
            assert (await b.add(3, 1_000))["history_num"] == 3


async def test_a_commit_without_answer_is_resolved_after_two_seconds(queue: Queue) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as a:
            await a.add(1, 1_000)
            proxy.on_commit = "freeze"
            adding = asyncio.create_task(a.add(2, 1_000))
            await asyncio.sleep(2.5)
            assert not adding.done()
            proxy.thaw()
            assert (await adding)["history_num"] == 2
            assert a.metric("commits_resolved_total", outcome="applied") == 1


@pytest.mark.parametrize(("fault", "numbers"), [("in", [1, 2, 3]), ("before", [1, 3])])
async def test_what_cannot_be_resolved_is_unknown_and_never_repeated(
    queue: Queue, fault: str, numbers: list[int]
) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port, store_patience=1.0) as a:
            await a.add(1, 1_000)
            proxy.on_commit = fault
            body = {"num": 2, "timeout": 1_000}
            with blocked_writer(a):
                answer = await a.client.post("/add_task", json=body)
                assert problem(answer, "outcome-unknown", 500)["applied"] is None
                # Nothing else is committed meanwhile, and that is certain.
                answer = await a.client.post("/add_task", json=body)
                assert problem(answer, "store-unavailable", 503)["applied"] is False
                answer = await a.client.get("/health/ready")
                assert (answer.status_code, answer.json()["reason"]) == (503, UNKNOWN)
            outcome = "applied" if fault == "in" else "absent"

            # A load balancer sends nothing to a node that is not ready.
            async def resolved() -> bool:
                return a.metric("commits_resolved_total", outcome=outcome) == 1

            await until(resolved)
            assert (await a.get("/health/ready"))["reason"] == "ok"
            await a.add(3, 1_000)
            listed = (await a.get("/get_queue_work"))["tasks"]
            assert [task["num"] for task in listed] == numbers


async def test_a_disk_that_is_full_while_a_commit_is_resolved_makes_nothing_certain(
    queue: Queue,
) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port, store_patience=0.5) as a:
            await a.add(1, 1_000)
            with full_disk_for(queue, "node"):
                proxy.on_commit = "in"
                answer = await a.client.post("/add_task", json={"num": 2, "timeout": 1_000})
                assert problem(answer, "outcome-unknown", 500)["applied"] is None
            await a.add(3, 1_000)
            listed = (await a.get("/get_queue_work"))["tasks"]
            assert [task["num"] for task in listed] == [1, 2, 3]


async def test_a_commit_of_another_node_says_that_there_is_room_again(queue: Queue) -> None:
    async with node(queue) as a, node(queue) as b:
        with full_disk_for(queue, "queue"):
            answer = await a.client.post("/add_task", json={"num": 1, "timeout": 1_000})
            problem(answer, "disk-full", 507)
            assert (await a.get("/health/ready"))["reason"] == "the disk is full"
        await b.add(2, 1_000)

        async def learned() -> bool:
            return bool((await a.get("/health/ready"))["reason"] == "ok")

        await until(learned)


async def test_a_resolved_commit_has_a_write_of_its_own(queue: Queue) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as a:
            await a.add(1, 1_000)
            # As if it had run for longer than rows of nodes are kept.
            queue.query("DELETE FROM node")
            for number in (2, 3):
                proxy.on_commit = "in"
                await a.add(number, 1_000)
                assert queue.query("SELECT resolves FROM node") == [(number - 1,)]


async def test_an_answer_that_others_have_overtaken_brings_back_no_head(queue: Queue) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as a:
            await a.add(1)
            await a.until_empty()
            async with node(queue) as b:
                with blocked_writer(a):
                    proxy.on_commit = "in"
                    adding = asyncio.create_task(a.add(2, 1_000))
                    await until(lambda: knows(b, 2))
                    assert (await b.client.delete("/api/v1/tasks/2")).status_code == 200
                    await b.parts.worker.stop()
                    await b.add(3, 0.5)
                    await until(lambda: knows(a, 3))
                assert (await adding)["history_num"] == 2
                assert a.metric("commits_resolved_total", outcome="applied") == 1
                assert a.metric("queue_depth") == 1
            # Nobody else is there, so nobody commits anything that would tell of the head.
            await a.get("/api/v1/tasks/3?wait=5")
            assert await a.result() == [1, 3]


async def knows(served: Service, history_num: int) -> bool:
    """Return whether the node has learned of the task."""
    return served.parts.queue.figures.last_history_num >= history_num


async def test_while_one_node_has_an_add_its_retry_at_another_is_not_told_that_it_is_not_there(
    queue: Queue,
) -> None:
    key, body = {"Idempotency-Key": "key"}, {"num": 1, "timeout": 1_000}
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port) as a, node(queue) as b:
            proxy.freeze()
            # Its client goes away, and tries again elsewhere.
            first = asyncio.create_task(a.client.post("/add_task", json=body, headers=key))
            await asyncio.sleep(0.1)
            with full_disk_for(queue, "node_commit"):
                again = await b.client.post("/add_task", json=body, headers=key)
                assert problem(again, "disk-full", 507)["applied"] is None
            proxy.thaw()
            assert (await first).json()["history_num"] == 1
            again = await b.client.post("/add_task", json=body, headers=key)
            assert again.headers["idempotent-replayed"] == "true"


async def test_what_was_absent_is_not_done_again_when_nobody_waits_any_more(queue: Queue) -> None:
    with Proxy(queue.cluster.port) as proxy:
        async with node(queue, proxy.port, store_patience=0.0) as a:
            await a.add(1, 1_000)
            proxy.on_commit = "before"
            answer = await a.client.post("/add_task", json={"num": 2, "timeout": 0})
            assert problem(answer, "store-unavailable", 503)["applied"] is False
            assert a.metric("commits_resolved_total", outcome="absent") == 1
            await a.add(3, 1_000)
            listed = (await a.get("/get_queue_work"))["tasks"]
            assert [task["num"] for task in listed] == [1, 3]
