"""Both Compose files, brought up by Debian's docker-compose in a Docker of the tests' own.

The image of the service is the real one. Those of other projects are stand-ins with their names:
they run Debian's programs, which may be older. Grafana is left out, as Debian has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine import PROGRAMS, ROOT, Engine

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

DEPLOY = ROOT / "deploy"
NOBODY = 65534
PROJECT = "test"
POSTGRES = """#!/bin/sh
# What the image of PostgreSQL does with the variables that the Compose file sets.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
cd /var/lib/postgresql/data
if [ ! -s PG_VERSION ]; then
  initdb -D . -U "$POSTGRES_USER" -A scram-sha-256 --pwfile="$POSTGRES_PASSWORD_FILE" \\
    $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> pg_hba.conf
  pg_ctl -D . -w -o "-c listen_addresses=''" start
  PGPASSFILE=/tmp/pgpass
  export PGPASSFILE
  echo "*:*:*:*:$(cat "$POSTGRES_PASSWORD_FILE")" > $PGPASSFILE
  chmod 600 $PGPASSFILE
  createdb -h /var/run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl -D . -w stop
fi
exec postgres -D . -c "listen_addresses=*"
"""


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def others(engine: Engine) -> Engine:
    """Return the engine when it has an image for each name that the Compose files ask for."""
    config = "/usr/local/etc/haproxy"
    for name, entrypoint, user, folders in (
        ("test-prometheus", ["/usr/bin/prometheus"], NOBODY, ["/prometheus", "/etc/prometheus"]),
        (
            "prom/alertmanager:v0.28.1",
            ["/usr/bin/prometheus-alertmanager"],
            NOBODY,
            ["/alertmanager", "/etc/alertmanager"],
        ),
        (
            "haproxy:3.2-alpine",
            ["/usr/sbin/haproxy", "-db", "-f", f"{config}/haproxy.cfg"],
            NOBODY,
            [config],
        ),
        (
            "postgres:17.6",
            ["/script"],
            999,
            ["/var/lib/postgresql/data", "/var/run/postgresql", "/tmp"],
        ),
    ):
        engine.import_debian(name, entrypoint, user, folders, POSTGRES)
    return engine


class Project:
    """One of the Compose files, as it is but for the programs of the stand-ins."""

    def __init__(self, engine: Engine, file: str, folder: Path) -> None:
        self.engine = engine
        services = yaml.safe_load((DEPLOY / file).read_text(encoding="utf-8"))["services"]
        self.services = sorted(set(services) - {"grafana"})
        programs = [f"{path}:{path}:ro" for path in PROGRAMS]
        changes: dict[str, Any] = {
            name: {"volumes": programs}
            for name in self.services
            if services[name]["image"] != "sanic-app"
        }
        # A name with a digest is that of one image alone.
        changes["prometheus"]["image"] = "test-prometheus"
        override = folder / "override.yaml"
        content = {"services": changes, "secrets": self._secrets(folder)}
        override.write_text(yaml.safe_dump(content), encoding="utf-8")
        self._files = ("--file", str(DEPLOY / file), "--file", str(override))

    def _secrets(self, folder: Path) -> dict[str, dict[str, str]]:
        """Write the secrets that `make compose-postgres` would, in a folder of the test."""
        url = "postgresql://sanic_app:of-this-test@postgres/sanic_app"
        texts = {"postgres-password": "of-this-test", "database-url": url}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o644)
        return {name: {"file": str(folder / name)} for name in texts}

    def compose(self, *arguments: str) -> str:
        return self.engine.compose(*self._files, "--project-name", PROJECT, *arguments)

    def up(self) -> None:
        """Bring it up, and return when Docker calls each container healthy."""
        self.compose("up", "--detach", "--no-build", *self.services)
        until(lambda: all(self.state(name)["Health"] == "healthy" for name in self.services))

    def container(self, service: str) -> str:
        return f"{PROJECT}_{service}_1"

    def state(self, service: str) -> dict[str, Any]:
        """Return what Docker says of a service's container."""
        found = self.engine.inspect(self.container(service))
        return {**found["State"], "Health": found["State"]["Health"]["Status"], **found}

    def query(self, query: str) -> list[float]:
        """Return the values that its Prometheus has for a query."""
        found = self.engine.get(f"http://127.0.0.1:9090/api/v1/query?query={query}")
        return [float(one["value"][1]) for one in found["data"]["result"]]

    def check_watched(self, targets: int) -> None:
        """Fail unless Prometheus scrapes, has all alerts, and knows its Alertmanager."""
        until(lambda: self.query("up") == [1.0] * targets)
        rules = self.engine.get("http://127.0.0.1:9090/api/v1/rules")["data"]["groups"]
        text = (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
        assert sum(len(group["rules"]) for group in rules) == text.count("- alert:")
        managers = self.engine.get("http://127.0.0.1:9090/api/v1/alertmanagers")["data"]
        assert len(managers["activeAlertmanagers"]) == 1
        assert self.engine.get("http://127.0.0.1:9093/-/ready").strip() == "OK"


@pytest.fixture
def project(
    request: pytest.FixtureRequest, others: Engine, image: str, tmp_path: Path
) -> Iterator[Project]:
    made = Project(others, request.param, tmp_path)
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "20")


SERVICE = "http://127.0.0.1:3000"


@pytest.mark.parametrize("project", ["docker-compose.yaml"], indirect=True)
def test_compose_serves_watches_and_starts_again(project: Project) -> None:
    engine = project.engine
    project.up()
    task = engine.get(f"{SERVICE}/add_task", {"num": 5, "timeout": 600})
    assert task["history_num"] == 1
    project.check_watched(targets=1)
    until(lambda: project.query("sanic_app_queue_depth") == [1.0])
    # A crash: the restart policy brings it back.
    engine.crash(project.container("sanic-app"))
    until(lambda: project.state("sanic-app")["RestartCount"] == 1)
    until(lambda: engine.get(f"{SERVICE}/health/ready", check=False) is not None)
    assert len(engine.get(f"{SERVICE}/get_queue_work")["tasks"]) == 1
    # A stop is in order, and the volume stays.
    project.compose("stop", "sanic-app")
    assert project.state("sanic-app")["ExitCode"] == 0
    project.compose("down")
    project.up()
    assert len(engine.get(f"{SERVICE}/get_queue_work")["tasks"]) == 1


@pytest.mark.parametrize("project", ["docker-compose.postgres.yaml"], indirect=True)
def test_compose_serves_by_two_nodes_behind_haproxy(project: Project) -> None:
    engine = project.engine
    project.up()
    for num in range(1, 5):
        assert engine.get(f"{SERVICE}/add_task", {"num": num, "timeout": 0})["history_num"] == num
    project.check_watched(targets=2)
    until(lambda: sum(project.query("sanic_app_tasks_added_total")) == 4)
    # Both have had some: haproxy balances them.
    assert min(project.query("sanic_app_tasks_added_total")) > 0
    project.compose("stop", "node-1")
    assert project.state("node-1")["ExitCode"] == 0
    assert engine.get(f"{SERVICE}/add_task", {"num": 5, "timeout": 0})["history_num"] == 5
    project.compose("start", "node-1")
    engine.crash(project.container("node-2"))
    until(lambda: project.state("node-1")["Health"] == "healthy")
    until(lambda: engine.get(f"{SERVICE}/get_result", check=False) == {"result": [1, 2, 3, 4, 5]})
