"""Copies and checks of a store in service: how long they take, and who else waits meanwhile."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import servers
from tests.bench.adds import LONG_WAIT
from tests.bench.bench import Bench
from tests.bench.client import Client, add
from tests.bench.figures import (
    Line,
    percentile,
    seconds,
    seconds_of,
    spread,
    times,
    times_of,
)
from tests.bench.fill import fill
from tests.bench.servers import ROOT

QUEUED = 10
"""For so many results one task is queued."""


def copies(bench: Bench) -> list[Line]:
    """Copy and check a long history while one client adds."""
    count = bench.scale.depth
    lines = []
    with bench.room("copies") as folder:
        database = folder / "queue.db"
        fill(database, results=count, waiting=count // QUEUED)
        copy = folder / "copy.db"
        with servers.service(folder) as server, Client(server.port) as client:
            request = add(LONG_WAIT)
            client.timed_for(0.5, request)
            for name, arguments in (
                ("copying", ("copy", str(database), str(copy))),
                ("checking", ("check", str(database))),
            ):
                walls, tails = [], []
                for _ in range(min(bench.scale.repetitions, 3)):
                    bench.disk.sync()
                    copy.unlink(missing_ok=True)
                    without = client.timed_for(bench.scale.load_seconds, request)
                    wall, meanwhile = _run(
                        arguments, lambda: client.timed_for(bench.scale.load_seconds / 10, request)
                    )
                    walls.append(wall)
                    tails.append(percentile(meanwhile, 0.99) / percentile(without, 0.99))
                lines += [
                    Line(
                        f"{name} {count:,} results and {count // QUEUED:,} queued tasks in service",
                        "≤ 60 s",
                        seconds(statistics.median(walls)),
                        seconds_of(walls),
                        statistics.median(walls) <= 60,
                    ),
                    Line(
                        f"p99 of adds while {name}, by that without",
                        "≤ 2 x",
                        times(spread(tails).median),
                        times_of(tails),
                        spread(tails).median <= 2,
                    ),
                ]
    return lines


def _run(
    arguments: tuple[str, ...], meanwhile: Callable[[], list[float]]
) -> tuple[float, list[float]]:
    """Run a command; return its seconds, and what was measured meanwhile again and again."""
    taken: list[float] = []
    begun = time.monotonic()
    command = [sys.executable, "-m", "sanic_app", *arguments]
    with subprocess.Popen(command, cwd=Path(ROOT), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            taken += meanwhile()
        assert process.returncode == 0
    return time.monotonic() - begun, taken
