"""What a service manager is told, over its own socket (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sanic_app.supervisor import Supervisor
from tests.running import Running


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Listen as systemd does; yield the name of the socket, and the socket."""
    name = str(tmp_path / "notify")
    if request.param == "abstract":
        name = f"@sanic-app-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name[0] == "@" else name)
        sock.settimeout(20)
        yield name, sock


def heard(sock: socket.socket) -> str:
    return sock.recv(4_096).decode()


def test_it_is_told_of_start_life_and_stop(
    tmp_path: Path, manager: tuple[str, socket.socket]
) -> None:
    name, sock = manager
    environ = {
        "NOTIFY_SOCKET": name,
        "WATCHDOG_USEC": "300000",
        "SANIC_APP_STOP_DELAY": "0.5",
    }
    with Running(tmp_path, environ=environ, ready=False) as running:
        while (said := heard(sock)) == "WATCHDOG=1":
            pass
        assert said == "READY=1"
        running.wait_until_serving(0.5)
        assert running.request("GET", "/health/ready")[0] == 200
        assert heard(sock) == heard(sock) == "WATCHDOG=1"
        running.signal(signal.SIGSTOP)
        sock.settimeout(0.5)
        # What was sent before may still be there, and then nothing comes.
        heard_last = time.monotonic()
        with suppress(TimeoutError):
            while time.monotonic() - heard_last < 5:
                assert heard(sock) == "WATCHDOG=1"
        assert time.monotonic() - heard_last < 5
        running.signal(signal.SIGCONT)
        sock.settimeout(20)
        assert heard(sock) == "WATCHDOG=1"
        running.signal()
        while (said := heard(sock)) == "WATCHDOG=1":
            pass
        assert said == "STOPPING=1\nEXTEND_TIMEOUT_USEC=10500000"
        # The delay of a stop is no standstill.
        assert heard(sock) == "WATCHDOG=1"
        assert running.wait() == 0


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(
    tmp_path: Path, manager: tuple[str, socket.socket]
) -> None:
    name, sock = manager
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000", "WATCHDOG_PID": "1"}
    with Running(tmp_path, environ=environ) as running:
        assert heard(sock) == "READY=1"
        time.sleep(0.1)
        assert running.stop() == 0
        assert heard(sock).startswith("STOPPING=1\n")


@pytest.mark.parametrize("name", ["/nowhere/notify", "vsock:2:1234", "@", "x" * 200])
def test_a_manager_that_cannot_be_reached_is_warned_of_once(tmp_path: Path, name: str) -> None:
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000"}
    with Running(tmp_path, environ=environ) as running:
        assert running.add(1, 0)["history_num"] == 1
        assert running.stop() == 0
        assert running.log.count("the service manager cannot be told") == 1


@pytest.mark.parametrize("value", ["", "0", "-1", "x", "1.5", "\u00b2", "9" * 5_000])
def test_a_watchdog_without_a_number_of_microseconds_is_none(value: str) -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": value}
    asyncio.run(asyncio.wait_for(Supervisor(environ).feed_watchdog(), 10))
