"""The shipped samples of nginx and haproxy, really run in front of two nodes on PostgreSQL."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests import postgres
from tests.browser import tab
from tests.running import Running

pytestmark = pytest.mark.system

SAMPLES = Path(__file__).parents[2] / "deploy" / "proxy"
TOKEN = "of-this-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MORE_THAN_A_CHECK = 3.0
"""Seconds in which each proxy notices that a node has gone, or is back."""


@dataclass
class Sample:
    """One of the samples: how it listens, how it is run, and the path that it serves."""

    file: str
    listens: str
    command: tuple[str, ...]
    base_path: str
    follows_readiness: bool


NGINX = Sample(
    "nginx.conf",
    "listen 80;",
    ("/usr/sbin/nginx", "-e", "stderr", "-g", "daemon off; pid nginx.pid;", "-p", ".", "-c"),
    "/queue",
    follows_readiness=False,
)
HAPROXY = Sample("haproxy.cfg", "bind :8000", ("/usr/sbin/haproxy", "-db", "-f"), "", True)


def listening_on(sample: Sample, port: int, nodes: list[Running]) -> str:
    """Return the sample's text with this address, and with the addresses of these nodes."""
    text = (SAMPLES / sample.file).read_text(encoding="utf-8")
    changes = {sample.listens: sample.listens.split()[0] + f" 127.0.0.1:{port}"}
    changes[sample.listens] += ";" * sample.listens.endswith(";")
    for number, node in enumerate(nodes, 1):
        changes[f"node-{number}:8000"] = f"127.0.0.1:{node.port}"
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@contextmanager
def proxy(sample: Sample, folder: Path, nodes: list[Running]) -> Iterator[str]:
    """Run the proxy in front of the nodes; yield the address under which it serves them."""
    port = postgres.free_port()
    (folder / sample.file).write_text(listening_on(sample, port, nodes), encoding="utf-8")
    address = f"http://127.0.0.1:{port}{sample.base_path}"
    with (folder / "proxy.log").open("w+") as log:
        process = subprocess.Popen(
            [*sample.command, str(folder / sample.file)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: status(f"{address}/health/ready") == 200, 20)
            assert process.poll() is None
            yield address
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def status(url: str) -> int:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code
    except httpx.TransportError:
        return 0


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Site:
    """Two nodes behind a proxy, and a client of the proxy."""

    sample: Sample
    address: str
    nodes: list[Running]
    client: httpx.Client

    def add(self, num: int, timeout: float = 0) -> dict[str, Any]:
        answer = self.client.post("/api/v1/tasks", json={"num": num, "timeout": timeout})
        assert answer.status_code == 201, answer.text
        task: dict[str, Any] = answer.json()
        return task


@pytest.fixture(params=[NGINX, HAPROXY], ids=["nginx", "haproxy"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    sample: Sample = request.param
    environ = {
        "SANIC_APP_DATABASE_SCHEMA": postgres.fresh_name(),
        "SANIC_APP_BASE_PATH": sample.base_path,
        "SANIC_APP_API_TOKEN": TOKEN,
    }
    if not sample.base_path:
        del environ["SANIC_APP_BASE_PATH"]
    database = postgres.shared().url()
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(Running(tmp_path, "--database", database, environ=environ))
            for _ in range(2)
        ]
        address = stack.enter_context(proxy(sample, tmp_path, nodes))
        client = stack.enter_context(
            httpx.Client(base_url=address, headers=BEARER, trust_env=False, timeout=70)
        )
        yield Site(sample, address, nodes, client)


def test_the_whole_service_is_there_under_its_path(site: Site) -> None:
    base = site.sample.base_path
    answer = site.client.post("/api/v1/tasks", json={"num": 5, "timeout": 0})
    assert answer.headers["location"] == f"{base}/api/v1/tasks/1"
    document = site.client.get("/api/docs/openapi.json").json()
    assert document["servers"][0]["url"] == (base or "/")
    assert httpx.get(f"{site.address}/api/v1/queue", trust_env=False).status_code == 401
    if base:
        moved = httpx.get(site.address, trust_env=False)
        assert (moved.status_code, moved.headers["location"].removesuffix("/")) == (
            308,
            site.address,
        )


def test_the_host_that_a_browser_names_reaches_the_service_with_its_port(site: Site) -> None:
    """Or it would take the page's own requests for those of another site."""
    origin = site.address.removesuffix(site.sample.base_path)
    task = {"num": 5, "timeout": 0}
    own = site.client.post("/api/v1/tasks", json=task, headers={"Origin": origin})
    assert own.status_code == 201, own.text
    other = site.client.post("/api/v1/tasks", json=task, headers={"Origin": "http://127.0.0.1"})
    assert other.status_code == 403


def test_the_page_adds_and_shows_a_task_at_once(site: Site) -> None:
    with tab(site.address) as one:
        page = one.page
        page.goto(f"{site.address}/")
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#depth")).not_to_have_text("…")
        page.get_by_label("Number", exact=True).fill("7")
        page.get_by_label("Timeout in seconds").fill("0.2")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#results tr")).to_have_count(1)
        assert one.elsewhere == []


def test_events_arrive_at_once(site: Site) -> None:
    """A proxy that collects what a stream sends would keep them for seconds."""
    arrived: list[float] = []
    listening = threading.Event()

    def listen() -> None:
        with site.client.stream("GET", "/api/v1/events") as stream:
            for line in stream.iter_lines():
                listening.set()
                if line.startswith("data: ") and '"num":1,' in line:
                    arrived.append(time.monotonic())
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    assert listening.wait(15)
    site.add(1, 60)
    answered = time.monotonic()
    listener.join(15)
    assert arrived
    assert arrived[0] - answered < 1


def test_a_long_poll_is_answered_when_its_task_is_done(site: Site) -> None:
    task = site.add(1, 2.5)
    began = time.monotonic()
    answer = site.client.get(f"/api/v1/tasks/{task['history_num']}", params={"wait": 30})
    assert (answer.status_code, answer.json()["state"]) == (200, "done")
    assert 2 < time.monotonic() - began < 10


def test_a_batch_of_ten_thousand_tasks_passes(site: Site) -> None:
    tasks = [{"num": -(2**63) + index, "timeout": 86399.123456} for index in range(10_000)]
    content = json.dumps({"tasks": tasks}, indent=6)
    # nginx takes 1 MiB unless it is told otherwise.
    assert 2**20 < len(content) < 128 * 10_000
    answer = site.client.post(
        "/api/v1/tasks/batch", content=content, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["count"]) == (201, 10_000)


def test_when_a_node_is_killed_the_other_one_answers(site: Site) -> None:
    site.add(1)
    site.nodes[0].kill()
    time.sleep(MORE_THAN_A_CHECK)
    numbers = [site.add(num)["history_num"] for num in range(2, 12)]
    assert numbers == list(range(2, 12))
    until(lambda: len(site.client.get("/get_result").json()["result"]) == 11, 10)


def test_a_node_that_refuses_connections_costs_no_request(site: Site) -> None:
    """Not even those of the moment in which nobody has noticed it yet."""
    for num in range(1, 5):
        site.add(num)
    site.nodes[0].stop()
    for num in range(5, 25):
        site.add(num)


def test_a_node_that_is_not_ready_gets_no_requests(tmp_path: Path) -> None:
    """haproxy alone: nginx does not ask."""
    environ = {"SANIC_APP_DATABASE_SCHEMA": postgres.fresh_name(), "SANIC_APP_STOP_DELAY": "8"}
    flags = ("--database", postgres.shared().url())
    with (
        Running(tmp_path, *flags, environ=environ) as leaving,
        Running(tmp_path, *flags, environ=environ) as staying,
        proxy(HAPROXY, tmp_path, [leaving, staying]) as address,
    ):
        leaving.signal(signal.SIGTERM)
        time.sleep(MORE_THAN_A_CHECK)
        assert status(f"{leaving.url}/health/ready") == 503
        assert {status(f"{address}/health/ready") for _ in range(20)} == {200}
