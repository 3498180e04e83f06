"""Several nodes on PostgreSQL, beside the same service on SQLite; the server is one of our own."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests import postgres
from tests.bench.adds import MANY
from tests.bench.bench import Bench
from tests.bench.client import Client, add, get, post
from tests.bench.figures import Line, rate, rates_of, ratios, seconds, spread, times, times_of
from tests.bench.peer import Measured
from tests.bench.peers import peer
from tests.bench.servers import Server, service
from tests.bench.waits import finished, wait_until_done
from tests.bench.wrk import load

NODES = 3
SHARE, GAIN, OLD = 0.7, 1.2, 1.5
LONE = 200
"""Tasks of one client, one after the other."""
FEW = 8
"""Connections that make many commits instead of large ones."""
SINGLES = 1_000
SHORTEST = 0.000_001
"""Seconds: such tasks do not finish together."""
PEER = "procrastinate"


def nodes(bench: Bench) -> list[Line]:
    """Measure one, two and three nodes of one queue beside SQLite, and beside a peer."""
    with bench.room("nodes") as folder, _cluster(bench.folder) as cluster:
        return [
            *_adds(bench, folder, cluster),
            *_beside_the_peer(bench, folder, cluster),
            _aged(bench, folder, cluster),
        ]


def _adds(bench: Bench, folder: Path, cluster: postgres.Cluster) -> list[Line]:
    with ExitStack() as stack:
        sqlite = stack.enter_context(service(folder, "ours.db"))
        found = [stack.enter_context(_node(folder, cluster, "adds")) for _ in range(NODES)]
        load(sqlite.port, MANY, 1)
        _load(found, 1)
        rates: dict[str, list[float]] = defaultdict(list)
        for _ in range(bench.scale.repetitions):
            bench.disk.sync()
            rates["SQLite"].append(load(sqlite.port, MANY, bench.scale.load_seconds).rate)
            for number in range(1, NODES + 1):
                rate_of = _load(found[:number], bench.scale.load_seconds)
                rates[f"PostgreSQL, {_count(number)}"].append(rate_of)
    return _compared(rates)


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


def _beside_the_peer(bench: Bench, folder: Path, cluster: postgres.Cluster) -> list[Line]:
    """Measure a queue of the same promises on the same server: it, too, works one at a time."""
    ours, theirs = [], []
    for number in range((bench.scale.repetitions + 1) // 2):
        ours.append(_ours(bench, folder, cluster, f"beside_{number}"))
        cluster.execute(f"CREATE DATABASE peer_{number}")
        measured = peer(bench, PEER, folder, _url(cluster, f"peer_{number}"))
        if measured is None:
            bench.missing.append(f"{PEER} (make bench-peers installs it)")
            return []
        theirs.append(measured)
        cluster.execute(f"DROP DATABASE peer_{number} WITH (FORCE)")
    name = f"{theirs[0].version}, each job with the same lock="
    return [
        Line(f"{what}: {who}", "", rate(statistics.median(found)), rates_of(found))
        for who, each in (("one node of this service", ours), (name, theirs))
        for what, found in (
            ("put, one client", [one.put for one in each]),
            (f"put, {MANY} clients", [one.put_by_many or 0.0 for one in each]),
            ("finishes, one at a time", [one.take for one in each]),
        )
    ]


def _ours(bench: Bench, folder: Path, cluster: postgres.Cluster, schema: str) -> Measured:
    with _node(folder, cluster, schema) as node, Client(node.port) as client:
        client.parsed(
            post("/api/v1/tasks/batch", {"tasks": [{"num": 5, "timeout": SHORTEST}] * SINGLES})
        )
        wait_until_done(client, SINGLES)
        took = finished(client, SINGLES) - finished(client, 1)
        many = load(node.port, MANY, bench.scale.load_seconds).rate
        one = client.timed_for(bench.scale.load_seconds, add(3_600))
    return Measured("", len(one) / sum(one), many, (SINGLES - 1) / took)


def _aged(bench: Bench, folder: Path, cluster: postgres.Cluster) -> Line:
    """Measure commits while a snapshot is open that is many commits old, by those without.

    The older one gets, the more dead rows no vacuum may remove. What ages it is not its minutes but
    the commits since. It holds nothing back in other databases, so each has a node, and the same
    load.
    """
    for name in ("fresh", "aged"):
        cluster.execute(f"CREATE DATABASE {name}")
    urls = [_url(cluster, name) for name in ("fresh", "aged")]
    with (
        _serving(folder, urls[0]) as fresh,
        _serving(folder, urls[1]) as aged,
        psycopg.connect(urls[1]) as dump,
    ):
        dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        begun = _newest_commit(dump)
        taken: dict[Server, list[float]] = {fresh: [], aged: []}
        age = 0
        while age < bench.scale.aged:
            for node in taken:
                load(node.port, FEW, bench.scale.load_seconds, timeout=0)
            with psycopg.connect(urls[1]) as other:
                age = _newest_commit(other) - begun
        for _ in range(bench.scale.repetitions):
            for node, seconds_of_node in taken.items():
                seconds_of_node.append(_lone(node))
        # It was open all the time.
        assert _newest_commit(dump) == begun
    ratio = ratios(taken[aged], taken[fresh])
    return Line(
        f"an add and its finish with a snapshot open that is {age:,} commits old, by without",
        f"≤ {times(OLD)}",
        f"{times(spread(ratio).median)} ({seconds(statistics.median(taken[aged]))})",
        times_of(ratio),
        spread(ratio).median <= OLD,
    )


def _newest_commit(connection: psycopg.Connection) -> int:
    ((number,),) = connection.execute("SELECT max(commit_num) FROM sanic_app.state").fetchall()
    return int(number)


def _lone(node: Server) -> float:
    """Return the median of the seconds from an add to the answer that it is done."""
    request = add(0)
    taken = []
    with Client(node.port) as client:
        for _ in range(LONE):
            begun = time.perf_counter()
            number = client.parsed(request)["history_num"]
            done = client.parsed(get(f"/api/v1/tasks/{number}?wait=30"))
            taken.append(time.perf_counter() - begun)
            assert done["state"] == "done"
    return statistics.median(taken)


def _load(found: Sequence[Server], duration: float) -> float:
    """Return the adds in a second of all nodes together, at 64 connections in total."""
    with ThreadPoolExecutor(len(found)) as pool:
        share = MANY // len(found)
        results = pool.map(lambda node: load(node.port, share, duration), found)
        return sum(result.rate for result in results)


def _node(folder: Path, cluster: postgres.Cluster, schema: str) -> Server:
    return _serving(folder, f"{cluster.url()}?schema={schema}")


def _serving(folder: Path, url: str) -> Server:
    return Server(folder, [sys.executable, "-m", "sanic_app", "--port", "0", "--database", url])


def _url(cluster: postgres.Cluster, database: str) -> str:
    return cluster.url().removesuffix("postgres") + database


def _count(number: int) -> str:
    return f"{number} node{'s' if number > 1 else ''}"


@contextmanager
def _cluster(folder: Path) -> Iterator[postgres.Cluster]:
    """Give a server on the measured disk."""
    # Beside the folder of the bench, which only its own user may enter.
    cluster = postgres.Cluster(parent=folder.parent)
    try:
        cluster.make()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()
