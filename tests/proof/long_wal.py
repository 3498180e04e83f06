"""The WAL: many tasks through the queue while hostile readers stop in the midst of whole lists."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, resident_bytes, service, wal_bytes
from tests.proof.slow_clients import fill_results
from tests.proof.tables import contradictions
from tests.running import Running

MEBIBYTE = 2**20
WAL_BYTES = 64 * MEBIBYTE
FLAT_BYTES = 48 * MEBIBYTE
"""What buffers of the connections and caches of SQLite may take once they are warm."""
READERS = 8
CONNECTIONS = 64
ROWS = 150_000
MINUTES = 15
SCRIPT = """
wrk.method = "POST"
wrk.path = "/add_task"
wrk.body = '{"num": 7, "timeout": 0}'
wrk.headers["Content-Type"] = "application/json"
"""


def long_wal(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Add and finish without a pause; watch the WAL and the memory."""
    wanted = scale.pick(50_000, 1_000_000)
    run = _Run()
    run.go(folder, wanted)
    control = _Run()
    control.go(folder, 400_000, pinned=True)
    broken = list(run.wrong)
    if run.wal >= WAL_BYTES:
        broken.append(f"the WAL grew to {run.wal / MEBIBYTE:.0f} MiB")
    if run.grown > FLAT_BYTES:
        broken.append(f"memory grew by {run.grown / MEBIBYTE:.0f} MiB")
    return Outcome(
        promise="the WAL stays under 64 MiB and memory flat, whatever readers do",
        fault=f"{READERS} clients that stop reading in the midst of whole lists, again and again",
        tried=run.done,
        lost=len(broken),
        control="an unfinished cursor of another program pins the WAL:"
        f" {control.wal / MEBIBYTE:.0f} MiB after {control.done:,} tasks",
        broken=tuple(broken),
        missed=() if control.wal >= WAL_BYTES else ("the WAL stayed as short",),
        notes=f"{run.done:,} tasks done, {run.stalled} stalled readers, WAL at most"
        f" {run.wal / MEBIBYTE:.1f} MiB, memory {run.grown / MEBIBYTE:+.1f} MiB",
    )


class _Run:
    """One service under load, and what was seen of it."""

    def __init__(self) -> None:
        self.wal = self.grown = self.done = self.stalled = 0
        self.wrong: list[str] = []

    def go(self, parent: Path, wanted: int, *, pinned: bool = False) -> None:
        """Put so many tasks through the queue of a new service."""
        with emptied(parent) as folder:
            fill_results(folder, ROWS)
            (folder / "add.lua").write_text(SCRIPT, encoding="ascii")
            over = threading.Event()
            with service(folder) as running:
                pin = _pinned(folder / DATABASE) if pinned else nullcontext()
                readers = [
                    threading.Thread(target=self._stall, args=(running.port, over, number))
                    for number in range(READERS)
                ]
                with pin:
                    for reader in readers:
                        reader.start()
                    try:
                        self._load(running, folder, wanted, pinned)
                    finally:
                        over.set()
                        for reader in readers:
                            reader.join(30)
                if not pinned and not self.wrong:
                    self.wrong += self._whole(running)
            if not pinned:
                self.wrong += contradictions(folder / DATABASE)

    def _load(self, running: Running, folder: Path, wanted: int, pinned: bool) -> None:
        warm = 0
        deadline = time.monotonic() + MINUTES * 60
        command = (
            *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{MINUTES * 60}s"),
            *("-s", str(folder / "add.lua"), running.url),
        )
        program = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while self.done < wanted and time.monotonic() < deadline:
                time.sleep(0.1)
                self.wal = max(self.wal, wal_bytes(folder))
                self.done = _figure(running, "tasks_finished_total")
                if pinned and self.wal >= WAL_BYTES:
                    break
                memory = resident_bytes(running)
                if self.done > wanted // 5 and not warm:
                    warm = memory
                self.grown = max(self.grown, memory - warm) if warm else 0
                if running.process.poll() is not None or program.poll() is not None:
                    self.wrong.append("the service or its load ended")
                    break
            else:
                if self.done < wanted:
                    self.wrong.append(f"only {self.done:,} tasks in {MINUTES} minutes")
        finally:
            program.kill()
            program.wait()
        self.done = _figure(running, "tasks_finished_total")

    def _whole(self, running: Running) -> list[str]:
        """Look at the list once nothing changes: the load's last requests outlive the load."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            before = _figure(running, "tasks_added_total")
            found = len(running.result()) - ROWS
            self.done = _figure(running, "tasks_finished_total")
            if before == self.done == _figure(running, "tasks_added_total"):
                return [] if found == before else [f"{found:,} results of {before:,} tasks"]
            time.sleep(0.05)
        return ["the queue did not become idle"]

    def _stall(self, port: int, over: threading.Event, number: int) -> None:
        """Ask for a whole list, read a little of it, and stop until the service cuts it."""
        while not over.is_set():
            with suppress(OSError), socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                sock.settimeout(5)
                sock.connect(("127.0.0.1", port))
                path = "/get_result" if number % 2 else "/get_queue_work"
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                sock.recv(1_000)
                self.stalled += 1
                over.wait(3 + number)


def _figure(running: Running, name: str) -> int:
    text: str = running.request("GET", "/metrics")[1]
    lines = [line for line in text.splitlines() if line.startswith(f"sanic_app_{name}")]
    return int(sum(float(line.split()[1]) for line in lines))


@contextmanager
def _pinned(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        cursor = connection.execute("SELECT num FROM history")
        cursor.fetchone()
        yield
