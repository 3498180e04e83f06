"""A real Prometheus on the shipped configuration, for tests."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.postgres import free_port

SHIPPED = Path(__file__).parents[1] / "deploy" / "prometheus"


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.loads(answer.read())


@contextmanager
def prometheus(
    folder: Path, *targets: str, token: str | None = None, alertmanager: str = "127.0.0.1:1"
) -> Iterator[str]:
    """Run Prometheus on a copy of what is shipped, its addresses replaced; give its own.

    It scrapes and evaluates twice a second, and an alert whose expression holds for a second fires.
    """
    configuration = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    ((managers,),) = configuration["alerting"].values()
    managers["static_configs"] = [{"targets": [alertmanager]}]
    configuration["global"] |= {
        "scrape_interval": "500ms",
        "scrape_timeout": "400ms",
        "evaluation_interval": "500ms",
    }
    if token is not None:
        (folder / "token").write_text(token)
        job["authorization"] = {"credentials_file": "token"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    rules = (SHIPPED / "alerts.yml").read_text(encoding="utf-8")
    (folder / "alerts.yml").write_text(re.sub("for: .*", "for: 1s", rules), encoding="utf-8")
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
