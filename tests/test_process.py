"""Real processes: the command line, signals, kills, and what lies in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest

from sanic_app import __version__, process
from sanic_app.signals import ECHO_SECONDS, stop_signals
from tests.running import Cold as Running
from tests.running import back_date

PYTHON = sys.executable
date = datetime.fromisoformat


def lines(running: Running) -> list[dict[str, object]]:
    """Return the log, each line of which must be one JSON object."""
    parsed: list[dict[str, object]] = [json.loads(line) for line in running.lines]
    for line in parsed:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
    return parsed


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


def refused(running: Running, status: int, *words: str, seconds: float = 20) -> str:
    """Wait for the end of a process that must not start, and return its one line."""
    assert running.wait(seconds) == status, running.log
    (line,) = running.lines
    assert line.startswith("sanic-app: ")
    for word in words:
        assert word in line, line
    return line


# The command line.


def test_it_says_its_version(tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-m", "sanic_app", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout == f"sanic-app {__version__}\n"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_every_flag_in_its_short_form(tmp_path: Path) -> None:
    port = free_port("127.0.0.2")
    config = tmp_path / "other.yaml"
    config.write_text("TIMEOUT_MAX: 7\n")
    flags = [
        "-H",
        "127.0.0.2",
        "-P",
        str(port),
        "-L",
        "debug",
        "-D",
        "other.db",
        "-C",
        "other.yaml",
    ]
    with Running(tmp_path, *flags, ready=False) as running:
        running.wait_for(rf"serving on http://127\.0\.0\.2:{port}")
        with socket.create_connection(("127.0.0.2", port), 5) as client:
            body = '{"num": 1, "timeout": 8}'
            head = f"POST /add_task HTTP/1.1\r\nHost: 127.0.0.2\r\nContent-Length: {len(body)}"
            client.sendall(f"{head}\r\n\r\n{body}".encode())
            assert b"from 0 to 7" in client.recv(65_536)
        assert (tmp_path / "other.db").exists()
        assert running.stop() == 0
        lines(running)


def test_every_flag_in_its_long_form(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    flags = ["--host", "0.0.0.0", "--port", "0", "--allow-anonymous", "--config", "empty.yaml"]
    flags += ["--logger-level", "WARNING", "--database", f"sqlite:///{tmp_path / 'a b.db'}"]
    with Running(tmp_path, *flags, ready=False) as running:
        deadline = time.monotonic() + 20
        while not (tmp_path / "a b.db-wal").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert running.stop() == 0
        # It has no warnings.
        assert running.lines == []


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    config = "HOST_APP: 127.0.0.9\nPORT_APP: 1\nLOGGER_LEVEL: ERROR\nTIMEOUT_MAX: 5\nQUEUE_MAX: 3\n"
    (tmp_path / "config_app.yaml").write_text(config)
    environ = {
        "SANIC_APP_HOST": "127.0.0.8",
        "SANIC_APP_LOGGER_LEVEL": "INFO",
        "SANIC_APP_TIMEOUT_MAX": "6",
    }
    with Running(tmp_path, "--host", "127.0.0.1", environ=environ) as running:
        assert running.request("POST", "/add_task", {"num": 1, "timeout": 6})[0] == 200
        assert running.request("POST", "/add_task", {"num": 1, "timeout": 6.1})[0] == 400
        assert "sanic_app_queue_limit 3.0\n" in running.request("GET", "/metrics")[1]


def test_a_bad_setting_stops_the_start_and_names_its_source(tmp_path: Path) -> None:
    files = {
        "unknown.yaml": "PORTT: 1\n",
        "bad.yaml": "LOGGER_LEVEL: loud\n",
        "broken.yaml": "PORT: [1\n",
        "token.txt": "\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    cases: list[tuple[list[str], dict[str, str], list[str]]] = [
        (["--port", "65536"], {}, ["--port", "65535"]),
        (["--prt", "1"], {}, ["flags", "--prt"]),
        (["surplus"], {}, ["flags", "surplus"]),
        (["-L", "loud"], {}, ["--logger-level", "DEBUG"]),
        (["-D", ""], {}, ["--database"]),
        (["-D", ":memory:"], {}, ["--database"]),
        (["-C", "nowhere.yaml"], {}, ["nowhere.yaml", "not found"]),
        (["-C", "unknown.yaml"], {}, ["unknown.yaml", "PORTT"]),
        (["-C", "bad.yaml"], {}, ["bad.yaml", "LOGGER_LEVEL"]),
        (["-C", "broken.yaml"], {}, ["broken.yaml", "YAML"]),
        ([], {"SANIC_APP_TIMEOUT_MAX": "-1"}, ["SANIC_APP_TIMEOUT_MAX"]),
        ([], {"SANIC_APP_API_TOKEN": ""}, ["SANIC_APP_API_TOKEN"]),
        ([], {"SANIC_APP_API_TOKEN_FILE": "token.txt"}, ["SANIC_APP_API_TOKEN_FILE"]),
        ([], {"SANIC_APP_API_TOKEN": "a", "SANIC_APP_API_TOKEN_FILE": "b"}, ["API_TOKEN_FILE"]),
        (["-H", "0.0.0.0"], {}, ["HOST", "API_TOKEN", "ALLOW_ANONYMOUS"]),
    ]
    with ExitStack() as stack:
        started = [
            stack.enter_context(Running(tmp_path, *flags, environ=environ, ready=False))
            for flags, environ, _ in cases
        ]
        for running, (_, _, words) in zip(started, cases, strict=True):
            refused(running, 2, *words, seconds=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_unknown_variables_are_warned_of_once(tmp_path: Path) -> None:
    environ = {
        "SANIC_APP_PORT": "tcp://10.0.0.1:8000",
        "SANIC_APP_SERVICE_HOST": "10.0.0.1",
        "SANIC_APP_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    }
    with Running(tmp_path, environ=environ) as running:
        assert running.stop() == 0
        (warning,) = [line for line in lines(running) if line["level"] == "WARNING"]
        assert "SANIC_APP_SERVICE_HOST" in str(warning["message"])
        assert "SANIC_APP_PORT_8000_TCP" in str(warning["message"])
        assert "tcp://" not in running.log


def test_metrics_are_this_process_s_own_whatever_the_library_s_variables_say(
    tmp_path: Path,
) -> None:
    values = tmp_path / "values"
    with Running(tmp_path, environ={"PROMETHEUS_MULTIPROC_DIR": str(values)}) as running:
        assert running.request("POST", "/add_task", {"num": 1, "timeout": 60})[0] == 200
        assert "sanic_app_tasks_added_total 1.0\n" in running.request("GET", "/metrics")[1]
        assert not values.exists()
        lines(running)


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with Running(tmp_path, "--port", str(port), ready=False) as running:
            refused(running, 1, f"port {port}", "in use")


# What the system does not allow.


def test_a_start_goes_on_without_what_only_improves_it(tmp_path: Path) -> None:
    # The second module is uvloop as an installation that is broken has it.
    (tmp_path / "sitecustomize.py").write_text(
        """
