"""The command line that speaks to a running service, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sanic_app.client import COMMANDS, STORE_COMMANDS
from tests.commands import ask, refusal, run, say
from tests.running import Running, back_date

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as started:
        yield started


def test_a_task_is_added_and_waited_for(running: Running) -> None:
    assert say(running, "add", "5", "0.2", "--wait") == (
        "added task 1: num 5, 0.2 s, waiting\ntask 1: num 5, 0.2 s, done\n"
    )
    done = ask(running, "add", "-9223372036854775808", "0", "--wait")
    assert (done["num"], done["state"]) == (-(2**63), "done")
    assert running.result() == [5, -(2**63)]


def test_a_batch_comes_from_a_file_or_from_standard_input(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("1 0\n\n9007199254740993, 0.0\n")
    assert say(running, "add", "--file", str(file), "--wait").startswith("added tasks 1 to 2\n")
    assert ask(running, "add", "--file", "-", text="3 60")["count"] == 1
    assert running.result() == [1, 9007199254740993]
    assert "line 2: must be" in refusal(running, "add", "--file", "-", status=2, text="1 1\n2\n")
    assert "cannot read" in refusal(running, "add", "--file", str(tmp_path / "no"), status=2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_file_of_another_program_is_read_or_refused_in_one_line(
    running: Running, tmp_path: Path, encoding: str
) -> None:
    bom = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    file = tmp_path / "tasks.txt"
    text = "1 60\r\n\u00e9" if encoding == "latin-1" else "1 60\r\n2 60\r\n"
    file.write_bytes((bom + text).encode(encoding))
    if encoding == "latin-1":
        line = refusal(running, "add", "--file", str(file), status=2)
        assert line == f"cannot read {file}: it is not UTF-8"
    else:
        assert ask(running, "add", "--file", str(file))["count"] == 2


@pytest.mark.parametrize(
    ("given", "timeout"),
    [
        ("0.1234567", 0.123457),
        ("007.50", 7.5),
        # As binary fractions these are a whole microsecond less.
        ("10.00000000000000000001", 10.000001),
        ("0.10000000000000000000001", 0.100001),
        ("1E-30", 0.000001),
    ],
)
def test_a_timeout_is_the_decimal_that_was_given(
    running: Running, given: str, timeout: float
) -> None:
    assert ask(running, "add", "5", given)["timeout"] == timeout
    last = ask(running, "add", "--file", "-", text=f"5 {given}")["last"]
    assert ask(running, "task", str(last))["timeout"] == timeout


def test_a_file_that_is_too_large_is_said_to_be(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("1 60\n" * 300_000)
    assert "too large" in refusal(running, "add", "--file", str(file))
    assert ask(running, "queue")["depth"] == 0


def test_an_answer_that_ends_the_connection_before_the_body_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_text("1 60\n" * 300_000)
    body = json.dumps({"detail": "It is too large.", "applied": False}).encode()
    head = "HTTP/1.1 413 Too Large\r\nContent-Type: application/problem+json\r\nContent-Length:"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            client = server.accept()[0]
            with client:
                client.recv(1_000)
                client.sendall(f"{head} {len(body)}\r\n\r\n".encode() + body)
                # What was not read resets the connection.

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert refusal(url, "add", "--file", str(file)) == "It is too large."


def output_of(running: Running, command: str, **environ: str) -> tuple[int, str, str]:
    """Run a line of the shell in which $S is the program."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = f"{sys.executable} -m sanic_app"
    done = subprocess.run(
        ["sh", "-c", command.replace("$S", program)],
        env={**clean, "SANIC_APP_URL": running.url, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "results",
        "results --json",
        "queue",
        "add 1 60",
        "watch --json",
        "--help",
        "--version",
        "add --help",
        "health -P PORT",
    ],
)
def test_output_that_cannot_be_written_is_one_line(running: Running, command: str) -> None:
    command = command.replace("PORT", str(running.port))
    if "watch" in command:
        command = f"{command} & sleep 1; $S add 1 60 >&2 2>/dev/null; wait $!"
        command = command.replace(" &", " > /dev/full &", 1)
        status, _, said = output_of(running, f"$S {command}")
        said = "".join(line for line in said.splitlines(True) if "added" not in line)
        assert (status, said) == (
            1,
            "sanic-app: cannot write the output: No space left on device\n",
        )
        return
    full = output_of(running, f"$S {command} > /dev/full")
    assert full == (1, "", "sanic-app: cannot write the output: No space left on device\n")
    if "--" not in command:
        closed = output_of(running, f"$S {command} >&-")
        assert closed == (1, "", "sanic-app: cannot write the output: Bad file descriptor\n")


