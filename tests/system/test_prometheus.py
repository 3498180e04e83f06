"""A real Prometheus on the shipped configuration, scraping a running service."""

from __future__ import annotations

import subprocess
import time
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.running import Running
from tests.scraping import get, prometheus

pytestmark = pytest.mark.system

SECONDS = 25


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
        prometheus(tmp_path, f"127.0.0.1:{running.port}", token="m") as address,
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
