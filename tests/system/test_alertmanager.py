"""From a service in trouble to whoever is called: Prometheus and Alertmanager, as shipped."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.postgres import free_port
from tests.running import Running
from tests.scraping import prometheus

pytestmark = pytest.mark.system

SHIPPED = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
SECONDS = 30


class Called:
    """A receiver of webhooks: what it was told, by its path."""

    def __init__(self) -> None:
        self.alerts: set[tuple[str, str, str]] = set()
        called = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                for alert in json.loads(content)["alerts"]:
                    name = alert["labels"]["alertname"]
                    called.alerts.add((self.path, name, alert["status"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def wait_for(self, path: str, name: str, status: str) -> None:
        """Return when it has been told of an alert in this status."""
        deadline = time.monotonic() + SECONDS
        while (path, name, status) not in self.alerts:
            assert time.monotonic() < deadline, self.alerts
            time.sleep(0.05)


@contextmanager
def alertmanager(folder: Path, called: Called) -> Iterator[str]:
    """Run Alertmanager on what is shipped, with its receivers filled in; give its address."""
    text = SHIPPED.read_text(encoding="utf-8")
    text, filled = re.subn(r"^    # (webhook|  - url)", r"    \1", text, flags=re.MULTILINE)
    assert filled == 4
    text = text.replace("http://pager.example.org", called.url)
    # Nobody waits for more alerts of the same group.
    assert text.count("group_wait: 10s") == 1
    text = text.replace("group_wait: 10s", "group_wait: 100ms\n  group_interval: 500ms")
    (folder / "alertmanager.yml").write_text(text, encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "alertmanager.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus-alertmanager",
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield address
    finally:
        process.terminate()
        process.wait(10)


def test_amtool_accepts_the_configuration() -> None:
    done = subprocess.run(
        ["amtool", "check-config", str(SHIPPED)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2 receivers" in done.stdout
    assert "1 inhibit rules" in done.stdout


@pytest.mark.parametrize(
    ("severity", "receiver"), [("page", "page"), ("ticket", "ticket"), ("other", "ticket")]
)
def test_an_alert_is_routed_by_its_severity(severity: str, receiver: str) -> None:
    command = ["amtool", "config", "routes", "test", f"--config.file={SHIPPED}"]
    done = subprocess.run(
        [*command, f"severity={severity}"], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == receiver


def test_a_full_queue_and_a_service_that_is_gone_reach_whoever_is_called(tmp_path: Path) -> None:
    called = Called()
    with (
        called.listening(),
        alertmanager(tmp_path, called) as address,
        Running(tmp_path, environ={"SANIC_APP_QUEUE_MAX": "1"}) as running,
        prometheus(tmp_path, f"127.0.0.1:{running.port}", alertmanager=address),
    ):
        running.add(1, 600)
        status, _ = running.request("POST", "/add_task", {"num": 2, "timeout": 0})
        assert status == 503
        called.wait_for("/ticket", "SanicAppAddsRefused", "firing")
        called.wait_for("/ticket", "SanicAppQueueNearlyFull", "firing")
        # There is room again.
        running.request("DELETE", "/api/v1/tasks/1")
        called.wait_for("/ticket", "SanicAppQueueNearlyFull", "resolved")
        running.kill()
        called.wait_for("/page", "SanicAppDown", "firing")
        assert {path for path, name, _ in called.alerts if name == "SanicAppDown"} == {"/page"}
