"""`sanic-app follow` against a real service: each result once and in order, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from sanic_app.client.actions import Command
from sanic_app.client.cursor import EVENT_SECONDS, Cursor, Identity, Position
from sanic_app.client.service import Failed
from sanic_app.client.stops import Stops
from sanic_app.errors import EXIT_RESET
from tests.following import Following, Proxy, cursor_of
from tests.running import Running

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as started:
        yield started


def add_all(running: Running, *nums: int, timeout: float = 0) -> None:
    tasks = [{"num": num, "timeout": timeout} for num in nums]
    assert running.request("POST", "/api/v1/tasks/batch", {"tasks": tasks})[0] == 201


def settled(running: Running) -> None:
    while running.request("GET", "/api/v1/queue")[1]["depth"]:
        time.sleep(0.01)


def listening(running: Running, listeners: int = 1) -> None:
    """Return when so many follow."""
    while f"event_listeners {listeners}.0" not in running.request("GET", "/metrics")[1]:
        time.sleep(0.01)


def wait_for(file: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not file.exists() or file.read_text() != text:
        assert time.monotonic() < deadline, (text, file.exists() and file.read_text())
        time.sleep(0.01)


# What is told.


def test_each_finished_number_is_printed_in_order_as_it_is_done(running: Running) -> None:
    add_all(running, 5, -(2**63), 5)
    settled(running)
    with Following(running.url, "--after", "0") as follower:
        follower.until("5", str(-(2**63)), "5")
        running.add(7, 0.1)
        follower.until("5", str(-(2**63)), "5", "7")
        assert follower.end() == 0
        assert follower.said == []


def test_cancelled_tasks_are_not_told(running: Running) -> None:
    with Following(running.url, "--after", "0", "--json") as follower:
        add_all(running, 1, 2, 3, 4, timeout=0.2)
        running.request("DELETE", "/api/v1/tasks/3")
        running.request("DELETE", "/api/v1/tasks/1")
        follower.until_count(2)
        told = [json.loads(line) for line in follower.lines]
        assert [(each["history_num"], each["num"]) for each in told] == [(2, 2), (4, 4)]
        assert told == running.request("GET", "/api/v1/results")[1]["results"]


@pytest.mark.parametrize("before", [0, 1, 2, 3, 11, 1_001])
def test_it_begins_with_what_is_finished_from_now_on(running: Running, before: int) -> None:
    if before:
        add_all(running, *range(before))
        settled(running)
    with Following(running.url) as follower:
        listening(running)
        # The stream is there before the place to begin at is known.
        time.sleep(0.3)
        running.add(4711)
        follower.until("4711")


def test_it_begins_behind_any_history_number(running: Running) -> None:
    add_all(running, *range(1, 1_501))
    settled(running)
    running.request("POST", "/api/v1/queue/pause")
    add_all(running, 1_501, 1_502)
    for after, count in ((0, 1_500), (999, 501), (1_000, 500), (1_499, 1), (1_500, 0), (1_501, 0)):
        with Following(running.url, "--after", str(after)) as follower:
            follower.until_count(count)
            assert follower.lines == [str(num) for num in range(after + 1, 1_501)]
            listening(running)
            assert follower.end(signal.SIGINT) == 0
            assert follower.said == []


def test_ten_thousand_at_once_are_each_told(running: Running) -> None:
    with Following(running.url) as follower:
        listening(running)
        time.sleep(0.3)
        add_all(running, *range(10_000))
        running.add(-1)
        follower.until_count(10_001)
        assert follower.lines == [*map(str, range(10_000)), "-1"]


def test_the_token_is_sent(tmp_path: Path) -> None:
    environ = {"SANIC_APP_API_TOKEN": "of-this-test"}
    with Running(tmp_path, environ=environ) as running:
        with Following(running.url, "--after", "0", "--retry", "0", "--exec", "true") as refused:
            assert refused.wait() == 1
            assert len(refused.said) == 1
            assert "token" in refused.said[0]
        with Following(running.url, "--after", "0", environ=environ) as follower:
            listening_to = {"Authorization": "Bearer of-this-test"}
            body = {"num": 5, "timeout": 0}
            assert running.request("POST", "/add_task", body, listening_to)[0] == 200
            follower.until("5")


# Restarts, kills, proxies.


def test_nothing_is_missed_or_doubled_over_kills_of_both(tmp_path: Path) -> None:
    chance = random.Random(7)
    log, cursor = tmp_path / "log", tmp_path / "cursor"
    command = f"echo $SANIC_APP_HISTORY_NUM $SANIC_APP_NUM >> {log}"
    running = Running(tmp_path)
    port, added = running.port, 0
    try:
        for _ in range(6):
            follower = Following(
                running.url, "--after", "0", "--cursor", str(cursor), "--exec", command
            )
            with follower:
                for _ in range(2):
                    nums = range(added, added + chance.randrange(1, 40))
                    add_all(running, *nums)
                    added += len(nums)
                    time.sleep(chance.uniform(0.05, 0.6))
                    if chance.random() < 0.5:
                        running.kill()
                        running = Running(tmp_path, "--port", str(port))
                follower.kill()
        with Following(running.url, "--cursor", str(cursor), "--exec", command):
            last = f"{added} {added - 1}\n"
            while not log.exists() or not log.read_text().endswith(last):
                time.sleep(0.02)
    finally:
        running.kill()
    told = [line.split() for line in log.read_text().splitlines()]
    # A kill between a command and its place in the cursor runs that command again, and no other.
    repeated = sum(a == b for a, b in pairwise(told))
    assert repeated <= 6
    once = [told[0], *(b for a, b in pairwise(told) if a != b)]
    assert once == [[str(num + 1), str(num)] for num in range(added)]


def test_it_waits_for_a_service_that_is_not_there_yet(tmp_path: Path) -> None:
    with Running(tmp_path) as first:
        first.add(5)
        port = first.port
    with Following(first.url, "--after", "0") as follower:
        follower.until_says("no answer")
        time.sleep(0.5)
        with Running(tmp_path, "--port", str(port)):
            follower.until("5")
            assert len(follower.said) == 1


@pytest.mark.parametrize("kind", ["text/html", "application/problem+json"])
def test_a_proxy_that_answers_for_its_service_or_cuts_the_stream_is_waited_for(
    running: Running, kind: str
) -> None:
    with Proxy(running.port) as proxy, Following(proxy.url, "--after", "0") as follower:
        running.add(0)
        follower.until("0")
        told = ["0"]
        refusals, cuts = (408, 429, 500, 502, 503, 504, 520), range(10, 14)
        for number, status in enumerate(refusals, 1):
            proxy.refusal, before = (status, kind), proxy.refused
            proxy.cut()
            running.add(number)
            while proxy.refused < before + 2:
                time.sleep(0.01)
            proxy.refusal = None
            told.append(str(number))
            follower.until(*told)
        for number in cuts:
            proxy.cut()
            running.add(number)
            told.append(str(number))
            follower.until(*told)
        assert all("trying again" in line for line in follower.said)
        # One line for each time it lost the stream, however often it was refused before the next.
        assert len(refusals) <= len(follower.said) <= len(refusals) + len(cuts)


# Commands.


def test_a_command_is_run_for_each_with_the_number_in_its_environment(
    running: Running, tmp_path: Path
) -> None:
    add_all(running, 7, 8)
    command = (
        'echo "$SANIC_APP_NUM $SANIC_APP_HISTORY_NUM $SANIC_APP_DATE_FINISHED"; '
        "cat; echo beside >&2"
    )
    with Following(running.url, "--after", "0", "--exec", command) as follower:
        follower.until_count(2)
        results = running.request("GET", "/api/v1/results")[1]["results"]
        assert follower.lines == [
            f"{each['num']} {each['history_num']} {each['date_finished']}" for each in results
        ]
        assert follower.end() == 0
        assert follower.said == ["beside", "beside"]


def test_a_failed_command_is_run_again_before_the_next(running: Running, tmp_path: Path) -> None:
    add_all(running, 1, 2, 3)
    command = "echo $SANIC_APP_NUM; test $SANIC_APP_NUM != 2 || test -e go"
    with Following(running.url, "--after", "0", "--exec", command, folder=tmp_path) as follower:
        follower.until_count(4)
        (tmp_path / "go").touch()
        follower.until_says("trying again in 0.4 s")
        while "3" not in follower.lines:
            time.sleep(0.01)
        assert follower.lines == ["1", *["2"] * (len(follower.lines) - 2), "3"]
        assert follower.said[0] == (
            "sanic-app: the command for task 2 failed with status 1; trying again in 0.2 s"
        )


def test_after_so_many_tries_it_ends_and_the_cursor_has_not_moved(
    running: Running, tmp_path: Path
) -> None:
    add_all(running, 1, 2, 3)
    cursor = tmp_path / "cursor"
    flags = ("--after", "0", "--cursor", str(cursor), "--retry", "2")
    command = "echo $SANIC_APP_NUM; test $SANIC_APP_NUM = 1 || kill -9 $$"
    with Following(running.url, *flags, "--exec", command) as follower:
        assert follower.wait() == 1
        assert follower.lines == ["1", "2", "2", "2"]
        assert follower.said[-1] == (
            "sanic-app: the command for task 2 failed by signal 9; tried 3 times"
        )
    assert cursor_of(cursor)["after"] == 1
    with Following(running.url, *flags, "--exec", "echo $SANIC_APP_NUM") as follower:
        follower.until("2", "3")
    with Following(running.url, "--after", "0", "--retry", "0", "--exec", "exit 3") as follower:
        assert follower.wait() == 1
        says = "sanic-app: the command for task 1 failed with status 3; tried 1 times"
        assert follower.said == [says]


def test_a_command_that_cannot_be_started_has_failed_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    result = {"history_num": 1, "num": 5, "date_finished": "2026"}
    # Linux takes 131,072 bytes in one argument.
    command = Command(Stops(), "x" * 200_000, 0, None)
    with pytest.raises(Failed, match="task 1 could not be started: Argument list too long; tried"):
        command.deal_with(result, lambda: None)


def test_a_failure_is_seen_when_whoever_started_it_ignores_ended_children(
    running: Running,
) -> None:
    running.add(1)
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        " os.execv(sys.executable, [sys.executable, '-m', 'sanic_app', *sys.argv[1:]])"
    )
    flags = ("follow", "--url", running.url, "--after", "0", "--retry", "0", "--exec", "exit 3")
    done = subprocess.run(
        [sys.executable, "-c", ignoring, *flags],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    says = "sanic-app: the command for task 1 failed with status 3; tried 1 times\n"
    assert (done.returncode, done.stderr) == (1, says)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_waits_for_the_command_and_writes_the_cursor(
    running: Running, tmp_path: Path, number: int
) -> None:
    add_all(running, 1, 2, 3)
    cursor = tmp_path / "cursor"
    command = "echo begin $SANIC_APP_NUM; sleep 0.7; echo end $SANIC_APP_NUM"
    with Following(
        running.url, "--after", "0", "--cursor", str(cursor), "--exec", command
    ) as follower:
        follower.until("begin 1")
        # As from a terminal: to the whole process group.
        os.killpg(follower.process.pid, number)
        assert follower.wait() == 0
        assert follower.lines == ["begin 1", "end 1"]
        assert follower.said == []
    assert cursor_of(cursor)["after"] == 1


def test_a_stop_does_not_wait_for_another_try(running: Running, tmp_path: Path) -> None:
    running.add(1)
    cursor = tmp_path / "cursor"
    with Following(
        running.url, "--after", "0", "--cursor", str(cursor), "--exec", "echo no; exit 1"
    ) as follower:
        follower.until_says("trying again in 1.6 s")
        begun = time.monotonic()
        assert follower.end() == 0
        assert time.monotonic() - begun < 1.2
    assert cursor_of(cursor)["after"] == 0


def test_a_second_signal_ends_it_at_once_and_kills_the_command(
    running: Running, tmp_path: Path
) -> None:
    running.add(1)
    cursor, late = tmp_path / "cursor", tmp_path / "late"
    command = f"echo begin; (sleep 1.5; touch {late}) & wait"
    with Following(
        running.url, "--after", "0", "--cursor", str(cursor), "--exec", command
    ) as follower:
        follower.until("begin")
        follower.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert follower.process.poll() is None
        assert follower.end(seconds=1) == 128 + signal.SIGTERM
        time.sleep(1.6)
    assert not late.exists()
    assert cursor_of(cursor)["after"] == 0


def test_a_signal_that_comes_twice_lets_the_command_end(running: Running) -> None:
    running.add(1)
    flags = ("--after", "0", "--exec", "echo begin; sleep 0.7; echo end")
    with Following(running.url, *flags) as follower:
        follower.until("begin")
        # As `timeout` sends it, to the process and to its group. Two kinds, as equal ones that
        # wait become one.
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT):
            follower.process.send_signal(number)
        assert follower.end(signal.SIGCONT) == 0
        assert follower.lines == ["begin", "end"]
    with Following(running.url, *flags) as follower:
        follower.until("begin")
        # As it comes when a terminal is closed.
        follower.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert follower.end(signal.SIGHUP) == 0
        assert follower.lines == ["begin", "end"]


def test_no_command_runs_beside_one_that_a_killed_follower_has_left(
    running: Running, tmp_path: Path
) -> None:
    add_all(running, 1, 2)
    flags = ("--after", "0", "--cursor", "cursor", "--exec")
    first_command = "echo 1 begins >> log; sleep 1.5; echo 1 ends >> log"
    with Following(running.url, *flags, first_command, folder=tmp_path) as first:
        wait_for(tmp_path / "log", "1 begins\n")
        first.process.kill()
        with Following(
            running.url, *flags, "echo $SANIC_APP_NUM again >> log", folder=tmp_path
        ) as second:
            second.until_says("waiting for a command of a follower that was killed")
            wait_for(tmp_path / "log", "1 begins\n1 ends\n1 again\n2 again\n")


# Cursors.


def test_a_cursor_goes_on_where_it_was(running: Running, tmp_path: Path) -> None:
    add_all(running, 1, 2)
    cursor = tmp_path / "cursor"
    with Following(running.url, "--after", "1", "--cursor", str(cursor)) as follower:
        follower.until("2")
        follower.end()
    assert cursor_of(cursor)["after"] == 2
    running.add(3)
    # The file says more than the flag does.
    with Following(running.url, "--after", "0", "--cursor", str(cursor)) as follower:
        follower.until("3")


def test_a_cursor_from_now_on_is_one_from_its_first_start_on(
    running: Running, tmp_path: Path
) -> None:
    running.add(1)
    settled(running)
    cursor = tmp_path / "cursor"
    with Following(running.url, "--cursor", str(cursor)) as follower:
        while not cursor.exists() or cursor_of(cursor)["after"] != 1:
            time.sleep(0.01)
        follower.kill()
    running.add(2)
    with Following(running.url, "--cursor", str(cursor)) as follower:
        follower.until("2")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "12",
        "{}",
        '{"after": 1',
        '{"after": "1", "last": null, "event": ""}',
        '{"after": 1, "last": null, "event": "", "more": 1}',
        '{"after": 2, "last": [1, 5, "2026"], "event": ""}',
        '{"after": null, "last": null, "event": "1.1\\r\\nX: y"}',
        '{"after": true, "last": null, "event": ""}',
        '{"after": -5, "last": null, "event": ""}',
        '{"after": 9223372036854775808, "last": null, "event": ""}',
        "\x00" * 40,
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_a_file_that_is_no_cursor_is_one_line_and_stays_as_it_is(
    tmp_path: Path, content: str
) -> None:
    cursor = tmp_path / "cursor"
    cursor.write_text(content)
    with Following("http://127.0.0.1:1", "--cursor", str(cursor)) as follower:
        assert follower.wait() == 1
        assert follower.said == [
            f"sanic-app: {cursor} is not a cursor of follow, or it is damaged; nothing was changed"
        ]
    assert cursor.read_text() == content


def test_a_cursor_that_cannot_be_written_is_one_line_before_any_command(
    running: Running, tmp_path: Path
) -> None:
    running.add(1)
    (tmp_path / "folder").mkdir()
    (tmp_path / "cursor.sanic-app-follow").mkdir()
    for cursor, says in (
        ("folder", "cannot use the cursor"),
        ("no/cursor", "cannot open the lock"),
        ("cursor", "cannot write the cursor"),
    ):
        with Following(
            running.url, "--after", "0", "--cursor", cursor, "--exec", "echo ran", folder=tmp_path
        ) as follower:
            assert follower.wait() == 1
            assert follower.lines == []
            assert len(follower.said) == 1
            assert follower.said[0].startswith(f"sanic-app: {says} {tmp_path}")


def test_two_followers_do_not_share_a_cursor(running: Running, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("cursor")
    with Following(running.url, "--cursor", "cursor", folder=tmp_path) as first:
        listening(running)
        for name in ("cursor", "link"):
            with Following(running.url, "--cursor", name, folder=tmp_path) as second:
                assert second.wait() == 1
                assert second.said == [f"sanic-app: another follower uses the cursor {name}"]
        running.add(5)
        first.until("5")


def test_a_cursor_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    there = Position(7, Identity(7, 5, "2026-11-23T21:15:08.359203Z"), "9.8")
    (tmp_path / "cursor.new").write_text("of somebody else")
    with Cursor(str(tmp_path / "cursor"), Position(0)) as cursor:
        calls.clear()
        cursor.move(there)
        assert calls == ["cursor.sanic-app-follow", "rename", tmp_path.name]
    with Cursor(str(tmp_path / "cursor"), Position(0)) as cursor:
        assert cursor.position == there
    assert (tmp_path / "cursor.new").read_text() == "of somebody else"


# Resets.


def test_what_retention_has_removed_unseen_is_a_reset(tmp_path: Path) -> None:
    cursor = tmp_path / "cursor"
    keep = {"SANIC_APP_HISTORY_KEEP": "5"}
    flags = ("--after", "0", "--cursor", str(cursor))
    with Running(tmp_path, environ=keep) as running:
        add_all(running, 1, 2, 3)
        with Following(running.url, *flags) as follower:
            follower.until("1", "2", "3")
            follower.end()
        for num in range(4, 11):
            running.add(num)
        settled(running)
        kept = cursor.read_bytes()
        with Following(running.url, *flags) as follower:
            assert follower.wait() == EXIT_RESET
            assert follower.lines == []
            assert len(follower.said) == 1
            assert "task 3" in follower.said[0]
        assert cursor.read_bytes() == kept
        with Following(running.url, "--after", "0") as follower:
            assert follower.wait() == EXIT_RESET
            assert follower.said == ["sanic-app: retention has removed results after task 0"]
        with Following(running.url, "--after", "4") as follower:
            assert follower.wait() == EXIT_RESET
        with Following(running.url, "--after", "5") as follower:
            follower.until("6", "7", "8", "9", "10")
        with Following(running.url, *flags, "--from-reset") as follower:
            follower.until("6", "7", "8", "9", "10")
            assert len(follower.said) == 1
            running.add(11)
            follower.until("6", "7", "8", "9", "10", "11")
            follower.end()
        with Following(running.url, *flags) as follower:
            running.add(12)
            follower.until("12")


def test_a_burst_of_which_retention_leaves_a_part_is_a_reset(tmp_path: Path) -> None:
    with (
        Running(tmp_path, environ={"SANIC_APP_HISTORY_KEEP": "50"}) as running,
        Following(running.url, "--after", "0") as strict,
        Following(running.url, "--after", "0", "--from-reset") as lenient,
    ):
        listening(running, 2)
        add_all(running, *range(1, 10_001))
        assert strict.wait() == EXIT_RESET
        deadline = time.monotonic() + 20
        while not lenient.lines or lenient.lines[-1] != "10000":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert lenient.lines == sorted(set(lenient.lines), key=int)
        assert lenient.lines[-50:] == [str(num) for num in range(9_951, 10_001)]
        assert lenient.said


def test_what_retention_has_removed_after_it_was_told_is_no_reset(tmp_path: Path) -> None:
    """Nor is a cancelled task that it has removed, even the next one."""
    cursor = tmp_path / "cursor"
    flags = ("--after", "0", "--cursor", str(cursor))
    with Running(tmp_path, environ={"SANIC_APP_HISTORY_KEEP": "1"}) as running:
        with Following(running.url, *flags) as follower:
            running.add(1)
            follower.until("1")
            # From then on what it hears is in the file at once.
            time.sleep(EVENT_SECONDS)
            running.add(2, 600)
            running.request("DELETE", "/api/v1/tasks/2")
            while not cursor_of(cursor)["event"].endswith("2.2"):
                time.sleep(0.01)
            running.add(3)
            follower.until("1", "3")
            assert [running.request("GET", f"/api/v1/tasks/{n}")[0] for n in (1, 2)] == [410, 410]
            follower.end()
        running.add(4)
        with Following(running.url, *flags) as follower:
            follower.until("4")
            assert follower.said == []


def test_a_follower_that_was_stopped_at_work_goes_on_although_retention_went_on(
    tmp_path: Path,
) -> None:
    """The service's own `reset` is about what it told, not about what was dealt with."""
    cursor = tmp_path / "cursor"
    command = "echo $SANIC_APP_NUM; while ! test -e go$SANIC_APP_NUM; do sleep 0.02; done"
    flags = ("--after", "0", "--cursor", str(cursor), "--exec", command)
    with Running(tmp_path, environ={"SANIC_APP_HISTORY_KEEP": "4"}) as running:
        with Following(running.url, *flags, folder=tmp_path) as follower:
            while not cursor.exists() or not cursor_of(cursor)["event"]:
                time.sleep(0.01)
            add_all(running, 1, 2, 3, 4)
            follower.until("1")
            follower.process.terminate()
            (tmp_path / "go1").touch()
            assert follower.wait() == 0
        assert cursor_of(cursor)["after"] == 1
        running.add(5)
        settled(running)
        assert running.request("GET", "/api/v1/tasks/1")[0] == 410
        for number in range(2, 6):
            (tmp_path / f"go{number}").touch()
        with Following(running.url, *flags, folder=tmp_path) as follower:
            follower.until("2", "3", "4", "5")
            assert follower.end() == 0
            assert follower.said == []
        # Once more, when everything was dealt with and removed: there is nothing after it.
        running.request("POST", "/api/v1/queue/pause")
        add_all(running, 6, 7, 8, 9, 10)
        running.request("DELETE", "/api/v1/tasks?from=7&to=10")
        assert running.request("GET", "/api/v1/tasks/5")[0] == 410
        (tmp_path / "go6").touch()
        with Following(running.url, *flags, folder=tmp_path) as follower:
            running.request("POST", "/api/v1/queue/resume")
            follower.until("6")
            assert follower.said == []