def test_an_ascii_terminal_shows_what_it_can(running: Running) -> None:
    say(running, "add", "1", "60")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, shown, said = output_of(running, "$S queue", **ascii_only)
    assert (status, said) == (0, "")
    assert shown.startswith("1 tasks, ")
    assert output_of(running, "$S queue", PYTHONIOENCODING="ascii")[::2] == (0, "")


def test_a_key_makes_another_try_safe(running: Running) -> None:
    first = ask(running, "add", "1", "60", "--key", "k")
    assert ask(running, "add", "1", "60", "--key", "k") == first
    assert "key" in refusal(running, "add", "2", "60", "--key", "k").lower()


def test_the_queue_and_one_task_are_shown(running: Running) -> None:
    ask(running, "add", "--file", "-", text="7 60\n" * 12)
    shown = ask(running, "queue", "--limit", "3")
    assert (shown["depth"], len(shown["tasks"])) == (12, 3)
    text = say(running, "queue")
    assert re.match(r"12 tasks, 7\d\d\.\d s of waits · ends \d{4}-", text), text
    assert "and 2 more" in text
    assert ask(running, "task", "2")["position"] == 1
    assert "due in" in say(running, "task", "2")


def test_results_are_shown_in_pages_and_all(running: Running) -> None:
    say(running, "add", "--file", "-", "--wait", text="4 0\n" * 1_001)
    found = ask(running, "results")["results"]
    assert [each["history_num"] for each in found] == list(range(1, 1_002))
    found = ask(running, "results", "--after", "5", "--limit", "2")["results"]
    assert [each["history_num"] for each in found] == [6, 7]
    assert len(say(running, "results").splitlines()) == 1_002


def test_cancel_pause_and_resume(running: Running) -> None:
    ask(running, "add", "--file", "-", text="7 60\n" * 9)
    assert say(running, "pause") == "paused\n"
    assert ask(running, "queue")["paused"] is True
    assert "PAUSED" in say(running, "queue")
    assert say(running, "resume") == "resumed\n"
    assert say(running, "cancel", "2") == "cancelled task 2: num 7, 60 s, cancelled\n"
    assert say(running, "cancel", "4", "99") == "cancelled 6 tasks\n"
    refusal(running, "cancel", "2")
    done = run(running, "task", "2", "--wait")
    assert (done.returncode, "cancelled" in done.stdout) == (1, True)


