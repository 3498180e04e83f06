"""Every query of the shipped dashboard, answered by a Prometheus that scraped real services."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests import postgres
from tests.running import Running
from tests.scraping import get, prometheus

pytestmark = pytest.mark.system

PATH = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "sanic-app.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
QUERIES = [
    (f"{panel['title']}: {target['legendFormat']}", target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
SECONDS = 30
UNKNOWN = {
    # Nobody waits for other nodes, so there is nothing to take a quantile of.
    "sqlite": {f"Wait for the lock: {part}" for part in ("median", "90 %", "99 %")},
    # A client does not see the server's disk.
    "postgres": {"Free disk: free"},
}
"""Queries whose answer is not a number."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def scraped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield the address of a Prometheus that has seen one service at work, or two nodes."""
    folder = tmp_path_factory.mktemp(request.param)
    nodes = [["--database", "queue.db"]]
    environ = {}
    if request.param == "postgres":
        nodes = [["--database", postgres.shared().url()]] * 2
        environ = {"SANIC_APP_DATABASE_SCHEMA": postgres.fresh_name()}
    with ExitStack() as stack:
        running = [stack.enter_context(Running(folder, *flags, environ=environ)) for flags in nodes]
        targets = [f"127.0.0.1:{one.port}" for one in running]
        address = stack.enter_context(prometheus(folder, *targets))
        deadline = time.monotonic() + SECONDS
        while len(series(address, 'up{job="sanic-app"} == 1')) < len(nodes):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # Rates need work between scrapes.
        for num in range(30):
            running[num % len(running)].add(num, 0.01)
            running[0].request("POST", "/add_task", {})
            time.sleep(0.05)
        running[0].add(30, 600)
        running[0].add(31, 600)
        time.sleep(1.5)
        yield address


def series(address: str, query: str) -> list[float]:
    """Return the values that Prometheus has for a query now."""
    query = query.replace("$__rate_interval", "30s").replace("$job", "sanic-app")
    try:
        answer = get(f"{address}/api/v1/query?{urlencode({'query': query})}")
    except OSError:
        return []
    assert answer["status"] == "success"
    return [float(one["value"][1]) for one in answer["data"]["result"]]


@pytest.mark.parametrize(("what", "query"), QUERIES, ids=[what for what, _ in QUERIES])
def test_the_query_gets_data(
    scraped: str, request: pytest.FixtureRequest, what: str, query: str
) -> None:
    values = series(scraped, query)
    engine = request.node.callspec.params["scraped"]
    assert values
    assert [math.isnan(value) for value in values] == [what in UNKNOWN[engine]] * len(values)


def test_the_figures_are_those_of_the_queue_on_any_number_of_nodes(scraped: str) -> None:
    by_title = {panel["title"]: panel for panel in DASHBOARD["panels"]}

    def value(title: str) -> float:
        (only,) = series(scraped, by_title[title]["targets"][0]["expr"])
        return only

    assert value("Depth") == 2
    assert 1_150 < value("Backlog") < 1_200
    assert value("Paused") == 0
    assert value("Nodes that answer") == len(series(scraped, "up"))
    added = series(scraped, 'sum (sanic_app_tasks_added_total{job="$job"})')
    assert added == [32]


def test_the_dashboard_chooses_among_the_queues_that_prometheus_knows(scraped: str) -> None:
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "job"]
    assert variable["query"]["query"] == "label_values(sanic_app_build_info, job)"
    found = get(
        f"{scraped}/api/v1/label/job/values?{urlencode({'match[]': 'sanic_app_build_info'})}"
    )
    assert found["data"] == ["sanic-app"]
