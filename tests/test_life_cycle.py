"""How the service stops, and what it does when a part of it fails."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sanic_app import lifecycle
from sanic_app.app import create_app
from sanic_app.errors import DiskFull, NotOwner, StartError, StoreFailed
from sanic_app.lifecycle import serving
from sanic_app.process import bind
from sanic_app.queue import tries
from sanic_app.settings import Settings
from sanic_app.store import Commit, Lease, Slice, Write, reads
from tests.serving import ENGINE, ON_UVLOOP, Gate, Service, held, problem, request, service
from tests.test_sqlite_store import files_up_to

pytestmark = ON_UVLOOP

ADD = request("/add_task", b'{"num": 7, "timeout": 600}')
READ = request("/get_result", method="GET")
READY = request("/health/ready", method="GET")


def failing(error: BaseException) -> Any:
    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail


async def reason(served: Service, status: int) -> str:
    answer = await served.client.get("/health/ready")
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert list(document) == ["status", "reason"]
    assert document["status"] == ("ready" if status == 200 else "unready")
    said: str = document["reason"]
    return said


# Stopping.


async def test_a_stop_refuses_adds_and_answers_those_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        async with held(served, monkeypatch) as gate:
            await wire.send(ADD)
            await gate.entered.wait()
            stop = asyncio.create_task(served.stop())
            await served.parts.stopping.wait()
            assert await reason(served, 503) == "stopping"
            answer = await served.client.post("/add_task", content='{"num": 8, "timeout": 0}')
            assert problem(answer, "stopping", 503)["applied"] is False
            assert int(answer.headers["retry-after"]) > 0
            assert served.metric("adds_refused_total", reason="stopping") == 1
            # Reading and living go on as long as there is something to wait for.
            assert (await served.client.get("/health/live")).status_code == 200
            assert await served.get("/api/v1/tasks") == {"tasks": []}
            assert not stop.done()
        assert (await wire.answer()).status == 200
        await stop
        assert served.exits == []
    async with service(tmp_path) as served:
        assert [task["num"] for task in (await served.get("/api/v1/tasks"))["tasks"]] == [7]


async def test_a_retry_during_a_stop_is_told_what_the_first_add_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, new = {"num": 7, "timeout": 600}, {"Idempotency-Key": "new"}
    adds = [
        ("/add_task", body),
        ("/api/v1/tasks", body),
        ("/api/v1/tasks/batch", {"tasks": [body]}),
    ]
    async with service(tmp_path) as served, served.wire() as wire:
        post = served.client.post
        firsts = [
            await post(path, json=sent, headers={"Idempotency-Key": path}) for path, sent in adds
        ]
        async with held(served, monkeypatch) as gate:
            await wire.send(ADD)
            await gate.entered.wait()
            stop = asyncio.create_task(served.stop())
            await served.parts.stopping.wait()
            for first, (path, sent) in zip(firsts, adds, strict=True):
                again = await post(path, json=sent, headers={"Idempotency-Key": path})
                assert (again.status_code, again.json()) == (first.status_code, first.json())
                assert again.headers["idempotent-replayed"] == "true"
                # The add in flight may have this key: it is not known that nothing was added.
                refused = problem(await post(path, json=sent, headers=new), "stopping", 503)
                assert refused["applied"] is None
        await stop


async def test_a_stop_does_not_leave_the_worker_with_a_finish_that_nobody_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await served.client.post("/api/v1/queue/pause")
        tasks = [{"num": 1, "timeout": 0}] * 1_000
        for _ in range(3):
            await served.client.post("/api/v1/tasks/batch", json={"tasks": tasks})
        await served.client.post("/api/v1/queue/resume")
        async with held(served, monkeypatch) as gate:
            await gate.entered.wait()
            stop = asyncio.create_task(served.stop())
            await served.parts.stopping.wait()
            await asyncio.sleep(0.01)
        await stop
        assert served.exits == []


async def test_a_stop_without_delay_refuses_at_once(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(7, 600)
        started = asyncio.get_running_loop().time()
        await served.stop()
        assert asyncio.get_running_loop().time() - started < 2
        with pytest.raises(ConnectionRefusedError):
            await served.say(READY)


async def test_the_delay_of_a_stop_is_served_in_full_and_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "SLICE_ROWS", 2)
    async with service(tmp_path, stop_delay=0.5) as served:
        for num in range(5):
            await served.add(num, 0)
        await served.until_empty()
        started = asyncio.get_running_loop().time()
        stop = asyncio.create_task(served.stop())
        await served.parts.unready.wait()
        assert await reason(served, 503) == "stopping"
        await served.add(5, 0)
        await served.until_empty()
        # A whole list of several slices is whole.
        assert await served.result() == [0, 1, 2, 3, 4, 5]
        assert not served.parts.stopping.is_set()
        await stop
        assert asyncio.get_running_loop().time() - started >= 0.5
    async with service(tmp_path) as served:
        assert await served.result() == [0, 1, 2, 3, 4, 5]


async def test_the_head_s_wait_is_left_and_goes_on_at_the_next_start(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with service(tmp_path) as served:
        asked = loop.time()
        task = await served.add(7, 2)
        added = loop.time()
        await served.stop()
        assert loop.time() - added < 2
    async with service(tmp_path) as served:
        gone = loop.time() - added
        queue = await served.get("/api/v1/queue")
        assert queue["head"] == task
        assert 0 < queue["backlog_seconds"] <= 2 - gone
        await served.until_empty()
        assert loop.time() - asked >= 2
        assert await served.result() == [7]


async def test_idle_and_deaf_clients_do_not_hold_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(after: int, _: int) -> Slice:
        await asyncio.sleep(0)
        return Slice(",".join(["1234567890"] * 5_000), after + 1)

    async with (
        service(tmp_path) as served,
        served.wire() as new,
        served.wire() as used,
        served.wire() as half,
        served.wire(narrow=True) as deaf,
    ):
        await used.send(READ)
        await used.answer()
        await half.send(ADD[:40])
        monkeypatch.setattr(served.store, "results_slice", endless)
        await deaf.send(READ)
        await deaf.head()
        started = asyncio.get_running_loop().time()
        await served.stop()
        assert asyncio.get_running_loop().time() - started < 2
        for wire in (new, used):
            assert await wire.ended() == b""
        assert b"]}" not in await deaf.ended()
        await half.ended()
        assert served.exits == []


async def test_the_worker_is_over_when_the_queue_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it puts a finish that nobody commits, and waits for it for ever."""
    async with service(tmp_path) as served:
        queue, stop, running = served.parts.queue, served.parts.queue.stop, []

        async def noted() -> None:
            running.append(served.parts.worker.running)
            await stop()

        monkeypatch.setattr(queue, "stop", noted)
        await served.stop()
        assert running[0] is False