import resource, socket, sys

def refuse(*_):
    raise PermissionError(1, "Operation not permitted")

class Socket(socket.socket):
    def setsockopt(self, level, option, value):
        if option == socket.TCP_NOTSENT_LOWAT:
            raise OSError(92, "Protocol not available")
        super().setsockopt(level, option, value)

resource.setrlimit = refuse
socket.socket = Socket
sys.modules["uvloop"] = None
"""
    )
    path = f"{tmp_path}:{Path(__file__).parents[1]}"
    prefix = ["sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh"]
    with Running(tmp_path, environ={"PYTHONPATH": path}, prefix=prefix) as running:
        assert running.add(1, 600)["history_num"] == 1
        assert running.stop() == 0
        warnings = [line["message"] for line in lines(running) if line["level"] == "WARNING"]
        for words in ("limit of open files stays at 100", "without uvloop", "TCP_NOTSENT_LOWAT"):
            assert sum(words in str(warning) for warning in warnings) == 1, warnings
        assert len(warnings) == 3


@pytest.mark.parametrize("files", [12, 20, 63])
def test_too_few_open_files_are_one_line(tmp_path: Path, files: int) -> None:
    prefix = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    with Running(tmp_path, prefix=prefix, ready=False) as running:
        refused(running, 1, f"the limit of open files is {files}, and 64 are needed (ulimit -n)")
    assert [path.name for path in tmp_path.iterdir()] == ["queue.db.lock"]


@pytest.mark.parametrize("existing", [True, False])
def test_an_old_sqlite_is_one_line_with_both_versions(tmp_path: Path, existing: bool) -> None:
    if existing:
        with Running(tmp_path) as running:
            assert running.stop() == 0
    before = digests(tmp_path)
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "sitecustomize.py").write_text(
        "import sqlite3\nsqlite3.sqlite_version, sqlite3.sqlite_version_info = '3.36.0', (3, 36, 0)"
    )
    environ = {"PYTHONPATH": f"{patches}:{Path(__file__).parents[1]}"}
    with Running(tmp_path, environ=environ, ready=False) as running:
        line = refused(running, 1, "SQLite 3.36.0", "3.37 or newer")
        assert line.count("3.3") == 2
    shutil.rmtree(patches)
    assert {**before, "queue.db.lock": ""}.keys() == digests(tmp_path).keys()
    assert {k: v for k, v in digests(tmp_path).items() if k in before} == before


@pytest.mark.parametrize(
    "error", [PermissionError(1, "Operation not permitted"), ValueError("current limit exceeds")]
)
def test_a_limit_that_cannot_be_raised_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    process.raise_descriptor_limit()
    assert f"the limit of open files stays at 1024: {error}" in caplog.text


def test_a_limit_that_cannot_be_read_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "getrlimit", refuse)
    process.raise_descriptor_limit()
    assert "the limit of open files cannot be read: [Errno 1]" in caplog.text


# The folder.


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


def test_a_second_process_ends_at_once_and_has_touched_nothing(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "data").mkdir()
    link.symlink_to("data")
    with Running(tmp_path, "-D", "data/queue.db") as running:
        running.add(1, 600)
        before = digests(tmp_path / "data")
        taken = []
        # The same database, whatever it is called.
        for path in ("data/queue.db", "link/queue.db"):
            started = time.monotonic()
            with Running(tmp_path, "-D", path, ready=False) as second:
                refused(second, 1, "another process owns the queue", "queue.db")
            taken.append(time.monotonic() - started)
        assert min(taken) < 2
        assert digests(tmp_path / "data") == before
        assert running.add(2, 600)["history_num"] == 2


@pytest.mark.parametrize("kind", ["null", "folder", "pipe", "wal", "journal", "lock"])
def test_a_start_that_is_refused_for_its_path_leaves_nothing_behind(
    tmp_path: Path, kind: str
) -> None:
    path, says = tmp_path / f"queue.db-{kind}", "not a regular file"
    match kind:
        case "null":
            # What the link names is elsewhere, and so would be what is left beside it.
            path = tmp_path / "link"
            path.symlink_to(tmp_path / "device")
            os.mknod(tmp_path / "device", stat.S_IFIFO)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path = tmp_path / ("queue.lock" if kind == "lock" else path.name)
            says = "a new database cannot be called"
    before = sorted(each.name for each in tmp_path.iterdir())
    with Running(tmp_path, "-D", str(path), ready=False) as running:
        assert running.wait() == 1
        assert says in running.log
        assert running.log.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == before


def test_nobody_else_can_read_the_files(tmp_path: Path) -> None:
    prefix = ["sh", "-c", 'umask 0; exec "$@"', "sh"]
    with Running(tmp_path, prefix=prefix) as running:
        running.add(1, 600)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        names = ["queue.db", "queue.db-shm", "queue.db-wal", "queue.db.lock"]
        assert modes == dict.fromkeys(names, 0o600)
        assert (tmp_path / "queue.db.lock").stat().st_size == 0
        assert running.stop() == 0
    assert (tmp_path / "queue.db.lock").exists()


def test_a_token_from_a_file_protects_and_is_not_logged(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret-token\n")
    environ = {"SANIC_APP_API_TOKEN_FILE": "token"}
    with Running(tmp_path, "-L", "DEBUG", environ=environ) as running:
        assert running.request("GET", "/get_result")[0] == 401
        headers = {"Authorization": "Bearer s3cret-token"}
        assert running.request("GET", "/get_result", headers=headers) == (200, {"result": []})
        assert running.stop() == 0
        assert "s3cret" not in running.log
        lines(running)


# Signals.


@contextmanager
def company(running: Running) -> Iterator[None]:
    """Surround the service with clients that it has to get rid of."""
    read = b"GET /get_result HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        silent, idle, half, deaf = (stack.enter_context(socket.socket()) for _ in range(4))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        for client in (silent, idle, half, deaf):
            client.settimeout(5)
            client.connect(("127.0.0.1", running.port))
        idle.sendall(read.replace(b"/get_result", b"/health/live"))
        assert b"200 OK" in idle.recv(65_536)
        half.sendall(b"POST /add_task HTTP/1.1\r\nContent-Le")
        deaf.sendall(read)
        assert b"200 OK" in deaf.recv(100)
        yield


def fill(database: Path, count: int) -> None:
    """Give the database a long history, as a service that ran for long would have."""
    with closing(sqlite3.connect(database, isolation_level=None)) as raw:
        raw.execute("BEGIN")
        raw.execute(
            """
            INSERT INTO history
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
            SELECT n, 1000000000000000000 + n, 0, 1, 'done', 1, 1, n FROM number
            """,
            (count,),
        )
        raw.execute(
            "UPDATE state SET last_history_num = ?, last_finish_num = ?, last_stamp = 1",
            (count, count),
        )
        raw.execute("COMMIT")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_in_order_whoever_is_connected(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Running(tmp_path) as running:
        assert running.stop() == 0
    fill(tmp_path / "queue.db", 400_000)
    with Running(tmp_path) as running:
        running.add(7, 600)
        with company(running):
            started = time.monotonic()
            running.signal(number)
            assert running.wait() == 0
            assert time.monotonic() - started < 5
        messages = [line["message"] for line in lines(running)]
        assert messages[-2:] == ["stopping", "stopped"]
    # In order means: nothing is left in the WAL.
    assert not (tmp_path / "queue.db-wal").exists()


SIGNALED_WHILE_LOADING = """
import os, signal, sys
from sanic_app import __main__, command_line