def test_a_wait_goes_on_over_a_restart_of_the_service(tmp_path: Path) -> None:
    with Running(tmp_path) as first:
        ask(first, "add", "5", "600")
        waiting = subprocess.Popen(
            [sys.executable, "-m", "sanic_app", "task", "1", "--wait", "--url", first.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # It waits: this very request for the metrics is the other one.
        while "sanic_app_http_requests_in_flight 2.0" not in first.request("GET", "/metrics")[1]:
            time.sleep(0.01)
        first.kill()
        back_date(tmp_path / "queue.db", 599)
        with Running(tmp_path, "--port", str(first.port)):
            out, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (0, "task 1: num 5, 600 s, done\n")
    assert "trying again" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add"], "NUM and TIMEOUT are required"),
        (["add", "5"], "NUM and TIMEOUT are required"),
        (["add", "x", "1"], "NUM: not a whole number: x"),
        (["queue", "--limit", "x"], "--limit: not a whole number: x"),
        (["task", "abc"], "HISTORY_NUM: not a whole number: abc"),
        (["add", "1_0", "1"], "NUM"),
        (["add", "1", "nan"], "TIMEOUT: not a number of seconds: nan"),
        (["add", "1", "-1"], "TIMEOUT"),
        (["add", "1", "1e999"], "TIMEOUT"),
        (["add", "1", "1", "--file", "-"], "or --file"),
        (["queue", "--nonsense"], "--nonsense"),
        (["queue", "--url", "ftp://x"], "not a URL"),
        (["queue", "--url", "127.0.0.1:8000"], "not a URL"),
        (["follow", "--url", "http://127.0.0.1:x"], "not a URL"),
        (["follow", "--url", "http://127.0.0.1:99999"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:0"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/#x"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/?"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/a b"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1/\u00e9"], "not a URL"),
        (["queue", "--url", "http://127.0.0.1:1\n"], "not a URL"),
        (["queue", "--url", "http://[::1"], "Invalid IPv6 URL"),
        (["add", "1", "1", "--key", ""], "--key: must be 1 to 255 visible"),
        (["add", "1", "1", "--key", "a b"], "--key: must be 1 to 255 visible"),
        (["add", "1", "1", "--key", "a\nb"], "--key: must be 1 to 255 visible"),
        (["add", "1", "1", "--key", "\u043a"], "--key: must be 1 to 255 visible"),
        (["add", "--file", ""], "--file: must not be empty"),
        (["watch", "--json", "--after", "x"], "--after: not the id of an event: x"),
        (["watch", "--after", "0.0"], "--after is for --json"),
        (["follow", "--exec", " "], "--exec: must not be empty"),
        (["follow", "--cursor", ""], "--cursor: must not be empty"),
        (["results", "--limit", "-5"], "--limit: out of range: -5"),
        (["results", "--after", "-1"], "--after: out of range: -1"),
    ],
)
def test_what_is_not_understood_is_one_line(arguments: list[str], says: str) -> None:
    assert says in refusal("http://127.0.0.1:1", *arguments, status=2)


def test_a_password_in_a_url_is_not_shown() -> None:
    said = refusal("http://user:secret@127.0.0.1:1", "queue", status=2)
    assert "SANIC_APP_API_TOKEN" in said
    assert "secret" not in said


def test_what_the_service_refuses_is_one_line(running: Running) -> None:
    assert "64-bit" in refusal(running, "add", "9223372036854775808", "0")
    assert "/timeout" in refusal(running, "add", "1", "86401")
    refusal(running, "cancel", "77")
    refusal(running, "task", "77")
    assert "limit" in refusal(running, "queue", "--limit", "1001")


def test_a_service_that_is_not_there_is_one_line() -> None:
    assert "no answer from http://127.0.0.1:1" in refusal("http://127.0.0.1:1", "queue")
    assert "no answer" in refusal("http://127.0.0.1:1", "watch")


def test_the_token_comes_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-this-test\n")
    environ = {"SANIC_APP_API_TOKEN": "of-this-test"}
    with Running(tmp_path, environ=environ) as running:
        assert run(running, "pause", **environ).returncode == 0
        file = {"SANIC_APP_API_TOKEN_FILE": str(tmp_path / "token")}
        assert run(running, "resume", **file).returncode == 0
        for wrong in ({}, {"SANIC_APP_API_TOKEN": "other"}):
            done = run(running, "queue", **wrong)
            assert (done.returncode, done.stdout) == (1, "")
            assert "token" in done.stderr.lower()
        assert run(running, "queue", SANIC_APP_API_TOKEN="").returncode == 2
        missing = {"SANIC_APP_API_TOKEN_FILE": str(tmp_path / "no")}
        assert run(running, "queue", **missing).returncode == 2


def test_a_reader_that_has_seen_enough_is_no_failure_with_a_traceback(running: Running) -> None:
    say(running, "add", "--file", "-", "--wait", text="4 0\n" * 5_000)
    command = f"{sys.executable} -m sanic_app results --url {running.url} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["task", "num", "finished"]
    assert "Traceback" not in done.stderr


def test_every_command_stands_in_the_readme_and_in_the_help() -> None:
    listed = re.findall(r"^sanic-app (\w+)", README, re.MULTILINE)
    assert {*COMMANDS, *STORE_COMMANDS} == set(listed)
    done = run("http://127.0.0.1:1", "--help")
    assert done.returncode == 0
    for command, text in COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(text)}$", done.stdout, re.MULTILINE)
    for command in STORE_COMMANDS:
        assert run("http://127.0.0.1:1", command, "--help").returncode == 0
    for command in COMMANDS.keys() - {"health"}:
        assert "--json" in run("http://127.0.0.1:1", command, "--help").stdout


def test_the_help_does_not_depend_on_docstrings() -> None:
    def text(*options: str) -> str:
        command = [sys.executable, *options, "-m", "sanic_app", "add", "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "Add a task" in text()
    assert text("-OO") == text()
