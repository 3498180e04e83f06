"""Sanic's own test client: each request is answered by a whole start and stop of its own.

What one request sees of another went through the database, as over a restart in order.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from sanic import Sanic
from sanic_testing.testing import SanicTestClient  # type: ignore[import-untyped]

from sanic_app.app import create_app
from sanic_app.http.connection import Connection
from sanic_app.lifecycle import Service
from sanic_app.settings import Settings
from tests.running import Running
from tests.serving import problem


class Lives:
    """The service on one database, started and stopped for each request."""

    def __init__(self, folder: Path) -> None:
        self._settings = Settings(database=folder / "queue.db")

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Return the answer to one request, once the life that gave it is over."""
        app = create_app(self._settings)
        service: Service = app.ctx.service

        async def start(*_: object) -> None:
            await service.start()

        async def stop(*_: object) -> None:
            await service.finish_writing()
            await service.queue.close()

        app.before_server_start(start)
        app.before_server_stop(stop)
        # It says of which kind a server is that is made elsewhere; here the framework makes one.
        app.state.server_info.clear()
        # The test client's own listener takes an argument that the framework has given up.
        app.config.DEPRECATION_FILTER = "ignore"
        try:
            _, answer = SanicTestClient(app)._sanic_endpoint_test(
                method,
                path,
                gather_request=False,
                server_kwargs={"protocol": Connection},
                session_kwargs={"trust_env": False},
                **arguments,
            )
        finally:
            Sanic.unregister_app(app)
        assert isinstance(answer, httpx.Response)
        # The test client gives it a ``json`` that is no method.
        answer.__class__ = httpx.Response
        return answer

    def get(self, path: str) -> Any:
        """Return the JSON of a 200."""
        answer = self.ask("get", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def add(self, num: int, timeout: float, **headers: str) -> Any:
        body = {"num": num, "timeout": timeout}
        answer = self.ask("post", "/add_task", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    # The framework puts its own loop in the place of every test's.
    policy = asyncio.get_event_loop_policy()
    yield Lives(tmp_path)
    asyncio.set_event_loop_policy(policy)


def test_the_queue_goes_on_from_one_life_to_the_next(lives: Lives) -> None:
    assert lives.get("/get_queue_work") == {"tasks": []}
    tasks = [lives.add(5, 600), lives.add(-7, 1.5), lives.add(9, 0)]
    assert [task["history_num"] for task in tasks] == [1, 2, 3]
    dates = [task["date_created"] for task in tasks]
    assert dates == sorted(dates)
    fields = ("history_num", "date_created", "num", "timeout")
    listed = lives.get("/get_queue_work")["tasks"]
    assert listed == [{name: task[name] for name in fields} for task in tasks]
    # The wait of the head began in the life that added it, and in no later one again.
    assert lives.get("/api/v1/queue")["head"] == tasks[0]
    assert lives.get("/get_result") == {"result": []}


def test_a_wait_that_ends_between_two_lives_is_over_in_the_next(lives: Lives) -> None:
    task = lives.add(4711, 0.001)
    done = lives.get("/api/v1/tasks/1?wait=10")
    assert (done["state"], done["date_started"]) == ("done", task["date_created"])
    assert lives.get("/get_result") == {"result": [4711]}
    assert lives.get("/get_queue_work") == {"tasks": []}


def test_a_key_is_known_in_the_next_life(lives: Lives) -> None:
    first = lives.add(1, 60, **{"Idempotency-Key": "k"})
    assert lives.add(1, 60, **{"Idempotency-Key": "k"}) == first
    headers = {"Idempotency-Key": "k"}
    other = lives.ask("post", "/add_task", json={"num": 2, "timeout": 60}, headers=headers)
    problem(other, "key-reused", 422)
    assert lives.get("/api/v1/queue")["depth"] == 1


def test_a_pause_lasts_until_it_is_ended(lives: Lives) -> None:
    assert lives.ask("post", "/api/v1/queue/pause").status_code == 200
    assert lives.add(1, 0)["state"] == "queued"
    assert lives.get("/health/ready")["reason"] == "paused"
    assert lives.ask("post", "/api/v1/queue/resume").status_code == 200
    assert lives.get("/api/v1/tasks/1?wait=10")["state"] == "done"


def test_each_life_is_whole(lives: Lives) -> None:
    assert lives.ask("get", "/health/live").status_code == 200
    assert lives.get("/health/ready") == {"status": "ready", "reason": "ok"}
    document = lives.get("/api/docs/openapi.json")
    validate(document)
    assert {"/add_task", "/get_queue_work", "/get_result"} <= document["paths"].keys()
    metrics = lives.ask("get", "/metrics").text
    assert "sanic_app_worker_up 1.0\n" in metrics


@pytest.mark.parametrize(
    ("method", "path", "slug", "status"),
    [
        ("get", "/nothing", "not-found", 404),
        ("get", "/api/v1/tasks/1", "not-found", 404),
        ("get", "/api/v1/tasks?limit=0", "invalid", 400),
        ("post", "/add_task", "invalid", 400),
    ],
)
def test_a_problem_is_a_document_in_each_life(
    lives: Lives, method: str, path: str, slug: str, status: int
) -> None:
    problem(lives.ask(method, path), slug, status)


def test_a_limit_of_a_file_s_size_is_a_full_disk_for_as_long_as_it_is_there(
    tmp_path: Path,
) -> None:
    """So is a used-up quota; both are an I/O error for SQLite."""
    with Running(tmp_path) as service:
        service.add(1)
        service.wait_for_result([1])
        size = max(file.stat().st_size for file in tmp_path.glob("queue.db*"))
        _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size, hard))
        body = {"tasks": [{"num": 2, "timeout": 0}] * 5_000}
        for _ in range(2):
            status, problem = service.request("POST", "/api/v1/tasks/batch", body)
            assert (status, problem["applied"]) == (507, False)
        assert service.result() == [1]
        assert service.request("GET", "/health/ready")[1]["reason"] == "the disk is full"
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert service.request("POST", "/api/v1/tasks/batch", body)[0] == 201
        assert service.stop() == 0
