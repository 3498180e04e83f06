"""Where a command's output goes: a narrow terminal, a full disk behind standard error."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.running import Running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("served")) as started:
        started.add(-(2**63), 0)
        started.wait_for_result([-(2**63)])
        started.add(-(2**63), 86_399.999_999)
        yield started


@pytest.mark.parametrize("columns", ["0", "1", "20", "79"])
@pytest.mark.parametrize("command", ["results", "queue"])
def test_no_number_is_cut_however_narrow_the_terminal_is(
    running: Running, command: str, columns: str
) -> None:
    env = {**os.environ, "SANIC_APP_URL": running.url, "COLUMNS": columns}
    shown = warm.run([command], env=env)
    assert (shown.returncode, shown.stderr) == (0, "")
    line = shown.stdout.splitlines()[-1].split()
    if command == "queue":
        assert line == ["2", str(-(2**63)), "86399.999999", "s", "waiting"]
    else:
        (found,) = json.loads(warm.run([command, "--json"], env=env).stdout)["results"]
        assert line == ["1", str(-(2**63)), found["date_finished"]]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("--nonsense", 2),
        ("queue --nonsense", 2),
        ("queue --url http://127.0.0.1:1", 1),
        ("check missing.db", 1),
    ],
)
def test_the_exit_status_is_right_though_the_reason_cannot_be_written(
    tmp_path: Path, arguments: str, status: int
) -> None:
    line = f"exec {sys.executable} -m sanic_app {arguments} 2>/dev/full"
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, check=False)
    assert done.returncode == status


def test_the_live_view_ends_with_its_terminal_though_no_signal_says_so(running: Running) -> None:
    master, slave = pty.openpty()
    watched = subprocess.Popen(
        [sys.executable, "-m", "sanic_app", "watch", "--url", running.url],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        # Its terminal controls it not, as behind nohup.
        start_new_session=True,
    )
    os.close(slave)
    try:
        shown = b""
        while b"s left" not in shown:
            shown += os.read(master, 65_536)
        os.close(master)
        _, said = watched.communicate(timeout=20)
    finally:
        watched.kill()
    assert (watched.returncode, said) == (
        1,
        "sanic-app: cannot write the output: Input/output error\n",
    )