async def test_a_stop_that_comes_twice_is_one_stop(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.stop()
        await served.stop()
        parts = served.parts
        await parts.worker.stop()
        await parts.queue.stop()
        await parts.queue.close()
        assert not parts.worker.running
        assert served.exits == []


async def test_a_commit_that_does_not_come_back_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        assert lifecycle.STOP_SECONDS == 4
        monkeypatch.setattr(lifecycle, "STOP_SECONDS", 0.2)
        async with held(served, monkeypatch) as gate:
            await wire.send(ADD)
            await gate.entered.wait()
            caplog.clear()
            stop = asyncio.create_task(served.stop())
            while not served.exits:  # noqa: ASYNC110 - an exit waits for nobody
                await asyncio.sleep(0.01)
            assert served.exits == [75]
            (record,) = caplog.records
            assert "75" in record.getMessage()
        await stop


# Failing.


async def test_the_worker_s_death_is_the_service_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as served:
        assert served.metric("worker_up") == 1
        monkeypatch.setattr(served.parts.queue, "finish", failing(RuntimeError("on purpose")))
        started = asyncio.get_running_loop().time()
        await served.add(7, 0)
        assert await reason(served, 503) == "the worker is not running"
        assert served.metric("worker_up") == 0
        while not served.exits:  # noqa: ASYNC110 - an exit waits for nobody
            await asyncio.sleep(0.01)
        assert served.exits == [70]
        assert asyncio.get_running_loop().time() - started < 2
    deaths = [record for record in caplog.records if record.exc_info]
    assert [str(record.exc_info[1]) for record in deaths if record.exc_info] == ["on purpose"]
    assert all(record.levelno == logging.CRITICAL for record in deaths)


async def test_a_failed_store_ends_the_process_and_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        commits: list[Sequence[Write]] = []

        async def fail(_: Lease, writes: Sequence[Write]) -> Commit:
            commits.append(writes)
            raise StoreFailed(kind="io", detail=f"disk I/O error at {tmp_path}")

        monkeypatch.setattr(served.store, "commit", fail)
        closed: list[bool] = []
        close = served.store.close

        async def watch() -> None:
            closed.append(True)
            await close()

        monkeypatch.setattr(served.store, "close", watch)
        started = asyncio.get_running_loop().time()
        content = '{"num": 8, "timeout": 0}'
        headers = {"Content-Type": "application/json", "Idempotency-Key": "a"}
        answer = await served.client.post("/api/v1/tasks", content=content, headers=headers)
        # Nobody knows whether it is there: the key makes it safe to ask again.
        assert problem(answer, "outcome-unknown", 500)["applied"] is None
        assert str(tmp_path) not in answer.text
        assert await reason(served, 503) == "the store failed"
        assert served.metric("store_errors_total", kind="io") == 1
        assert served.metric("adds_refused_total", reason="outcome_unknown") == 1
        late = await served.client.post("/api/v1/tasks", content=content, headers=headers)
        assert late.status_code in (500, 503)
        # What was on the disk before can still be read.
        assert (await served.get("/api/v1/tasks/1"))["num"] == 1
        while not served.exits:  # noqa: ASYNC110 - an exit waits for nobody
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - started < 1
        await served.stop()
        assert set(served.exits) == {70}
        assert len(commits) == 1
        # An orderly close would write.
        assert closed == []


async def test_all_who_wait_are_told_that_the_store_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        gate = Gate()

        async def fail(_: Lease, writes: Sequence[Write]) -> Commit:
            gate.entered.set()
            await gate.opened.wait()
            raise StoreFailed(kind="corrupt", detail="database disk image is malformed")

        monkeypatch.setattr(served.store, "commit", fail)
        asking = [asyncio.create_task(served.say(ADD))]
        await gate.entered.wait()
        asking += [asyncio.create_task(served.say(ADD)) for _ in range(5)]
        while served.metric("writes_waiting") < 5:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.005)
        gate.opened.set()
        for answer in await asyncio.gather(*asking):
            assert answer.problem["type"].endswith(":outcome-unknown")
            assert answer.problem["applied"] is None


