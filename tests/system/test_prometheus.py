"""A real Prometheus on the shipped configuration, scraping a running service."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.running import Running

pytestmark = pytest.mark.system

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
SECONDS = 25


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.loads(answer.read())


@contextmanager
def prometheus(folder: Path, target: str, token: str | None = None) -> Iterator[str]:
    """Run Prometheus on a copy of what is shipped, its one target replaced; give its address."""
    configuration = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    configuration["global"] |= {"scrape_interval": "500ms", "scrape_timeout": "400ms"}
    if token is not None:
        (folder / "token").write_text(token)
        job["authorization"] = {"credentials_file": "token"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    (folder / "alerts.yml").write_bytes((SHIPPED / "alerts.yml").read_bytes())
    port = free_port()
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def scraped(address: str, query: str, expected: str) -> dict[str, str]:
    """Return the labels of the one series that has the expected value, once it has."""
    deadline = time.monotonic() + SECONDS
    result: Any = None
    while time.monotonic() < deadline:
        try:
            answer = get(f"{address}/api/v1/query?{urlencode({'query': query})}")
        except (urllib.error.URLError, ConnectionError):
            answer = {"data": {"result": []}}
        result = answer["data"]["result"]
        if [series["value"][1] for series in result] == [expected]:
            labels: dict[str, str] = result[0]["metric"]
            return labels
        time.sleep(0.1)
    raise AssertionError(f"{query} is not {expected} but {result}")


def test_a_real_prometheus_scrapes_the_service(tmp_path: Path) -> None:
    with (
        Running(tmp_path) as running,
        prometheus(tmp_path, f"127.0.0.1:{running.port}") as address,
    ):
        running.add(1, 0)
        running.wait_for_result([1])
        for num in (2, 3, 4):
            running.add(num, 600)
        assert scraped(address, "up", "1")["job"] == "sanic-app"
        scraped(address, "sanic_app_queue_depth", "3")
        scraped(address, "sanic_app_task_latency_seconds_count", "1")
        scraped(address, 'sanic_app_tasks_finished_total{outcome="done"}', "1")
        scraped(address, "sanic_app_worker_up", "1")
        (target,) = get(f"{address}/api/v1/targets")["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        (group,) = get(f"{address}/api/v1/rules")["data"]["groups"]
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
        running.kill()
        scraped(address, "up", "0")


def test_a_real_prometheus_scrapes_with_the_metrics_token(tmp_path: Path) -> None:
    environ = {"SANIC_APP_API_TOKEN": "a", "SANIC_APP_METRICS_TOKEN": "m"}
    with (
        Running(tmp_path, environ=environ) as running,
        prometheus(tmp_path, f"127.0.0.1:{running.port}", "m") as address,
    ):
        scraped(address, "up", "1")
        scraped(address, "sanic_app_queue_depth", "0")


def test_promtool_has_nothing_to_say_about_the_metrics(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        running.add(1, 0)
        running.wait_for_result([1])
        running.request("GET", "/nothing")
        running.request("POST", "/add_task", {})
        text = running.request("GET", "/metrics")[1]
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        check=False,
        input=text,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
