"""What listeners to the events cost those who add."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench import servers
from tests.bench.adds import LONG_WAIT, MANY
from tests.bench.bench import Bench
from tests.bench.client import Client, add
from tests.bench.figures import Line, rate, ratios, seconds, spread, times, times_of
from tests.bench.fill import fill
from tests.bench.servers import Server
from tests.bench.wrk import load

LISTENERS, SHARE = 100, 0.8
CROWD = 1_000
RESUMING, HISTORY = 50, 300_000
SLOWER_MAX = 2.0
BEGINNING = "0.0"


def listened(bench: Bench) -> list[Line]:
    """Measure adds at many connections and at one, with few listeners, with many, and in a rush."""
    history = min(HISTORY, bench.scale.depth)
    with bench.room("listened") as folder:
        fill(folder / "queue.db", results=history)
        with servers.service(folder) as server:
            load(server.port, MANY, 1)
            return [
                _rates(bench, server),
                _one(bench, server, f"{CROWD:,} live listeners", CROWD),
                _one(bench, server, f"{RESUMING} that resume {history:,}", RESUMING, BEGINNING),
            ]


def _rates(bench: Bench, server: Server) -> Line:
    without, heard = [], []
    for _ in range(bench.scale.repetitions):
        without.append(load(server.port, MANY, bench.scale.load_seconds).rate)
        with _listeners(server, LISTENERS):
            heard.append(load(server.port, MANY, bench.scale.load_seconds).rate)
    ratio = ratios(heard, without)
    return Line(
        f"adds, {MANY} connections, with {LISTENERS} listeners, by those without",
        f"≥ {SHARE} x",
        f"{times(spread(ratio).median)} ({rate(statistics.median(heard))})",
        times_of(ratio),
        spread(ratio).median >= SHARE,
    )


def _one(bench: Bench, server: Server, who: str, count: int, after: str = "") -> Line:
    without, heard = [], []
    with Client(server.port) as client:

        def median() -> float:
            return statistics.median(client.timed_for(bench.scale.load_seconds, add(LONG_WAIT)))

        for _ in range(bench.scale.repetitions):
            without.append(median())
            with _listeners(server, count, after):
                heard.append(median())
    ratio = ratios(heard, without)
    return Line(
        f"one connection, time for an add with {who}, by that without",
        f"≤ {SLOWER_MAX:.0f} x",
        f"{times(spread(ratio).median)} ({seconds(statistics.median(heard))})",
        times_of(ratio),
        spread(ratio).median <= SLOWER_MAX,
    )


@contextmanager
def _listeners(server: Server, count: int, after: str = "") -> Iterator[None]:
    """Have so many listen, from now on or from behind an event: those catch up meanwhile."""
    command = [sys.executable, "-m", "tests.bench.listeners", str(server.port), str(count), after]
    process = subprocess.Popen(
        command, cwd=servers.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
        assert process.poll() is None, "a listener was cut"
    finally:
        process.communicate()
