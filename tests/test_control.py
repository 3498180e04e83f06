"""Cancel, pause and resume, places and due times, waiting for a finish, retention: over HTTP."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from sanic_app.errors import StoreUnavailable
from sanic_app.http import parameters
from sanic_app.http.parameters import parse_wait
from sanic_app.queue.outlook import placed
from sanic_app.queue.view import SECOND_LOOKS
from sanic_app.store import Figures, Overview, Place
from sanic_app.task import HISTORY_NUM_MAX, Retention, State, Task
from tests.parts import until
from tests.serving import ON_UVLOOP, Service, held, problem, service

pytestmark = ON_UVLOOP

TASKS = "/api/v1/tasks"
QUEUE = "/api/v1/queue"


async def delete(served: Service, path: str) -> httpx.Response:
    return await served.client.delete(path)


async def post(served: Service, path: str) -> dict[str, Any]:
    answer = await served.client.post(path)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


# Cancelling.


async def test_a_cancelled_task_never_reaches_the_result_list(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await post(served, f"{QUEUE}/pause")
        await served.add(1, 0.05)
        await served.add(2, 60)
        await served.add(3)
        answer = await delete(served, f"{TASKS}/2")
        assert answer.status_code == 200
        task = answer.json()
        assert (task["history_num"], task["state"], task["date_started"]) == (2, "cancelled", None)
        assert task["date_finished"] is not None
        await post(served, f"{QUEUE}/resume")
        await served.until_empty()
        assert await served.result() == [1, 3]
        assert (await served.get(f"{TASKS}/2"))["state"] == "cancelled"
        assert served.metric("tasks_finished_total", outcome="cancelled") == 1
        assert served.metric("tasks_finished_total", outcome="done") == 2
        problem(await delete(served, f"{TASKS}/2"), "finished", 409)
        problem(await delete(served, f"{TASKS}/3"), "finished", 409)
        problem(await delete(served, f"{TASKS}/4"), "not-found", 404)
        problem(await delete(served, f"{TASKS}/x"), "not-found", 404)
        problem(await delete(served, f"{TASKS}/1?x=1"), "invalid", 400)


async def test_a_waiting_head_is_interrupted_and_the_next_starts(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 3_600)
        await served.add(2, 0.02)
        begun = time.monotonic()
        task = (await delete(served, f"{TASKS}/1")).json()
        assert (task["state"], task["date_started"]) == ("cancelled", task["date_created"])
        second = await served.get(f"{TASKS}/2?wait=10")
        assert second["date_started"] == task["date_finished"]
        assert time.monotonic() - begun < 5
        assert await served.result() == [2]


async def test_a_range_is_cancelled_with_the_head_in_it(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for num in range(6):
            await served.add(num, 3_600)
        answer = await delete(served, f"{TASKS}?from=4&to=5")
        assert (answer.status_code, answer.json()) == (200, {"count": 2})
        assert (await delete(served, f"{TASKS}?from=1&to={HISTORY_NUM_MAX}")).json() == {"count": 4}
        assert (await delete(served, f"{TASKS}?from=1&to=9")).json() == {"count": 0}
        assert (await served.get(QUEUE))["depth"] == 0
        assert await served.result() == []


async def test_a_long_range_goes_in_slices(tmp_path: Path) -> None:
    async with service(tmp_path, queue_max=10_000) as served:
        await served.add(0, 3_600)
        await served.parts.queue.add([(1, 0)] * 2_500)  # type: ignore[list-item] # as good
        assert (await delete(served, f"{TASKS}?from=2&to=2490")).json() == {"count": 2489}
        assert (await served.get(f"{TASKS}/2495"))["position"] == 5
        assert (await served.get(QUEUE))["head"]["history_num"] == 1


@pytest.mark.parametrize(
    "query",
    [
        *("", "?from=1", "?to=1", "?from=2&to=1", "?from=0&to=1", "?from=1&to=9223372036854775808"),
        *("?from=1&to=2&x=3", "?from=1&from=1&to=2", "?from=1&to=a", "?from=&to=", "?from=-1&to=1"),
    ],
)
async def test_a_bad_range_cancels_nothing(tmp_path: Path, query: str) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 3_600)
        document = problem(await delete(served, f"{TASKS}{query}"), "invalid", 400)
        assert document["applied"] is False
        assert document["errors"]
        assert (await served.get(QUEUE))["depth"] == 1


# Pausing.


async def test_in_a_pause_the_head_ends_and_nothing_starts_until_the_resume(
    tmp_path: Path,
) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 1)
        await served.add(2)
        for _ in range(2):
            state = await post(served, f"{QUEUE}/pause")
            assert state["paused"] is True
            assert served.metric("queue_paused") == 1
        assert (await served.get("/health/ready"))["reason"] == "paused"
        assert (await served.get(f"{TASKS}/1?wait=10"))["state"] == "done"
        state = await served.get(QUEUE)
        assert (state["depth"], state["head"]) == (1, None)
        await asyncio.sleep(0.05)
        assert await served.result() == [1]
    async with service(tmp_path) as served:
        assert served.metric("queue_paused") == 1
        assert (await served.get(f"{TASKS}/2"))["state"] == "queued"
        for _ in range(2):
            assert (await post(served, f"{QUEUE}/resume"))["paused"] is False
        assert (await served.get(f"{TASKS}/2?wait=10"))["state"] == "done"
        assert served.metric("queue_paused") == 0
        answer = await served.client.post(f"{QUEUE}/pause?x=1")
        problem(answer, "invalid", 400)


# Places and due times.


async def test_a_task_says_where_it_stands_and_when_it_is_due(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for timeout in (100, 20, 3):
            await served.add(0, timeout)
        await delete(served, f"{TASKS}/2")
        now = datetime.now().astimezone()
        third = await served.get(f"{TASKS}/3")
        assert third["position"] == 1
        assert 95 < third["seconds_until_due"] <= 103
        due = datetime.fromisoformat(third["date_due"])
        assert timedelta(seconds=95) < due - now < timedelta(seconds=104)
        head = await served.get(f"{TASKS}/1")
        assert head["position"] == 0
        assert 95 < head["seconds_until_due"] <= 100
        await post(served, f"{QUEUE}/pause")
        third, head = await served.get(f"{TASKS}/3"), await served.get(f"{TASKS}/1")
        assert (third["seconds_until_due"], third["date_due"]) == (None, None)
        assert third["position"] == 1
        assert head["date_due"] is not None
        await delete(served, f"{TASKS}/1")
        third = await served.get(f"{TASKS}/3")
        assert (third["position"], third["seconds_until_due"], third["state"]) == (
            0,
            None,
            "queued",
        )
        gone = await served.get(f"{TASKS}/1")
        assert [gone[name] for name in ("position", "seconds_until_due", "date_due")] == [None] * 3


async def test_no_date_lies_beyond_the_year_9999(tmp_path: Path) -> None:
    year = 31_536_000
    async with service(tmp_path, timeout_max_us=year * 10**6, queue_max=20_000) as served:
        await served.add(0, 1)
        await served.parts.queue.add([(1, year * 10**6)] * 9_000)  # type: ignore[list-item] # as good
        last = await served.get(f"{TASKS}/9001")
        assert last["date_due"] is None
        assert last["seconds_until_due"] == pytest.approx(9_000 * year, abs=2)


async def test_a_due_date_is_exact_and_never_too_early() -> None:
    task = Task(2, 5, 600_003, 0, State.QUEUED)
    figures = Figures(2, 0, 0, 1_000_003, 2, 1_000_003, 0, False, 1, 0, 0)
    place = Place(figures, 7, position=1, wait=1_000_003, first_timeout=400_000)
    for left, due in ((0.0, 600_010), (0.25, 850_010), (0.000_000_4, 600_011), (1e-9, 600_011)):
        assert placed(task, place, left).due_at == due


# Waiting for a finish.


async def test_a_wait_ends_with_the_finish_or_with_its_seconds(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        begun = time.monotonic()
        assert (await served.get(f"{TASKS}/1?wait=0.05"))["state"] == "waiting"
        assert 0.04 < time.monotonic() - begun < 5
        await delete(served, f"{TASKS}/1")
        begun = time.monotonic()
        await served.add(2, 0.3)
        assert (await served.get(f"{TASKS}/2?wait=60"))["state"] == "done"
        assert 0.3 <= time.monotonic() - begun < 5
        assert (await served.get(f"{TASKS}/2?wait=60"))["state"] == "done"
        problem(await served.client.get(f"{TASKS}/3?wait=60"), "not-found", 404)
        assert served.parts.queue.view._waiters._events == {}
        for bad in ("61", "-1", "x", "", "1_0", "nan", "1&wait=1", "60.000001", "1&x=1"):
            problem(await served.client.get(f"{TASKS}/1?wait={bad}"), "invalid", 400)


async def test_a_wait_is_answered_before_proxies_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [parse_wait([("wait", text)]) for text in ("54.5", "55.5", "60")] == [54.5, 55, 55]
    monkeypatch.setattr(parameters, "HOLD_MAX", 0.1)
    async with service(tmp_path) as served:
        await served.add(1, 600)
        begun = time.monotonic()
        assert (await served.get(f"{TASKS}/1?wait=60"))["state"] == "waiting"
        assert 0.09 < time.monotonic() - begun < 5


async def test_who_waits_hears_of_a_cancel_and_of_the_stop(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for _ in range(2):
            await served.add(1, 3_600)
        waits = [
            asyncio.create_task(served.get(f"{TASKS}/{number}?wait=60")) for number in (1, 2, 2, 2)
        ]
        await until(lambda: sum(map(len, served.parts.queue.view._waiters._events.values())) == 4)
        begun = time.monotonic()
        await delete(served, f"{TASKS}/1")
        assert (await waits[0])["state"] == "cancelled"
        await served.stop()
        assert {(await each)["state"] for each in waits[1:]} == {"waiting"}
        assert time.monotonic() - begun < 5


async def crowd(served: Service) -> list[asyncio.Task[Any]]:
    """Return three times as many who wait for a task as may look at it at once."""
    await served.add(1, 3_600)
    view, count = served.parts.queue.view, 3 * SECOND_LOOKS
    waits = [asyncio.create_task(view.task(1, 60)) for _ in range(count)]
    await until(lambda: sum(map(len, view._waiters._events.values())) == count)
    # Looks are answered in their order: now all have looked once, and wait.
    await served.get(f"{TASKS}/1")
    return waits


async def test_many_who_wait_for_a_task_do_not_look_at_it_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = most = 0
    async with service(tmp_path) as served:
        look = served.store.task

        async def counted(history_num: int) -> Any:
            nonlocal looking, most
            looking += 1
            most = max(most, looking)
            try:
                return await look(history_num)
            finally:
                looking -= 1

        waits = await crowd(served)
        monkeypatch.setattr(served.store, "task", counted)
        await delete(served, f"{TASKS}/1")
        assert {(await each).task.state for each in waits} == {State.CANCELLED}
        assert 0 < most <= SECOND_LOOKS


async def test_nobody_waits_behind_a_crowd_whose_looks_get_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def unanswered(_: int) -> Any:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.05)
        raise StoreUnavailable

    async with service(tmp_path) as served:
        waits = await crowd(served)
        monkeypatch.setattr(served.store, "task", unanswered)
        monkeypatch.setattr(type(served.store), "up", property(lambda _: False))
        await delete(served, f"{TASKS}/1")
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert looks == SECOND_LOOKS


async def test_nobody_begins_to_wait_during_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 3_600)
        async with held(served, monkeypatch) as gate:
            add = asyncio.create_task(served.add(2, 0))
            await gate.entered.wait()
            stop = asyncio.create_task(served.stop())
            await served.parts.stopping.wait()
            async with asyncio.timeout(2):
                assert (await served.get(f"{TASKS}/1?wait=60"))["state"] == "waiting"
            assert not stop.done()
        await add
        await stop


async def test_a_task_that_is_added_during_the_look_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        look = served.store.task

        async def task(history_num: int) -> tuple[Task, Place | None] | None:
            found = await look(history_num)
            monkeypatch.undo()
            await served.add(1, 600)
            return found

        monkeypatch.setattr(served.store, "task", task)
        # A store that others write to is asked again, and has it then.
        assert (await served.client.get(f"{TASKS}/1")).status_code in (200, 404)
        assert (await served.get(f"{TASKS}/1"))["num"] == 1


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_client_that_goes_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rudely: bool
) -> None:
    if not rudely:
        monkeypatch.setattr("sanic_app.http.connection.PROBE_SECONDS", 0.1)
        monkeypatch.setattr("sanic_app.http.connection.CHECK_SECONDS", 0.02)
    async with service(tmp_path) as served:
        await served.add(1, 3_600)
        async with served.wire() as wire:
            await wire.send(f"GET {TASKS}/1?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await until(lambda: served.parts.queue.view._waiters._events)
            if rudely:
                wire.reset()
        await until(lambda: not served.parts.queue.view._waiters._events)


async def test_a_wait_outlives_the_limits_of_slow_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUEST_SECONDS", "IDLE_SECONDS", "UNREAD_SECONDS"):
        monkeypatch.setattr(f"sanic_app.http.connection.{name}", 0.2)
    monkeypatch.setattr("sanic_app.http.connection.CHECK_SECONDS", 0.05)
    async with service(tmp_path) as served:
        await served.add(1, 1)
        assert (await served.get(f"{TASKS}/1?wait=10"))["state"] == "done"


# Retention.


async def test_what_retention_removed_is_gone(tmp_path: Path) -> None:
    async with service(tmp_path, history_keep=Retention(tasks=2)) as served:
        for num in range(5):
            await served.add(num)
        await served.until_empty()
        assert await served.result() == [3, 4]
        assert (await served.get(QUEUE))["pruned"] == 3
        for answer in (await served.client.get(f"{TASKS}/3"), await delete(served, f"{TASKS}/3")):
            problem(answer, "gone", 410)
        assert (await served.get(f"{TASKS}/4"))["state"] == "done"


async def test_an_idle_service_removes_what_has_its_age(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for num in range(3):
            await served.add(num)
        await served.until_empty()
    async with service(tmp_path, history_keep=Retention(age=500_000)) as served:
        await until(lambda: served.parts.queue.figures.pruned == 3)
        assert await served.result() == []
        await served.add(9)
        assert (await served.get(f"{TASKS}/4?wait=5"))["state"] == "done"
        await until(lambda: served.parts.queue.figures.pruned == 4)
        assert await served.result() == []


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_pause_whose_figures_cannot_be_read_does_not_claim_that_nothing_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    async with service(tmp_path) as served:
        if verb == "resume":
            await post(served, f"{QUEUE}/pause")
        with monkeypatch.context() as lost:

            async def overview() -> Overview:
                raise StoreUnavailable

            lost.setattr(served.store, "overview", overview)
            read = problem(await served.client.get(QUEUE), "store-unavailable", 503)
            assert read["detail"] == StoreUnavailable.text
            answer = await served.client.post(f"{QUEUE}/{verb}")
        refused = problem(answer, "store-unavailable", 503)
        assert refused["applied"] is None
        assert refused["detail"] == f"The queue is {verb}d, but its figures cannot be read now."
        assert (await served.get(QUEUE))["paused"] is (verb == "pause")


async def test_nothing_is_changed_once_the_service_stops(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 3_600)
        served.parts.queue.refuse_writes()
        for path in (f"{TASKS}/1", f"{TASKS}?from=1&to=1"):
            assert problem(await delete(served, path), "stopping", 503)["applied"] is False
        problem(await served.client.post(f"{QUEUE}/pause"), "stopping", 503)
