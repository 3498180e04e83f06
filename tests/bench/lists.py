"""Whole lists: how fast they come, what they take, and who else waits meanwhile."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench import servers
from tests.bench.adds import LONG_WAIT
from tests.bench.bench import Bench
from tests.bench.client import Client, add
from tests.bench.figures import (
    Line,
    megabytes,
    percentile,
    rate,
    rates_of,
    ratios,
    seconds,
    spread,
    times,
    times_of,
)
from tests.bench.fill import fill
from tests.bench.servers import ROOT, Server

PATHS = {"results": "/get_result", "queued tasks": "/get_queue_work"}
SECONDS = 300


def lists(bench: Bench) -> list[Line]:
    """Read both lists, alone and while one client adds."""
    count = bench.scale.listed
    lines = []
    with bench.room("lists") as folder:
        fill(folder / "queue.db", results=count, waiting=count)
        with servers.service(folder) as server:
            for name, path in PATHS.items():
                lines += _alone(bench, server, name, path, count)
            lines += _meanwhile(bench, server)
    return lines


def _alone(bench: Bench, server: Server, name: str, path: str, count: int) -> list[Line]:
    server.forget_peak()
    before, _ = server.memory()
    with _reading(server, path, bench.scale.repetitions) as reader:
        found = _found(reader)
    _, peak = server.memory()
    rates = [count / taken for taken, _ in found]
    speed = statistics.median(size / taken for taken, size in found)
    return [
        Line(
            f"{count:,} {name} in one answer",
            "",
            f"{rate(statistics.median(rates))}, {speed / 1e6:.0f} MB/s",
            rates_of(rates),
        ),
        Line(
            f"memory that {count:,} {name} take while they are sent",
            "",
            megabytes(peak - before),
            f"at most {megabytes(peak)} resident",
        ),
    ]


def _meanwhile(bench: Bench, server: Server) -> list[Line]:
    request = add(LONG_WAIT)
    tails: dict[str, list[float]] = defaultdict(list)
    with Client(server.port) as client:
        client.timed_for(0.5, request)
        for _ in range(bench.scale.repetitions):
            bench.disk.sync()
            for name, path in PATHS.items():
                without = client.timed_for(bench.scale.load_seconds, request)
                tails[f"without {name}"].append(percentile(without, 0.99))
                with _reading(server, path) as reader:
                    taken = client.timed_for(bench.scale.load_seconds, request)
                    _found(reader)
                tails[name].append(percentile(taken, 0.99))
    lines = []
    for name in PATHS:
        ratio = ratios(tails[name], tails[f"without {name}"])
        median = spread(ratio).median
        lines.append(
            Line(
                f"p99 of adds while {name} are sent, by that without",
                "≤ 3 x",
                f"{times(median)} ({seconds(statistics.median(tails[name]))})",
                times_of(ratio),
                median <= 3,
            )
        )
    return lines


@contextmanager
def _reading(server: Server, path: str, times: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Let a reader begin, which reads so many times, or until its results are asked for."""
    command = [sys.executable, "-m", "tests.bench.reader", str(server.port), path, str(times)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        reader.stdin.write("\n")
        reader.stdin.flush()
        yield reader


def _found(reader: subprocess.Popen[str]) -> list[tuple[float, int]]:
    """End the reading and return what was found."""
    output, _ = reader.communicate(timeout=SECONDS)
    assert reader.returncode == 0
    return [(taken, size) for taken, size in json.loads(output)]
