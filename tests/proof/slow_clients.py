"""Slow clients: bytes one at a time, answers never read; and no descriptors left."""

from __future__ import annotations

import asyncio
import http.client
import socket
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sanic_app.clock import SystemClock
from sanic_app.store import Add, Finish
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import NewTask
from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, service
from tests.running import Running

CONNECTIONS = 500
SECONDS = 20.0
HEALTH_SECONDS = 1.0
ROWS = 150_000
"""Rows of the result list, so long that its answer fits no buffer."""
DESCRIPTORS = 100
RESUMED_SECONDS = 2.0


def slow_clients(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Hold many slow connections while health is asked; then take all descriptors."""
    rounds = scale.pick(1, 5)
    broken: list[str] = []
    p99 = last = resumed = 0.0
    control: list[str] = []
    for number in range(rounds):
        # The service that waits for ever is slow at the same time: neither does anything.
        patient = threading.Thread(target=lambda: control.extend(_hold(folder, 30, True).wrong))
        if number == 0:
            patient.start()
        slow = _hold(folder, CONNECTIONS)
        broken += slow.wrong
        p99, last = max(p99, slow.p99), max(last, slow.last)
        if number == 0:
            patient.join()
        seconds, wrong = _exhaust(folder)
        resumed = max(resumed, seconds)
        broken += wrong
    missed = () if any("not closed" in line for line in control) else ("it closed them too",)
    return Outcome(
        promise="slow clients are cut within 20 s and harm nobody; descriptors come back to use",
        fault=f"{CONNECTIONS} connections: a header or a body a byte at a time, an answer never"
        f" read; all of {DESCRIPTORS} descriptors taken",
        tried=rounds * (CONNECTIONS + 1),
        lost=len(broken),
        control=f"a service without deadlines: {'; '.join(control)[:120]}",
        broken=tuple(broken),
        missed=missed,
        notes=f"the last was cut after {last:.1f} s, health p99 {p99 * 1_000:.0f} ms, serving"
        f" resumed {resumed:.2f} s after descriptors were free",
    )


@dataclass(slots=True)
class Held:
    """What became of the slow connections."""

    wrong: list[str] = field(default_factory=list)
    last: float = 0.0
    p99: float = 0.0


def _hold(parent: Path, count: int, patient: bool = False) -> Held:
    held = Held()
    with emptied(parent) as folder:
        fill_results(folder, ROWS)
        with service(folder, changes=("patient",) if patient else ()) as running:
            over = threading.Event()
            times: list[float] = []
            health = threading.Thread(target=_ask_health, args=(running.port, over, times))
            health.start()
            try:
                left, held.last = _drip(running, count)
            finally:
                over.set()
                health.join()
            if left:
                held.wrong.append(f"{left} of {count} not closed after {SECONDS:.0f} s")
            if running.process.poll() is not None:
                held.wrong.append("the service ended")
    held.p99 = statistics.quantiles(times, n=100)[98] if len(times) > 1 else 60.0
    if held.p99 > HEALTH_SECONDS or max(times) == 60.0:
        held.wrong.append(f"health p99 {held.p99:.2f} s")
    return held


def _ask_health(port: int, over: threading.Event, times: list[float]) -> None:
    while not over.is_set():
        begun = time.monotonic()
        try:
            ask(port, "/health/ready")
            times.append(time.monotonic() - begun)
        except (OSError, http.client.HTTPException):
            times.append(60.0)
        over.wait(0.05)


def ask(port: int, path: str) -> int:
    """Ask over a new connection; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _drip(running: Running, count: int) -> tuple[int, float]:
    """Hold connections of three kinds; return how many outlived the limit, and the last's end.

    Counted are the service's own descriptors: who never reads does not learn of the end.
    """
    before = _sockets(running)
    held = [_slow(running.port, number % 3) for number in range(count)]
    begun = time.monotonic()
    left, last = count, 0.0
    while time.monotonic() - begun < SECONDS:
        for number, sock in enumerate(held):
            with suppress(OSError):
                sock.send(DRIPS[number % 3])
        time.sleep(0.5)
        # The one that asks for health comes and goes.
        open_ = max(_sockets(running) - before - 1, 0)
        if open_ < left:
            left, last = open_, time.monotonic() - begun
        if not left:
            break
    for sock in held:
        sock.close()
    return left, last


def _slow(port: int, kind: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(STARTS[kind])
    sock.setblocking(False)
    return sock


def _sockets(running: Running) -> int:
    folder = Path(f"/proc/{running.process.pid}/fd")
    count = 0
    for link in folder.iterdir():
        with suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count


STARTS = (
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    b"POST /add_task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n{",
    b"GET /get_result HTTP/1.1\r\nHost: localhost\r\n\r\n",
)
DRIPS = (b"x", b" ", b"")


def _exhaust(parent: Path) -> tuple[float, list[str]]:
    """Take every descriptor for longer than a task waits; then let go."""
    wrong: list[str] = []
    prefix = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    with emptied(parent) as folder, service(folder, prefix=prefix) as running:
        first = running.add(1, 1.0)
        running.add(2, 0)
        held = [_connected(running.port) for _ in range(2 * DESCRIPTORS)]
        time.sleep(0.3)
        if _served(running, 0.3):
            wrong.append("the descriptors were not exhausted: this proves nothing")
        time.sleep(1.2)
        for sock in held:
            sock.close()
        begun = time.monotonic()
        while not _served(running, RESUMED_SECONDS) and time.monotonic() - begun < 10:
            time.sleep(0.02)
        resumed = time.monotonic() - begun
        if resumed > RESUMED_SECONDS:
            wrong.append(f"serving resumed only after {resumed:.1f} s")
        task = running.request("GET", f"/api/v1/tasks/{first['history_num']}")[1]
        text = running.request("GET", "/metrics")[1]
        late = [line for line in text.splitlines() if line.startswith(LATENESS)]
        if running.result() != [1, 2] or float(late[0].split()[1]) > 0.5:
            wrong.append(f"the worker did not go on: {task} {late}")
    return resumed, wrong


LATENESS = "sanic_app_task_lateness_seconds_sum"


def _connected(port: int) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(2)
    with suppress(OSError):
        sock.connect(("127.0.0.1", port))
    return sock


def _served(running: Running, seconds: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=seconds)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def fill_results(folder: Path, count: int) -> None:
    """Let the store itself finish so many tasks, with numbers as long as they get."""
    asyncio.run(_fill_results(folder / DATABASE, count))


async def _fill_results(database: Path, count: int) -> None:
    store = SqliteStore(database, SystemClock(), 0)
    lease = await store.own()
    await store.open(lease)
    tasks = [NewTask(2**63 - 1, 0)] * 1_000
    for number in range(0, count, len(tasks)):
        await store.commit(lease, [Add(tasks), Finish(number + 1)])
        await store.maintain(lease)
    await store.close()
    lease.release()