def fresh(parent: Path, name: str, *nums: int) -> Path:
    """Return the folder of a service that has finished these and was stopped."""
    folder = parent / name
    folder.mkdir()
    with Running(folder) as running:
        if nums:
            add_all(running, *nums)
            settled(running)
        running.stop()
    return folder


@pytest.mark.parametrize("others", [(), (11, 12), (11, 12, 13, 14, 15, 16)])
def test_another_database_is_a_reset(tmp_path: Path, others: tuple[int, ...]) -> None:
    """Whether its numbers go back, or it has more of them."""
    first, second = fresh(tmp_path, "first", 1, 2, 3), fresh(tmp_path, "second", *others)
    cursor = tmp_path / "cursor"
    flags = ("--after", "0", "--cursor", str(cursor))
    with Running(first) as running, Following(running.url, *flags) as follower:
        follower.until("1", "2", "3")
        port = running.port
        running.stop()
        with Running(second, "--port", str(port)) as other:
            # At once, even if nothing else happens; or with the next finish.
            if others[3:]:
                other.add(17)
            assert follower.wait() == EXIT_RESET
            assert follower.lines == ["1", "2", "3"]
            assert re.search("task 3.* another database", follower.said[-1])
            with Following(other.url, *flags) as again:
                if not others[3:]:
                    other.add(17)
                assert again.wait() == EXIT_RESET
            with Following(other.url, *flags, "--from-reset") as lenient:
                lenient.until(*map(str, others), "17")
                other.add(18)
                lenient.until(*map(str, others), "17", "18")


