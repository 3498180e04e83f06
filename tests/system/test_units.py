"""The units, installed as their first lines say, on a machine that systemd has booted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.booted import Machine

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PROGRAM = "/opt/sanic-app/bin/sanic-app"
PROCESS = {
    *("process_cpu_seconds_total", "process_open_fds", "process_max_fds"),
    *("process_resident_memory_bytes", "process_virtual_memory_bytes"),
    "process_start_time_seconds",
}


def steps(unit: str, which: int) -> list[str]:
    """Return the shell's lines in the first comment of a unit, of the block of this number."""
    head = (ROOT / "deploy" / unit).read_text(encoding="utf-8").partition("\n[Unit]")[0]
    blocks = re.findall(r"(?:^#     .*\n)+", head, re.MULTILINE)
    return [line.removeprefix("#     ") for line in blocks[which].splitlines()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine") / "root")
    wheel = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*wheel, str(made.path("/src"))], check=True, cwd=ROOT, capture_output=True)
    shutil.copy(ROOT / "requirements.txt", made.path("/src"))
    shutil.copytree(ROOT / "deploy", made.path("/src/deploy"))
    *install, start = steps("sanic-app.service", 0)
    made.prepare("sh", "-euc", "\n".join(install))
    with made:
        yield made
        assert start == "systemctl daemon-reload && systemctl enable --now sanic-app"


@pytest.fixture(autouse=True)
def _nothing_left(machine: Machine) -> Iterator[None]:
    """Leave no service, no data and no settings of a test to the next one."""
    yield
    machine.run("systemctl", "stop", "sanic-app*", "--all")
    machine.run("systemctl", "reset-failed")
    for pattern in ("/run/systemd/system/*", "/etc/sanic-app/*", "/var/lib/private/*"):
        machine.shell(f"rm -rf {pattern}")
    machine.shell("find /var/lib -maxdepth 1 -name 'sanic-app*' -exec rm -rf {} +")
    machine.run("systemctl", "daemon-reload")


def settle(machine: Machine, unit: str = "sanic-app.service", **settings: str) -> None:
    """Add settings of systemd to a unit until the end of the test."""
    folder = f"/run/systemd/system/{unit}.d"
    lines = "\n".join(f"{name}={value}" for name, value in settings.items())
    section = "Timer" if unit.endswith(".timer") else "Service"
    machine.shell(f"mkdir -p {folder}; printf '[{section}]\n{lines}\n' > {folder}/test.conf")
    machine.run("systemctl", "daemon-reload")


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(machine: Machine, unit: str = "sanic-app") -> None:
    """Return when systemd says that the unit has started: with ``Type=notify`` it serves then."""
    machine.run("systemctl", "start", unit)


def restarted(machine: Machine, before: str, unit: str = "sanic-app") -> None:
    """Return when systemd has started another process and counts it as active."""
    until(
        lambda: (
            machine.show(unit, "MainPID") not in (before, "0")
            and machine.show(unit, "ActiveState") == "active"
        )
    )