command_line.run = lambda given: os.kill(os.getpid(), signal.SIGTERM)
__main__.main(sys.argv[1:])
"""


@pytest.mark.parametrize(("command", "status"), [("", 0), ("add", 143), ("check", 143)])
def test_a_signal_while_it_loads_is_no_success_of_a_command(command: str, status: int) -> None:
    """What follows a copy after ``&&`` may remove the source."""
    done = subprocess.run([PYTHON, "-c", SIGNALED_WHILE_LOADING, *command.split()], check=False)
    assert done.returncode == status


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with Running(tmp_path, environ={"SANIC_APP_STOP_DELAY": "60"}) as running:
        running.signal()
        running.wait_for('"stopping"')
        assert running.request("GET", "/health/ready")[0] == 503
        assert running.add(1, 0)["history_num"] == 1
        time.sleep(ECHO_SECONDS)
        started = time.monotonic()
        running.signal()
        assert running.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - started < 1
        assert "second signal" in running.log


def test_a_signal_that_comes_twice_at_once_is_no_second_one(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        # As `timeout` sends it, to the process and to its group. Two kinds, as equal ones that
        # wait become one.
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            running.signal(number)
        assert running.wait() == 0
        assert "second signal" not in running.log


UNMEASURED = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""Coverage handles SIGTERM as well, and earlier: a process without these is not measured."""


