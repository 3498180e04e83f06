"""The image, built and run by Docker as the first lines of `deploy/Dockerfile` say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine import Engine

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

URL = "http://127.0.0.1:8000"
RESTRICTED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--volume", "test-queue:/data", "--publish", "127.0.0.1:8000:8000"),
)


def until_healthy(engine: Engine, name: str) -> None:
    """Return when Docker calls the container healthy: it runs the health check of the image."""
    deadline = time.monotonic() + 30
    while engine.inspect(name)["State"]["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline, engine.log(name)
        time.sleep(0.1)


@contextmanager
def container(engine: Engine, image: str, name: str) -> Iterator[None]:
    token = ("--env", "SANIC_APP_API_TOKEN=of-this-test")
    engine.docker("run", "--detach", "--name", name, *RESTRICTED, *token, image)
    try:
        until_healthy(engine, name)
        yield
    finally:
        engine.docker("rm", "--force", name)


def test_a_restricted_container_keeps_its_queue_over_a_kill_and_stops_in_order(
    engine: Engine, image: str
) -> None:
    def sanic_app(name: str, *arguments: str) -> str:
        return engine.docker("exec", name, "sanic-app", *arguments)

    with container(engine, image, "first"):
        assert engine.get(f"{URL}/get_result", check=False) is None  # without the token
        sanic_app("first", "add", "5", "600")
        sanic_app("first", "copy", "/data/queue.db", "/data/backup.db")
        sanic_app("first", "check", "/data/backup.db")
        engine.crash("first")
        assert engine.docker("wait", "first") == "137"
        engine.docker("start", "first")
        until_healthy(engine, "first")
        assert '"num":5' in sanic_app("first", "task", "1", "--json").replace(" ", "")
        began = time.monotonic()
        engine.docker("stop", "first")
        assert time.monotonic() - began < 8
        assert engine.inspect("first")["State"]["ExitCode"] == 0
    # Another container, as after an upgrade of the image.
    with container(engine, image, "second"):
        assert '"depth":1' in sanic_app("second", "queue", "--json").replace(" ", "")
    engine.docker("volume", "rm", "test-queue")


def test_without_a_token_a_container_does_not_start(engine: Engine, image: str) -> None:
    engine.docker("run", "--name", "open", image, check=False)
    assert engine.inspect("open")["State"]["ExitCode"] == 2
    log = engine.log("open")
    assert len(log.splitlines()) == 1
    assert "API_TOKEN" in log
    engine.docker("rm", "--volumes", "open")
