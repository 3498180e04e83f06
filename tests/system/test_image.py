"""The image, built by podman and run with every restriction that `deploy/` knows.

Its base is made of Debian's packages, as no registry of images is asked: what differs from the
base that `deploy/Dockerfile` names is the release of Python.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import postgres

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "localhost/sanic-app-test-base", "localhost/sanic-app-test"
PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
RESTRICTED = (
    *("--network", "host", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--user", "10001:10001"),
    *("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=10000:10000"),
)


def run(*command: str, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds, cwd=ROOT
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def make_base(folder: Path) -> None:
    """Import Debian with Python; it trusts the certificates that this machine trusts."""
    packages = "--include=python3,python3-venv"
    run("debootstrap", "--variant=minbase", packages, "bookworm", str(folder), seconds=400)
    (folder / "usr/bin/python").symlink_to("python3")
    for name in ("etc/ssl/certs/ca-certificates.crt", "etc/pip.conf"):
        if (Path("/") / name).exists():
            shutil.copyfile(Path("/") / name, folder / name)
    archive = folder.with_suffix(".tar")
    run("tar", "-C", str(folder), "-cf", str(archive), ".")
    run("podman", "import", str(archive), BASE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    # The base is kept: to make it takes longer than everything else.
    if run("podman", "image", "exists", BASE, check=False).returncode:
        folder = tmp_path_factory.mktemp("image") / "base"
        make_base(folder)
        shutil.rmtree(folder)
    run(
        *("podman", "build", "--format", "docker", "--network", "host", "--isolation", "chroot"),
        *("--build-arg", f"PYTHON={BASE}", "--file", "deploy/Dockerfile", "--tag", IMAGE, "."),
        seconds=400,
    )
    return IMAGE


class Container:
    """One container of the image, on a port of its own."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    def podman(self, verb: str, *arguments: str, check: bool = True) -> str:
        return run(*PODMAN, verb, *arguments, check=check).stdout.strip()

    def ask(self, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=5) as found:
            return json.loads(found.read())

    def until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert self.ask("/health/ready")["status"] == "ready"
            except (urllib.error.URLError, ConnectionError):
                log = run(*PODMAN, "logs", self.name).stderr
                assert time.monotonic() < deadline, log
                time.sleep(0.1)
            else:
                return


@contextmanager
def container(image: str, *options: str) -> Iterator[Container]:
    port = postgres.free_port()
    one = Container(f"sanic-app-test-{port}", port)
    environ = ("--env", f"SANIC_APP_PORT={port}", "--env", "SANIC_APP_HOST=127.0.0.1")
    one.podman("run", "--detach", "--name", one.name, *RESTRICTED, *environ, *options, image)
    try:
        one.until_ready()
        yield one
    finally:
        one.podman("rm", "--force", "--time", "0", "--volumes", one.name)


@pytest.fixture
def volume() -> Iterator[str]:
    name = f"sanic-app-test-{postgres.free_port()}"
    run(*PODMAN, "volume", "create", name)
    yield name
    run(*PODMAN, "volume", "rm", "--force", name)


def test_a_restricted_container_keeps_its_queue_over_a_kill_and_stops_in_order(
    image: str, volume: str
) -> None:
    with container(image, "--volume", f"{volume}:/data") as one:
        one.ask("/add_task", {"num": 5, "timeout": 600})
        one.podman("healthcheck", "run", one.name)
        one.podman("exec", one.name, "sanic-app", "copy", "/data/queue.db", "/data/backup.db")
        one.podman("exec", one.name, "sanic-app", "check", "/data/backup.db")
        one.podman("kill", "--signal", "KILL", one.name)
        one.podman("wait", one.name)
        one.podman("start", one.name)
        one.until_ready()
        (task,) = one.ask("/get_queue_work")["tasks"]
        assert task["num"] == 5
        one.podman("stop", "--time", "15", one.name)
        assert one.podman("inspect", one.name, "--format", "{{.State.ExitCode}}") == "0"
    # Another container, as after an upgrade of the image.
    with container(image, "--volume", f"{volume}:/data") as other:
        assert len(other.ask("/get_queue_work")["tasks"]) == 1


def test_a_container_is_a_node_when_it_gets_the_file_with_the_url(
    image: str, tmp_path: Path
) -> None:
    secret = tmp_path / "database-url"
    secret.write_text(postgres.shared().url() + "\n")
    secret.chmod(0o644)
    mount = f"{secret}:/run/secrets/database-url:ro"
    schema = f"SANIC_APP_DATABASE_SCHEMA={postgres.fresh_name()}"
    file = "SANIC_APP_DATABASE_FILE=/run/secrets/database-url"
    with container(image, "--volume", mount, "--env", file, "--env", schema) as one:
        assert one.ask("/add_task", {"num": 5, "timeout": 0})["history_num"] == 1
        one.podman("healthcheck", "run", one.name)