def test_the_unit_is_started_when_it_serves_and_has_every_metric(machine: Machine) -> None:
    machine.shell(steps("sanic-app.service", 0)[-1])
    assert machine.ask("/health/ready")["status"] == "ready"
    status = machine.run("systemctl", "status", "sanic-app")
    assert "Active: active (running)" in status
    assert "enabled" in status
    assert machine.ask("/add_task", {"num": 5, "timeout": 0})["history_num"] == 1
    families = set(re.findall(r"^# TYPE (\S+)", machine.ask("/metrics"), re.MULTILINE))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(sanic_app_\w+)` \|", readme, re.MULTILINE))
    assert listed
    assert listed | PROCESS <= families
    machine.run("systemctl", "disable", "sanic-app")


def test_the_process_is_nobody_and_its_data_is_its_own(machine: Machine) -> None:
    start(machine)
    process = f"/proc/{machine.show('sanic-app', 'MainPID')}"
    uid = machine.run("stat", "--format=%u", process)
    # systemd's range of dynamic users.
    assert 61184 <= int(uid) <= 65519
    state = machine.run("stat", "--format=%u %a", "/var/lib/private/sanic-app")
    assert state == f"{uid} 700"
    assert machine.run("stat", "--format=%u %a", "/var/lib/sanic-app/queue.db") == f"{uid} 600"
    status = machine.run("cat", f"{process}/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    limits = machine.run("cat", f"{process}/limits")
    # A container may not have as many as the unit asks for: the service takes what it gets.
    assert re.search(r"^Max open files\s+(\d+)\s+\1 ", limits, re.MULTILINE)


def test_after_a_kill_it_is_started_again_with_its_queue(machine: Machine) -> None:
    start(machine)
    machine.ask("/add_task", {"num": 5, "timeout": 600})
    before = machine.show("sanic-app", "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", "sanic-app")
    restarted(machine, before)
    (task,) = machine.ask("/get_queue_work")["tasks"]
    assert task["num"] == 5
    assert machine.show("sanic-app", "NRestarts") == "1"


def test_after_exit_status_70_it_is_started_again(machine: Machine) -> None:
    start(machine)
    before = machine.show("sanic-app", "MainPID")
    machine.run("rm", "/var/lib/sanic-app/queue.db")
    restarted(machine, before)
    assert "code=exited, status=70" in machine.log("sanic-app")


def test_a_process_that_stands_still_is_killed_and_started_again(machine: Machine) -> None:
    # Not 30, so that the test is short.
    settle(machine, WatchdogSec="2")
    start(machine)
    before = machine.show("sanic-app", "MainPID")
    # It is fed: nothing happens in twice the time.
    time.sleep(4)
    assert machine.show("sanic-app", "MainPID") == before
    machine.run("systemctl", "kill", "--signal=STOP", "sanic-app")
    restarted(machine, before)
    assert "Watchdog timeout" in machine.log("sanic-app")


def test_a_bad_setting_is_said_once_and_not_tried_again(machine: Machine) -> None:
    machine.shell("echo 'PORT: 70000' > /etc/sanic-app/config_app.yaml")
    done = machine.execute("systemctl", "start", "sanic-app", check=False)
    assert done.returncode == 1
    # Restart= would have acted after a second.
    time.sleep(2.5)
    assert machine.show("sanic-app", "ActiveState") == "failed"
    assert machine.show("sanic-app", "NRestarts") == "0"
    assert machine.show("sanic-app", "ExecMainStatus") == "2"
    assert "config_app.yaml" in machine.log("sanic-app")


def test_a_stop_is_in_order_and_within_its_time(machine: Machine) -> None:
    start(machine)
    machine.ask("/add_task", {"num": 5, "timeout": 600})
    began = time.monotonic()
    machine.run("systemctl", "stop", "sanic-app")
    assert time.monotonic() - began < 5
    assert machine.show("sanic-app", "Result") == "success"
    assert machine.show("sanic-app", "ExecMainStatus") == "0"
    start(machine)
    assert len(machine.ask("/get_queue_work")["tasks"]) == 1


def test_a_stop_delay_beyond_the_time_for_stops_is_waited_for(machine: Machine) -> None:
    """The service asks systemd for more time when a stop begins."""
    settle(machine, Environment="SANIC_APP_STOP_DELAY=4", TimeoutStopSec="1")
    start(machine)
    began = time.monotonic()
    machine.run("systemctl", "stop", "sanic-app")
    assert time.monotonic() - began > 4
    assert machine.show("sanic-app", "Result") == "success"
    assert machine.show("sanic-app", "ExecMainStatus") == "0"


def test_a_token_that_only_root_can_read_is_handed_to_the_service(machine: Machine) -> None:
    """With the lines that stand in the unit as comments."""
    unit = (ROOT / "deploy/sanic-app.service").read_text(encoding="utf-8")
    commented = re.findall(r"^#(LoadCredential|Environment)=(.*)$", unit, re.MULTILINE)
    settle(machine, **{name: value.replace("%", "%%") for name, value in commented})
    machine.shell("umask 077; echo of-this-test > /etc/sanic-app/api-token")
    start(machine)
    url = "http://127.0.0.1:8000/get_result"
    assert machine.execute("curl", "--fail", "--silent", url, check=False).returncode == 22
    machine.run("curl", "--fail", "--silent", "--oauth2-bearer", "of-this-test", url)


def test_the_backup_unit_copies_a_running_queue_and_restores_it(machine: Machine) -> None:
    machine.shell("\n".join(steps("sanic-app-backup.service", 0)[:1]))
    machine.run("systemctl", "daemon-reload")
    start(machine)
    machine.ask("/add_task", {"num": 5, "timeout": 600})
    machine.run("systemctl", "start", "sanic-app-backup")
    assert machine.show("sanic-app-backup", "Result") == "success"
    (backup,) = machine.shell("ls /var/lib/sanic-app-backup/*.db").split()
    machine.run(PROGRAM, "check", backup)
    machine.ask("/add_task", {"num": 6, "timeout": 0})
    restore = "\n".join(steps("sanic-app-backup.service", 1))
    machine.shell(restore.replace("/var/lib/sanic-app-backup/queue-....db", backup))
    assert [task["num"] for task in machine.ask("/get_queue_work")["tasks"]] == [5]
    assert machine.ask("/add_task", {"num": 7, "timeout": 0})["history_num"] == 2


def test_the_timer_starts_a_backup(machine: Machine) -> None:
    *_, enable = steps("sanic-app-backup.service", 0)
    machine.shell("\n".join(steps("sanic-app-backup.service", 0)[:1]))
    # Each night, but in this test at once.
    settle(
        machine,
        "sanic-app-backup.timer",
        OnActiveSec="1ms",
        RandomizedDelaySec="0",
        AccuracySec="1ms",
    )
    start(machine)
    machine.shell(enable)
    until(lambda: bool(machine.shell("ls /var/lib/sanic-app-backup 2>/dev/null || true")))
    assert "sanic-app-backup.timer" in machine.run("systemctl", "list-timers")
    machine.run("systemctl", "disable", "--now", "sanic-app-backup.timer")


def test_several_queues_live_on_one_machine(machine: Machine) -> None:
    """Beside the single one too, in any order of starts."""
    copy, port, enable = steps("sanic-app@.service", 0)
    machine.shell(f"{copy}\n{port.partition('      #')[0]}\n{enable}")
    machine.shell("echo SANIC_APP_PORT=8002 > /etc/sanic-app/backup.env")
    ports = {"sanic-app": 8000, "sanic-app@orders": 8001, "sanic-app@backup": 8002}
    for unit, number in ports.items():
        start(machine, unit)
        machine.ask("/add_task", {"num": number, "timeout": 600}, number)
    for order in (list(ports), list(ports)[::-1]):
        machine.run("systemctl", "stop", *ports)
        for unit in order:
            start(machine, unit)
        for number in ports.values():
            tasks = machine.ask("/get_queue_work", port=number)["tasks"]
            assert [task["num"] for task in tasks] == [number]
    machine.run("systemctl", "disable", "sanic-app@orders")