def test_a_copy_is_a_reset_and_gone_on_with_where_it_has_the_last_result(tmp_path: Path) -> None:
    """A store that is moved is followed without a gap or a double, but only when that is asked."""
    first = fresh(tmp_path, "first", 1, 2, 3)
    shutil.copytree(first, tmp_path / "second")
    with closing(sqlite3.connect(tmp_path / "second" / "queue.db")) as raw, raw:
        raw.execute("UPDATE lineage SET uuid = lower(hex(randomblob(16)))")
    cursor = tmp_path / "cursor"
    flags = ("--after", "0", "--cursor", str(cursor))
    with Running(first) as running, Following(running.url, *flags) as follower:
        follower.until("1", "2", "3")
        while not cursor_of(cursor)["event"]:
            time.sleep(0.01)
        follower.kill()
    with Running(tmp_path / "second") as copy:
        with Following(copy.url, *flags) as strict:
            assert strict.wait() == EXIT_RESET
            assert strict.said == ["sanic-app: task 3 was followed in another database"]
        copy.add(4)
        with Following(copy.url, *flags) as strict:
            assert strict.wait() == EXIT_RESET
            assert strict.lines == []
        with Following(copy.url, *flags, "--from-reset") as lenient:
            lenient.until("4")


def test_a_number_that_no_task_has_is_another_database(running: Running) -> None:
    add_all(running, 1, 2)
    settled(running)
    with Following(running.url, "--after", "3") as follower:
        assert follower.wait() == EXIT_RESET
        assert follower.said == ["sanic-app: there is no task 3: another database"]
    with Following(running.url, "--after", "3", "--from-reset") as follower:
        follower.until("1", "2")


