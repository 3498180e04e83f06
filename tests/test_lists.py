"""The two whole lists, in slices so small that a few tasks take several."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from sanic_app.store import Slice, reads
from tests.serving import ON_UVLOOP, Service, Wire, request, service

pytestmark = ON_UVLOOP

LISTS = {"/get_queue_work": "queue_slice", "/get_result": "results_slice"}


@pytest.fixture(autouse=True)
def slices_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "SLICE_ROWS", 3)


class Reading:
    """Lets a list be read slice by slice: each one that is asked for waits to be let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, served: Service, path: str) -> None:
        self._read: Callable[[int, int], Awaitable[Slice]]
        self._read = getattr(served.store, LISTS[path])
        self.asked = asyncio.Semaphore(0)
        self.let = asyncio.Semaphore(0)
        self.slices: list[Slice] = []
        monkeypatch.setattr(served.store, LISTS[path], self._slice)

    async def _slice(self, after: int, until: int) -> Slice:
        self.asked.release()
        await self.let.acquire()
        part = await self._read(after, until)
        self.slices.append(part)
        return part

    async def pass_one(self) -> None:
        """Let the next slice through, once it is asked for."""
        await self.asked.acquire()
        self.let.release()

    def pass_all(self) -> None:
        for _ in range(100):
            self.let.release()


async def add(served: Service, count: int, wait: float) -> None:
    for _ in range(count):
        await served.add(served.parts.queue.figures.last_history_num + 1, wait)


def numbers(path: str, answer: httpx.Response | bytes) -> list[int]:
    """Return the list's numbers; the tests' tasks have their history number as num."""
    document = json.loads(answer) if isinstance(answer, bytes) else answer.json()
    if path == "/get_result":
        assert list(document) == ["result"]
        result: list[int] = document["result"]
        return result
    assert list(document) == ["tasks"]
    assert all(task["num"] == task["history_num"] for task in document["tasks"])
    return [task["history_num"] for task in document["tasks"]]


async def test_a_list_is_whole_and_in_order_however_it_is_cut(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for count in range(8):
            answer = await served.client.get("/get_result")
            assert numbers("/get_result", answer) == list(range(1, count + 1))
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-request-id"]
            await add(served, 1, 0)
            await served.until_empty()
        for count in range(8):
            answer = await served.client.get("/get_queue_work")
            assert numbers("/get_queue_work", answer) == list(range(9, 9 + count))
            assert answer.headers["content-type"] == "application/json"
            await add(served, 1, 600)


async def test_a_list_of_many_slices_comes_in_one_slice_s_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await add(served, 10, 600)
        reading = Reading(monkeypatch, served, "/get_queue_work")
        reading.pass_all()
        answer = await served.client.get("/get_queue_work")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert [part.last for part in reading.slices] == [3, 6, 9, None]


@pytest.mark.parametrize("path", LISTS)
async def test_nothing_is_in_a_list_that_came_after_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async with service(tmp_path) as served:
        await add(served, 7, 0 if path == "/get_result" else 600)
        if path == "/get_result":
            await served.until_empty()
        reading = Reading(monkeypatch, served, path)
        asking = asyncio.create_task(served.client.get(path))
        for _ in range(3):
            await reading.pass_one()
            await add(served, 3, 0)
            if path == "/get_result":
                await served.until_empty()
        assert numbers(path, await asking) == [1, 2, 3, 4, 5, 6, 7]
        # The next one has it all.
        reading.pass_all()
        assert numbers(path, await served.client.get(path)) == list(range(1, 17))


async def test_what_finishes_meanwhile_is_at_most_missing_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await add(served, 1, 1)
        await add(served, 4, 0)
        await add(served, 5, 600)
        reading = Reading(monkeypatch, served, "/get_queue_work")
        asking = asyncio.create_task(served.client.get("/get_queue_work"))
        await reading.pass_one()
        while await served.result() != [1, 2, 3, 4, 5]:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)
        reading.pass_all()
        assert numbers("/get_queue_work", await asking) == [1, 2, 3, 6, 7, 8, 9, 10]


async def test_a_list_under_way_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await add(served, 7, 600)
        reading = Reading(monkeypatch, served, "/get_queue_work")
        asking = asyncio.create_task(served.client.get("/get_queue_work"))
        await reading.pass_one()
        await reading.asked.acquire()
        await add(served, 1, 600)
        assert (await served.get("/api/v1/queue"))["depth"] == 8
        assert len((await served.get("/api/v1/tasks"))["tasks"]) == 8
        assert await served.result() == []
        reading.pass_all()
        assert len(numbers("/get_queue_work", await asking)) == 7


async def cut(wire: Wire) -> bytes:
    """Return what comes of a list, which must not look as if it were whole."""
    rest = await wire.ended()
    assert not rest.endswith(b"0\r\n\r\n")
    assert b"]}" not in rest
    return rest


@pytest.mark.parametrize("path", LISTS)
async def test_a_stop_cuts_a_list_without_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await add(served, 9, 0 if path == "/get_result" else 600)
        if path == "/get_result":
            await served.until_empty()
        reading = Reading(monkeypatch, served, path)
        await wire.send(request(path, method="GET"))
        await reading.pass_one()
        await wire.head()
        # It is sent before the next slice is asked for.
        await reading.asked.acquire()
        served.parts.stopping.set()
        reading.pass_all()
        await cut(wire)
        assert len(reading.slices) == 2


async def test_a_failure_cuts_a_list_without_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await add(served, 7, 600)
        read = served.store.queue_slice

        async def fail(after: int, until: int) -> Slice:
            if after:
                raise RuntimeError("on purpose")
            return await read(after, until)

        monkeypatch.setattr(served.store, "queue_slice", fail)
        await wire.send(request("/get_queue_work", method="GET"))
        assert (await wire.head())[0] == 200
        assert b"on purpose" not in await cut(wire)
        # Whoever is cut before anything was sent gets a problem instead.
        assert (await served.client.get("/api/v1/queue")).status_code == 200
    assert "on purpose" in caplog.text


async def test_a_client_may_leave_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        await add(served, 30, 600)
        reading = Reading(monkeypatch, served, "/get_queue_work")
        async with served.wire() as wire:
            await wire.send(request("/get_queue_work", method="GET"))
            await reading.pass_one()
            await wire.head()
        while served.metric("http_requests_in_flight"):
            # It shows when something is sent to it.
            reading.let.release()
            await asyncio.sleep(0.01)
        assert len(reading.slices) < 10
        reading.pass_all()
        assert len(numbers("/get_queue_work", await served.client.get("/get_queue_work"))) == 30