async def test_a_full_disk_refuses_adds_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        with monkeypatch.context() as full:
            full.setattr(served.store, "commit", failing(DiskFull()))
            for path in ("/add_task", "/api/v1/tasks"):
                answer = await served.client.post(path, content='{"num": 2, "timeout": 0}')
                assert problem(answer, "disk-full", 507)["applied"] is False
                assert int(answer.headers["retry-after"]) > 0
            assert await reason(served, 200) == "the disk is full"
            assert (await served.get("/api/v1/queue"))["depth"] == 1
            assert served.metric("store_errors_total", kind="full") == 2
            assert served.metric("adds_refused_total", reason="disk_full") == 2
        assert (await served.add(2, 600))["history_num"] == 2
        assert await reason(served, 200) == "ok"
        assert served.exits == []


@pytest.mark.skipif(ENGINE != "sqlite", reason="PostgreSQL's disk is not the service's")
async def test_a_start_on_a_full_disk_says_so_before_anybody_adds(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
    with files_up_to(32_768):
        async with service(tmp_path) as served:
            assert await reason(served, 200) == "the disk is full"
            assert served.metric("store_errors_total", kind="full") == 1
            assert (await served.get("/api/v1/queue"))["depth"] == 1
            with files_up_to(2**30):
                await served.add(2, 600)
                assert await reason(served, 200) == "ok"


async def test_a_finish_that_meets_a_full_disk_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        commit = served.store.commit
        refused: list[Sequence[Write]] = []

        async def full_twice(lease: Lease, writes: Sequence[Write]) -> Commit:
            if len(refused) < 2 and not hasattr(writes[0], "tasks"):
                refused.append(writes)
                raise DiskFull
            return await commit(lease, writes)

        monkeypatch.setattr("sanic_app.queue.worker.FULL_PAUSE", 0.05)
        monkeypatch.setattr(served.store, "commit", full_twice)
        await served.add(1, 0)
        while await served.result() != [1]:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)
        assert len(refused) == 2
        assert served.metric("worker_up") == 1


# Starting.


async def test_a_second_service_on_the_same_queue_does_not_start(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        with pytest.raises(NotOwner, match="another process owns the queue"):
            async with service(tmp_path):
                pytest.fail("it started")
        assert (await served.add(2, 600))["history_num"] == 2
    # And it gives the place free.
    async with service(tmp_path) as served:
        assert (await served.add(3, 600))["history_num"] == 3


async def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(StartError):
        async with service(tmp_path):
            pytest.fail("it started")
    assert path.read_bytes() == b"precious" * 1000


async def test_two_starts_on_one_port_are_told_apart_when_the_second_listens(
    tmp_path: Path,
) -> None:
    first = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    second = bind("127.0.0.1", port)
    first.listen()
    app = create_app(Settings(database=tmp_path / "queue.db"))
    with first, second, pytest.raises(StartError) as error:
        async with serving(app, second):
            pass
    assert error.value.detail == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


# A commit that does not return.


async def wait_until_ready_says(served: Service, status: int, said: str) -> None:
    async with asyncio.timeout(10):
        while (await served.client.get("/health/ready")).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await reason(served, status) == said


async def test_a_write_lock_of_another_program_makes_it_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "STUCK_SECONDS", 1.5)
    async with service(tmp_path) as served:
        other = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            # Nothing is to be written yet, so nothing is stuck.
            await asyncio.sleep(0.1)
            assert await reason(served, 200) == "ok"
            adding = asyncio.create_task(served.add(7, 600))
            await wait_until_ready_says(served, 503, "no commit has returned for 10 s")
            assert (await served.client.get("/health/live")).status_code == 200
            other.execute("ROLLBACK")
        assert (await adding)["num"] == 7
        await wait_until_ready_says(served, 200, "ok")
        assert served.exits == []


async def test_a_disk_that_does_not_answer_makes_it_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "STUCK_SECONDS", 0.2)
    async with service(tmp_path) as served, served.wire() as wire:
        async with held(served, monkeypatch) as gate:
            await wire.send(ADD)
            await gate.entered.wait()
            assert await reason(served, 200) == "ok"
            await wait_until_ready_says(served, 503, "no commit has returned for 10 s")
        assert (await wire.answer()).status == 200
        await wait_until_ready_says(served, 200, "ok")