def wait_for_handlers(pid: int) -> None:
    """Return when the process handles all that stop it; Python itself handles SIGINT before."""
    awaited = sum(1 << number - 1 for number in stop_signals())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        (caught,) = re.findall(r"^SigCgt:\s+([0-9a-f]+)", status, re.MULTILINE)
        if int(caught, 16) & awaited == awaited:
            return
        time.sleep(0.001)
    raise AssertionError("it handles no signals")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_start_in_order_before_anything_is_opened(
    tmp_path: Path, number: signal.Signals
) -> None:
    prefix = ["env", *(f"--unset={name}" for name in UNMEASURED)]
    with Running(tmp_path, ready=False, prefix=prefix) as running:
        wait_for_handlers(running.process.pid)
        running.signal(number)
        assert (running.wait(), running.lines) == (0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_hang_up_is_ignored_under_nohup(tmp_path: Path) -> None:
    with Running(tmp_path, prefix=["nohup"]) as running:
        running.signal(signal.SIGHUP)
        assert running.add(1, 0)["history_num"] == 1
        assert running.stop() == 0


def test_a_second_hang_up_does_not_end_it_at_once(tmp_path: Path) -> None:
    with Running(tmp_path, environ={"SANIC_APP_STOP_DELAY": "0.5"}) as running:
        running.signal(signal.SIGHUP)
        running.wait_for('"stopping"')
        running.signal(signal.SIGHUP)
        assert running.wait() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_command_at_any_moment(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    unmeasured = {name: value for name, value in os.environ.items() if name not in UNMEASURED}
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(20)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for early in (True, False):
            with subprocess.Popen(
                [PYTHON, "-m", "sanic_app", "queue", "--url", url],
                cwd=tmp_path,
                env=unmeasured | {"PYTHONPATH": str(Path(__file__).parents[1])},
                stderr=subprocess.PIPE,
                text=True,
            ) as command:
                with ExitStack() as stack:
                    if early:
                        wait_for_handlers(command.pid)
                    else:
                        stack.enter_context(silent.accept()[0])
                    command.send_signal(number)
                    assert command.communicate(timeout=10)[1] == ""
                assert command.returncode == status


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_it_runs_with_standard_streams_closed(tmp_path: Path, closed: str) -> None:
    port = free_port()
    prefix = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    with Running(tmp_path, "--port", str(port), prefix=prefix, ready=False) as running:
        running.port = port
        deadline = time.monotonic() + 20
        while True:
            try:
                assert running.add(1, 0)["history_num"] == 1
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline, running.log
                time.sleep(0.05)
        for number in (0, 1, 2):
            target = Path(f"/proc/{running.process.pid}/fd/{number}").readlink()
            assert "queue.db" not in target.name
        assert running.stop() == 0


# Kills.


def test_after_a_kill_in_the_middle_of_a_wait_only_the_rest_is_waited_for(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        head = running.add(1, 600)
        running.add(2, 0.2)
        running.kill()
    with Running(tmp_path) as running:
        assert running.request("GET", "/api/v1/queue")[1]["head"] == head
        assert running.result() == []
        running.kill()
    back_date(tmp_path / "queue.db", 598)
    with Running(tmp_path) as running:
        running.wait_for_result([1, 2])
        first, second = (running.request("GET", f"/api/v1/tasks/{n}")[1] for n in (1, 2))
        assert date(first["date_started"]) == date(head["date_started"]) - timedelta(seconds=598)
        assert date(first["date_finished"]) - date(first["date_started"]) >= timedelta(seconds=600)
        # The wait of the second is whole: it started when the first was done.
        assert second["date_started"] == first["date_finished"]
        assert date(second["date_finished"]) - date(second["date_started"]) >= timedelta(
            seconds=0.2
        )


def test_a_long_wait_in_whole_seconds_survives_a_kill(tmp_path: Path) -> None:
    environ = {"SANIC_APP_TIMEOUT_MAX": "31536000", "SANIC_APP_QUEUE_MAX": "1000"}
    with Running(tmp_path, environ=environ) as running:
        head = running.add(2**63 - 1, 31_536_000)
        assert (head["timeout"], type(head["timeout"])) == (31_536_000, int)
        running.kill()
    with Running(tmp_path, environ=environ) as running:
        figures = running.request("GET", "/api/v1/queue")[1]
        assert figures["head"] == head
        assert 31_536_000 - 60 < figures["backlog_seconds"] <= 31_536_000
        assert running.result() == []


def test_what_a_kill_left_half_sent_is_not_there(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        running.add(1, 600)
        with socket.create_connection(("127.0.0.1", running.port), 5) as client:
            client.sendall(
                b"POST /add_task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 26\r\n\r\n"
            )
            running.kill()
    with Running(tmp_path) as running:
        assert running.request("GET", "/api/v1/queue")[1]["depth"] == 1
        assert running.add(2, 600)["history_num"] == 2


@pytest.mark.parametrize("arguments", ["", "copy a.db b.db", "follow --cursor file"])
def test_a_working_folder_that_was_deleted_is_one_line(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "gone").mkdir()
    command = f"rmdir ../gone; exec {sys.executable} -m sanic_app {arguments}"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path / "gone",
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch("sanic-app: cannot find [a-z./]+: the working folder: .*", line)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there it can be set")
def test_without_a_free_descriptor_who_is_connected_is_served(tmp_path: Path) -> None:
    """Clients take the descriptors; nothing that the service needs itself may wait for one."""
    with Running(tmp_path) as running:
        with closing(HTTPConnection(running.host, running.port, timeout=5)) as client:
            client.request("GET", "/health/live")
            client.getresponse().read()
            pid = running.process.pid
            taken = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
            lowest = min(set(range(max(taken) + 2)) - taken)
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))
            task = json.dumps({"num": 7, "timeout": 0})
            for method, path, body in (
                ("POST", "/add_task", task),
                ("GET", "/get_queue_work", None),
                ("GET", "/get_result", None),
                ("GET", "/api/v1/results", None),
                ("GET", "/api/v1/tasks/1", None),
                ("GET", "/metrics", None),
                ("GET", "/", None),
                ("GET", "/page/page.js", None),
                ("GET", "/api/docs/", None),
                ("GET", "/api/docs/swagger-ui.css", None),
                ("DELETE", "/api/v1/tasks?from=1&to=9", None),
                ("GET", "/health/ready", None),
            ):
                client.request(method, path, body)
                answer = client.getresponse()
                answer.read()
                assert (path, answer.status) == (path, 200)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert running.stop() == 0
        assert "ERROR" not in running.log
