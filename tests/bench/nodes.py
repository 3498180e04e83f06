"""Several nodes on PostgreSQL, beside the same service on SQLite; the server is one of our own."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg

from tests import postgres
from tests.bench.adds import LONG_WAIT, MANY
from tests.bench.bench import Bench
from tests.bench.client import Client, add
from tests.bench.figures import Line, rate, rates_of, ratios, seconds, spread, times, times_of
from tests.bench.servers import Server, service
from tests.bench.wrk import load

NODES = 3
SHARE, GAIN, OLD = 0.7, 1.2, 1.5
LONE = 200
"""Adds of one connection, one after the other."""
AGEING = 10
"""For so many repetitions' time commits go on while the old snapshot is held."""


def nodes(bench: Bench) -> list[Line]:
    """Measure adds on SQLite, and on one, two and three nodes of one queue on PostgreSQL."""
    with bench.room("nodes") as folder, ExitStack() as stack:
        cluster = stack.enter_context(closing(_Cluster(bench.folder)))
        sqlite = stack.enter_context(service(folder, "ours.db"))
        found = [stack.enter_context(_node(folder, cluster.url())) for _ in range(NODES)]
        load(sqlite.port, MANY, 1)
        _load(found, 1)
        rates: dict[str, list[float]] = defaultdict(list)
        for _ in range(bench.scale.repetitions):
            bench.disk.sync()
            rates["SQLite"].append(load(sqlite.port, MANY, bench.scale.load_seconds).rate)
            for number in range(1, NODES + 1):
                rate_of = _load(found[:number], bench.scale.load_seconds)
                rates[f"PostgreSQL, {_count(number)}"].append(rate_of)
        lines = _compared(rates)
        return [*lines, _aged(bench, cluster, found[0])]


def _compared(rates: dict[str, list[float]]) -> list[Line]:
    one = rates[f"PostgreSQL, {_count(1)}"]
    share = ratios(one, rates["SQLite"])
    gain = ratios(rates[f"PostgreSQL, {_count(2)}"], one)
    return [
        Line(
            f"adds on one node of PostgreSQL by SQLite, {MANY} connections",
            f"≥ {times(SHARE)}",
            times(spread(share).median),
            times_of(share),
            spread(share).median >= SHARE,
        ),
        Line(
            "two nodes by one, on the processors of one machine",
            f"≥ {times(GAIN)}",
            times(spread(gain).median),
            times_of(gain),
            spread(gain).median >= GAIN,
        ),
        *(
            Line(f"adds: {name}", "", rate(statistics.median(each)), rates_of(each))
            for name, each in rates.items()
        ),
    ]


def _aged(bench: Bench, cluster: _Cluster, node: Server) -> Line:
    """Measure a lone add with an old snapshot held open, as by a dump, by one without."""
    fresh, aged = [], []
    with psycopg.connect(cluster.url()) as dump:
        fresh.append(_lone(node))
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT 1 FROM sanic_app.state")
        end = time.monotonic() + AGEING * bench.scale.load_seconds
        while time.monotonic() < end:
            load(node.port, MANY, bench.scale.load_seconds)
            aged.append(_lone(node))
    ratio = [each / fresh[0] for each in aged]
    return Line(
        "a lone add with an old snapshot held open, by one without",
        f"≤ {times(OLD)}",
        f"{times(ratio[-1])} ({seconds(aged[-1])})",
        times_of(ratio),
        ratio[-1] <= OLD,
    )


def _lone(node: Server) -> float:
    request = add(LONG_WAIT)
    taken = []
    with Client(node.port) as client:
        for _ in range(LONE):
            begun = time.perf_counter()
            client.ask(request)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _load(found: Sequence[Server], duration: float) -> float:
    """Return the adds in a second of all nodes together, at 64 connections in total."""
    with ThreadPoolExecutor(len(found)) as pool:
        share = MANY // len(found)
        results = pool.map(lambda node: load(node.port, share, duration), found)
        return sum(result.rate for result in results)


def _node(folder: Path, url: str) -> Server:
    return Server(folder, [sys.executable, "-m", "sanic_app", "--port", "0", "--database", url])


def _count(number: int) -> str:
    return f"{number} node{'s' if number > 1 else ''}"


class _Cluster(postgres.Cluster):
    """A server on the measured disk."""

    def __init__(self, folder: Path) -> None:
        # Beside the folder of the bench, which only its own user may enter.
        super().__init__(parent=folder.parent)
        self.make()
        self.start()

    def close(self) -> None:
        self.remove()
