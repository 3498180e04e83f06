"""Adding: at 64 connections, at one, and between."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.bench import servers
from tests.bench.bench import Bench
from tests.bench.client import Client, add
from tests.bench.figures import (
    Line,
    rate,
    rates_of,
    ratios,
    seconds,
    seconds_of,
    spread,
    times,
    times_of,
)
from tests.bench.servers import Server
from tests.bench.wrk import load

MANY = 64
LONG_WAIT = 3_600
TURNS = 5
BATCH, BATCHERS, BATCH_RATE = 1_000, 4, 150_000

BARE = "bare handler"
OURS = "this service"
ALONE = "one commit per request"
MEMORY = "in memory, aiohttp"


@contextmanager
def _serving(bench: Bench) -> Iterator[dict[str, Server]]:
    """Start the service and its yardsticks, each with some load behind it."""
    with bench.room("adds") as folder, ExitStack() as stack:
        found = {
            BARE: servers.bare(folder),
            OURS: servers.service(folder, "ours.db"),
            ALONE: servers.changed_service(folder, "alone", "alone.db"),
        }
        if (memory := servers.in_memory(folder)) is not None:
            found[MEMORY] = memory
        else:
            bench.missing.append("the service in memory needs aiohttp: make bench-peers")
        for server in found.values():
            stack.enter_context(server)
        for server in found.values():
            load(server.port, MANY, 1)
        yield found


def many(bench: Bench) -> list[Line]:
    """Measure at 64 connections."""
    rates: dict[str, list[float]] = defaultdict(list)
    tails: dict[str, list[float]] = defaultdict(list)
    syncs = []
    with _serving(bench) as found:
        for _ in range(bench.scale.repetitions):
            syncs.append(bench.disk.sync())
            for name, server in found.items():
                result = load(server.port, MANY, bench.scale.load_seconds)
                rates[name].append(result.rate)
                tails[name].append(result.p99)
    bound = [MANY / (2 * sync) for sync in syncs]
    lesser = list(map(min, rates[BARE], bound))
    ratio = ratios(rates[OURS], lesser)
    gain = ratios(rates[OURS], rates[ALONE])
    wanted = [0.8 * min(5, each) for each in ratios(rates[BARE], rates[ALONE])]
    reached = statistics.median(ratios(gain, wanted)) >= 1
    for name in found:
        bench.curves[name] = [(MANY, statistics.median(rates[name]))]
    lines = [
        Line(
            "durable adds, 64 connections, by the smaller of bare and 64 / (2 x sync)",
            "≥ 0.85 x",
            f"{times(spread(ratio).median)} ({rate(statistics.median(rates[OURS]))})",
            times_of(ratio),
            spread(ratio).median >= 0.85,
        ),
        Line(
            "the same by one commit per request",
            f"≥ {times(statistics.median(wanted))}",
            times(spread(gain).median),
            times_of(gain),
            reached,
        ),
    ]
    lines += [
        Line(
            f"adds, 64 connections: {name}",
            "",
            f"{rate(statistics.median(each))}, p99 {seconds(statistics.median(tails[name]))}",
            rates_of(each),
        )
        for name, each in rates.items()
    ]
    return lines


def one(bench: Bench) -> list[Line]:
    """Measure at one connection, which waits for each answer."""
    request = add(LONG_WAIT)
    both: list[float] = []
    taken: dict[str, list[float]] = defaultdict(list)
    with _serving(bench) as found, ExitStack() as stack:
        clients = {n: stack.enter_context(Client(s.port)) for n, s in found.items()}
        # Many short turns: a disk that is slow for a while is slow for all.
        for _ in range(TURNS * bench.scale.repetitions):
            bench.disk.sync()
            each = _bare_then_sync(clients[BARE], bench, bench.scale.load_seconds / TURNS)
            both.append(statistics.median(each))
            for name, client in clients.items():
                each = client.timed_for(bench.scale.load_seconds / TURNS, request)
                taken[name].append(statistics.median(each))
    ratio = ratios(taken[OURS], both)
    lines = [
        Line(
            "one connection, time for an add, by one sync + one bare round trip",
            "≤ 1.5 x",
            f"{times(spread(ratio).median)} ({seconds(statistics.median(taken[OURS]))})",
            times_of(ratio),
            spread(ratio).median <= 1.5,
        )
    ]
    taken["bare handler, then a sync"] = both
    for name, each in taken.items():
        lines.append(
            Line(f"one connection: {name}", "", seconds(statistics.median(each)), seconds_of(each))
        )
    return lines


def _bare_then_sync(bare: Client, bench: Bench, duration: float) -> list[float]:
    """Return the seconds of one bare round trip and one sync, the one after the other.

    Like this, and not as a sum of two medians: a sync in a row of a hundred takes two thirds of
    one that comes after something else, and the service's comes after something else.
    """
    request = add(LONG_WAIT)
    taken = []
    end = time.perf_counter() + duration
    while (begun := time.perf_counter()) < end:
        bare.ask(request)
        bench.disk.once()
        taken.append(time.perf_counter() - begun)
    return taken


def between(bench: Bench) -> list[Line]:
    """Measure at other numbers of connections."""
    lines = []
    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with _serving(bench) as found:
        for _ in range((bench.scale.repetitions + 1) // 2):
            for count in bench.scale.connections:
                for name, server in found.items():
                    result = load(server.port, count, bench.scale.load_seconds / 2)
                    rates[name][count].append(result.rate)
    for name in found:
        points: dict[float, float] = dict(bench.curves.get(name, ()))
        points.update({count: statistics.median(each) for count, each in rates[name].items()})
        bench.curves[name] = sorted(points.items())
    for count in bench.scale.connections:
        ratio = ratios(rates[OURS][count], rates[BARE][count])
        lines.append(
            Line(
                f"adds, {count} connection{'s' if count > 1 else ''}, by bare",
                "",
                f"{times(spread(ratio).median)} ({rate(statistics.median(rates[OURS][count]))})",
                times_of(ratio),
            )
        )
    return lines


def batches(bench: Bench) -> list[Line]:
    """Measure tasks a second in batches of 1,000."""
    rates = []
    for _ in range(bench.scale.repetitions):
        bench.disk.sync()
        with bench.room("batches") as folder, servers.service(folder) as server:
            found = load(server.port, BATCHERS, bench.scale.load_seconds, BATCH)
            rates.append(found.rate * BATCH)
    median = statistics.median(rates)
    return [
        Line(
            f"tasks in batches of {BATCH:,}, {BATCHERS} connections",
            f"≥ {rate(BATCH_RATE)}",
            rate(median),
            rates_of(rates),
            median >= BATCH_RATE,
        )
    ]
