"""Several nodes on one PostgreSQL server: started, killed, stopped, and read afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import IsolationLevel

from tests.postgres import Cluster
from tests.proof.checker import Verdict, check
from tests.proof.history import History, Row, Snapshot
from tests.proof.load import Target, load, next_port
from tests.proof.service import service
from tests.running import Running

SCHEMA = "sanic_app"
WAITS: Sequence[float] = (*(0.0,) * 60, 0.003, 0.15)
PAUSE = 0.01
"""Seconds between two adds of a client, so that the queue is short and heads are many."""
TAKEN_OVER = 0.2
"""A head that was so late was left to its keeper first."""


class Place(NamedTuple):
    """Where a node runs: what is put before its command, and its address."""

    prefix: Sequence[str] = ()
    host: str = "127.0.0.1"


class Nodes:
    """The nodes of one queue; each client speaks to one of them through its target."""

    def __init__(
        self,
        folder: Path,
        urls: Sequence[str],
        changes: Sequence[str] = (),
        places: Sequence[Place] = (),
        **environ: str,
    ) -> None:
        """Start a node for each URL, all at the same time."""
        self._folder = folder
        self._urls = urls
        self._changes = changes
        self._environ = {f"SANIC_APP_{name}": value for name, value in environ.items()}
        self.releases: list[Mapping[str, str]] = [{} for _ in urls]
        """What of the environment decides which code a node runs."""
        self.places = places or [Place() for _ in urls]
        self.targets = [Target() for _ in urls]
        self._killed: set[int] = set()
        self.ended: list[str] = []
        """The last line of each node that ended by itself."""
        with ThreadPoolExecutor() as pool:
            self.running = list(pool.map(self._start, range(len(urls))))

    def _start(self, number: int) -> Running:
        running = service(
            self._folder,
            *("-D", self._urls[number], "-H", self.places[number].host),
            changes=self._changes,
            prefix=self.places[number].prefix,
            environ={"SANIC_APP_LOGGER_LEVEL": "INFO", **self._environ, **self.releases[number]},
        )
        running.host = self.targets[number].host = self.places[number].host
        next_port(self.targets[number], running.port)
        return running

    def kill(self, number: int) -> None:
        """Kill a node."""
        self.targets[number].up.clear()
        self._killed.add(number)
        self.running[number].kill()

    def restart(self, number: int) -> None:
        """Start a killed node anew, and return when it serves."""
        self.running[number] = self._start(number)
        self._killed.discard(number)

    def revive(self) -> None:
        """Start what has ended by itself, as a supervisor does."""
        for number, running in enumerate(self.running):
            if number not in self._killed and running.process.poll() is not None:
                self.ended.append(running.lines[-2] if len(running.lines) > 1 else running.log)
                self.targets[number].up.clear()
                running.wait()
                self.restart(number)

    @contextmanager
    def stopped(self, number: int) -> Iterator[None]:
        """Stop a node, and let it go on."""
        self.running[number].signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.running[number].signal(signal.SIGCONT)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over the nodes that answer."""
        wanted = "".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"sanic_app_{name}{{{wanted}}} " if labels else f"sanic_app_{name} "
        total = 0.0
        for running in self.running:
            with suppress(OSError):
                text = running.request("GET", "/metrics")[1]
                total += sum(
                    float(line.rpartition(" ")[2])
                    for line in text.splitlines()
                    if line.startswith(wanted)
                )
        return total

    def drained(self, seconds: float = 30.0) -> bool:
        """Wait until the queue is empty; return whether it got so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.revive()
            with suppress(OSError, KeyError, TypeError):
                if self.running[0].request("GET", "/api/v1/queue")[1]["depth"] == 0:
                    return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        """Kill every node."""
        for running in self.running:
            if running.process.poll() is None:
                running.signal(signal.SIGCONT)
                running.kill()


@contextmanager
def cluster(*settings: str) -> Iterator[Cluster]:
    """Give a server of its own."""
    made = Cluster(settings)
    try:
        made.make()
        made.start()
        yield made
    finally:
        made.remove()


@contextmanager
def loaded(nodes: Nodes, history: History, seed: int) -> Iterator[None]:
    """Let clients of each node add, steer and read; observers ask each node in turn."""
    first, *others = nodes.targets
    with load(
        first,
        history,
        seed,
        others=others,
        waits=WAITS,
        pause=PAUSE,
        steered=True,
        adders=len(nodes.targets),
    ):
        yield


def judged(url: str, history: History, finishes: int) -> tuple[Verdict, list[str], list[float]]:
    """Return the verdict, contradictions in the tables, and how late taken over heads were."""
    rows, wrong = snapshot(url)
    late = sorted(
        seconds
        for row in rows.history
        if row.outcome == "done" and (seconds := lateness(row)) > TAKEN_OVER
    )
    return check(history, rows, finishes=finishes), wrong, late


def lateness(row: Row) -> float:
    """Return how long after its deadline a task was finished, by the store's own time."""
    return ((row.finished_at or 0) - (row.started_at or 0) - row.timeout) / 1_000_000


def share(values: Sequence[float], part: float) -> float:
    """Return the value that this part of all sorted values does not exceed; 0 without any."""
    return values[min(int(len(values) * part), len(values) - 1)] if values else 0.0


def snapshot(url: str) -> tuple[Snapshot, list[str]]:
    """Return every row as of one moment, and where the state row says something else."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.execute(f"SET search_path TO {SCHEMA}")
        queue = connection.execute(
            "SELECT history_num, num, timeout, created_at,"
            " CASE WHEN history_num = head THEN head_started_at END FROM queue, state"
        ).fetchall()
        history = connection.execute(
            "SELECT history_num, num, timeout, created_at, started_at, finished_at,"
            " finish_num, outcome FROM history"
        ).fetchall()
        ((states, *state),) = connection.execute(
            "SELECT count(*), max(last_history_num), max(last_finish_num), max(depth),"
            " max(backlog)::bigint, max(head) FROM state"
        ).fetchall()
    numbers = [row[0] for row in queue]
    counted = [
        len(queue) + len(history),
        len(history),
        len(queue),
        sum(row[2] for row in queue),
        min(numbers, default=None),
    ]
    wrong = [] if states == 1 else [f"there are {states} state rows"]
    if counted != state:
        wrong.append(f"the state row says {state}, the tables say {counted}")
    return Snapshot(tuple(Row(*row) for row in queue), tuple(Row(*row) for row in history)), wrong


def freeze(pids: Sequence[int]) -> None:
    """Stop these processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def thaw(pids: Sequence[int]) -> None:
    """Let them go on."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
