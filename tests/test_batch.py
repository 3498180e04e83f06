"""Batches over HTTP: all or none, one behind the other, and faults that name the element."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from sanic_app.http import bodies
from sanic_app.http.blueprints import adding
from tests.serving import JSON, ON_UVLOOP, Service, problem, service

pytestmark = ON_UVLOOP

BATCH = "/api/v1/tasks/batch"


async def post(served: Service, body: object, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await served.client.post(BATCH, content=content, headers={**JSON, **named})


def tasks(*timeouts: float, num: int = 0) -> dict[str, Any]:
    return {"tasks": [{"num": num + i, "timeout": each} for i, each in enumerate(timeouts)]}


async def test_a_batch_stands_in_the_queue_as_it_was_sent(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        first = await served.add(7, 0.05)
        answer = await post(served, tasks(0.01, 0, 0, num=2**63 - 3))
        assert answer.status_code == 201
        added = answer.json()
        assert list(added) == ["first", "last", "count", "date_created"]
        assert (added["first"], added["last"], added["count"]) == (2, 4, 3)
        assert added["date_created"] >= first["date_created"]
        assert (await served.get("/api/v1/tasks/4"))["date_created"] == added["date_created"]
        await served.until_empty()
        assert await served.result() == [7, 2**63 - 3, 2**63 - 2, 2**63 - 1]
        assert served.metric("tasks_added_total") == 4


async def test_batches_and_single_adds_do_not_mix(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(0, 3_600)
        batches = [post(served, tasks(*[0] * 50, num=100 * n)) for n in range(1, 6)]
        singles = [served.add(-n, 0) for n in range(1, 20)]
        answers, _ = await asyncio.gather(asyncio.gather(*batches), asyncio.gather(*singles))
        nums = [task["num"] for task in (await served.get("/get_queue_work"))["tasks"]]
        for n, answer in enumerate(answers, 1):
            first = answer.json()["first"]
            assert nums[first - 1 : first + 49] == list(range(100 * n, 100 * n + 50))


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/tasks"]),
        ({"tasks": []}, ["/tasks"]),
        ({"tasks": {}}, ["/tasks"]),
        ({"tasks": None}, ["/tasks"]),
        ([], [""]),
        (b"", [""]),
        (tasks(*[0] * 31), ["/tasks"]),
        ({**tasks(0), "x": 1}, ["/x"]),
        ({"tasks": [{"num": 1, "timeout": 0}, 5]}, ["/tasks/1"]),
        ({"tasks": [{"num": 1, "timeout": 0}, {"num": 1.0, "timeout": 0}]}, ["/tasks/1/num"]),
        ({"tasks": [{"num": True, "timeout": -1}]}, ["/tasks/0/num", "/tasks/0/timeout"]),
        ({"tasks": [{"num": 1}, {"timeout": 1}]}, ["/tasks/0/timeout", "/tasks/1/num"]),
        ({"tasks": [{"num": 1, "timeout": 0, "y": 2}]}, ["/tasks/0/y"]),
        (b'{"tasks": [{"num": 1, "num": 1, "timeout": 0}]}', ["/tasks/0/num"]),
        (b'{"tasks": [{"num": 1, "timeout": 0}], "tasks": []}', ["/tasks"]),
        (
            {"tasks": [{"num": "1"}] * 30},
            [f"/tasks/{n}/{name}" for n in range(10) for name in ("num", "timeout")],
        ),
    ],
)  # fmt: skip
async def test_a_fault_names_its_element_and_nothing_is_added(
    tmp_path: Path, body: object, pointers: list[str]
) -> None:
    async with service(tmp_path, batch_max=30) as served:
        document = problem(await post(served, body), "invalid", 400)
        assert [fault["pointer"] for fault in document["errors"]] == pointers
        assert document["applied"] is False
        assert served.parts.queue.figures.last_history_num == 0
        assert served.metric("adds_refused_total", reason="invalid") == 1


async def test_a_batch_that_does_not_fit_is_refused_whole(tmp_path: Path) -> None:
    async with service(tmp_path, queue_max=10) as served:
        assert (await post(served, tasks(*[3_600] * 6))).status_code == 201
        problem(await post(served, tasks(*[0] * 5)), "queue-full", 503)
        problem(await post(served, tasks(*[0] * 5), Idempotency_Key="k"), "queue-full", 503)
        assert (await post(served, tasks(*[0] * 4))).json()["last"] == 10


async def test_a_batch_that_can_never_fit_is_a_fault(tmp_path: Path) -> None:
    async with service(tmp_path, queue_max=2, timeout_max_us=60_000_000) as served:
        refused = await post(served, tasks(1, 1, 1))
        assert problem(refused, "invalid", 400)["errors"][0]["pointer"] == "/tasks"
        assert "retry-after" not in refused.headers
        assert (await post(served, tasks(1, 1))).status_code == 201


async def test_the_service_answers_others_while_it_parses_a_large_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, parsing, go_on = bodies.parse_new_tasks, threading.Event(), threading.Event()

    def slowly(*given: Any) -> Any:
        parsing.set()
        assert go_on.wait(20)
        return parse(*given)

    monkeypatch.setattr(adding, "parse_new_tasks", slowly)
    async with service(tmp_path) as served:
        asking = asyncio.create_task(post(served, tasks(*[60] * 8_000)))
        while not parsing.is_set():  # noqa: ASYNC110 - it is set by a thread
            await asyncio.sleep(0.001)
        await served.add(1, 60)
        go_on.set()
        answer = await asking
        assert (answer.status_code, answer.json()["first"]) == (201, 2)


async def test_the_body_of_a_batch_has_a_limit_of_its_own(tmp_path: Path) -> None:
    async with service(tmp_path, batch_max=20, body_max=100) as served:
        whole = json.dumps(tasks(*[1] * 20)).encode()
        fits = whole + b" " * (20 * 128 - len(whole))
        assert (await post(served, fits)).status_code == 201
        problem(await post(served, fits + b" "), "too-large", 413)
        # The next request on the connection has the other limit again.
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            assert (await client.post(BATCH, content=fits, headers=JSON)).status_code == 201
            single = b'{"num": 1, "timeout": 0}' + b" " * 100
            problem(
                await client.post("/api/v1/tasks", content=single, headers=JSON), "too-large", 413
            )
        assert served.parts.queue.figures.last_history_num == 40


async def test_a_key_makes_the_retry_of_a_batch_safe(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        first = await post(served, tasks(3_600, 1.5), Idempotency_Key="k")
        again = await post(
            served,
            b' {"tasks":[{"timeout":3600.0,"num":0},{"num":1,"timeout":1.50}]}',
            Idempotency_Key="k",
        )
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        problem(await post(served, tasks(3_600), Idempotency_Key="k"), "key-reused", 422)
        single = await served.client.post(
            "/add_task",
            content=b'{"num": 0, "timeout": 1}',
            headers={**JSON, "Idempotency-Key": "k"},
        )
        problem(single, "key-reused", 422)
        assert served.parts.queue.figures.last_history_num == 2


async def test_a_batch_is_asked_for_like_an_add(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        answer = await served.client.get(BATCH)
        problem(answer, "method-not-allowed", 405)
        assert answer.headers["allow"] == "OPTIONS, POST"
        problem(
            await served.client.post(f"{BATCH}?x=1", content=b"{}", headers=JSON), "invalid", 400
        )
        plain = await served.client.post(
            BATCH, content=b"{}", headers={"Content-Type": "text/plain"}
        )
        problem(plain, "media-type", 415)
        served.parts.queue.refuse_writes()
        problem(await post(served, tasks(0)), "stopping", 503)