# The output.


def shell(running: Running, line: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m sanic_app follow --url {running.url}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("FOLLOW", program)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_a_reader_that_has_seen_enough_ends_it_quietly(running: Running) -> None:
    add_all(running, *range(5_000))
    settled(running)
    done = shell(running, "FOLLOW --after 0 | head -2")
    assert (done.returncode, done.stdout, done.stderr) == (1, "0\n1\n", "")


def test_it_ends_without_a_reader_even_if_nothing_more_is_done(running: Running) -> None:
    running.add(5)
    done = shell(running, "FOLLOW --after 0 | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (1, "5\n", "")


def test_output_that_cannot_be_written_is_one_line_and_not_in_the_cursor(
    running: Running, tmp_path: Path
) -> None:
    running.add(5)
    cursor = tmp_path / "cursor"
    for where, reason in (
        (">/dev/full", "No space left on device"),
        (">&-", "Bad file descriptor"),
    ):
        done = shell(running, f"FOLLOW --after 0 --cursor {cursor} {where}")
        says = f"sanic-app: cannot write the output: {reason}\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", says)
        assert cursor_of(cursor)["after"] == 0


def test_a_reader_that_takes_nothing_does_not_keep_a_signal_waiting(
    running: Running, tmp_path: Path
) -> None:
    """And what it was not given is not in the cursor."""
    add_all(running, *[10**15] * 10_000)
    settled(running)
    cursor = tmp_path / "cursor"
    arguments = ["follow", "--after", "0", "--cursor", str(cursor), "--url", running.url]
    with subprocess.Popen(
        [sys.executable, "-m", "sanic_app", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        before = -1
        while not cursor.exists() or (now := cursor_of(cursor)["after"]) != before or not now:
            before = cursor_of(cursor)["after"] if cursor.exists() else -1
            time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.stdout is not None
        printed = process.stdout.read().split()
    assert 0 < len(printed) < 10_000
    assert cursor_of(cursor)["after"] == len(printed)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--after", "-1"], "--after"),
        (["--after", "9223372036854775808"], "--after"),
        (["--after", "x"], "--after"),
        (["--exec", "true", "--json"], "--exec or --json"),
        (["--retry", "1"], "--retry is for --exec"),
        (["--exec", "true", "--retry", "-1"], "--retry"),
    ],
)
def test_what_is_not_understood_is_one_line(arguments: list[str], says: str) -> None:
    with Following("http://127.0.0.1:1", *arguments) as follower:
        assert follower.wait() == 2
        assert len(follower.said) == 1
        assert says in follower.said[0]


@pytest.mark.parametrize("kind", ["null", "folder", "pipe"])
def test_a_cursor_that_is_no_file_is_refused_and_nothing_is_left_beside_it(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "cursor"
    match kind:
        case "null":
            path.symlink_to("/dev/null")
        case "folder":
            path.mkdir()
        case _:
            # Whoever reads it waits for ever.
            os.mkfifo(path)
    with pytest.raises(Failed, match="not a regular file"):
        Cursor(str(path), Position(None))
    assert [each.name for each in tmp_path.iterdir()] == ["cursor"]
    assert not Path("/dev/null.lock").exists()


# The example.


def test_the_paced_job_of_the_readme_runs_as_it_stands_there(
    running: Running, tmp_path: Path
) -> None:
    (lines, shown) = re.search(r"```sh\n(printf [^`]*)```\n\n```text\n([^`]*)```", README).groups()  # type: ignore[union-attr]
    (tmp_path / "sanic-app").write_text(f'#!/bin/sh\nexec {sys.executable} -m sanic_app "$@"\n')
    (tmp_path / "sanic-app").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SANIC_APP_URL": running.url}
    running.add(5)
    with subprocess.Popen(
        ["sh", "-e", "-c", lines.replace(" 2\\n", " 0.2\\n")],
        cwd=tmp_path,
        env={**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in shown.splitlines()]
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    no_time = re.compile(r"[0-9:]{8}")
    assert no_time.sub("", "".join(told)) == no_time.sub("", shown)
