"""A deep queue and a long history: everything must cost what it costs without."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from sanic_app.task import SECOND, NewTask
from tests.bench import servers
from tests.bench.adds import LONG_WAIT, MANY
from tests.bench.bench import Bench
from tests.bench.client import Client, add, get
from tests.bench.figures import (
    Line,
    megabytes,
    rate,
    ratios,
    seconds,
    seconds_of,
    spread,
    times,
    times_of,
)
from tests.bench.fill import fill
from tests.bench.waits import SHORTEST, finished, wait_until_done
from tests.bench.wrk import load

FLAT = 1_000
"""The rows of the shallow queue and history: enough for pages of the same size."""
BLOCK = 500
"""Single finishes at each start."""
PAUSE = NewTask(5, 2 * SECOND)
"""Behind each block, so that one start finishes one block."""
ASKED = 200
"""Requests of one kind in a row."""
MEMORY_MAX = 120e6
START_MAX = 2.0


class Place(NamedTuple):
    """A queue with as many results as tasks that wait, and blocks between."""

    folder: Path
    rows: int
    blocks: int

    def fill(self) -> None:
        first = ((SHORTEST,) * BLOCK + (PAUSE,)) * self.blocks
        fill(self.folder / "queue.db", results=self.rows, first=first, waiting=self.rows)

    def block(self, index: int) -> tuple[int, int]:
        """Return the first and the last history number of a block."""
        first = self.rows + 1 + index * (BLOCK + 1)
        return first, first + BLOCK - 1

    def read_once(self) -> None:
        """Bring the database back into the page cache: a system may drop what it wants of it."""
        with (self.folder / "queue.db").open("rb") as file:
            while file.read(2**20):
                pass

    @property
    def waiting_from(self) -> int:
        return self.rows + 1 + self.blocks * (BLOCK + 1)


def depth(bench: Bench) -> list[Line]:
    """Compare a deep queue with a shallow one, operation by operation."""
    with bench.room("flat") as flat_folder, bench.room("deep") as deep_folder:
        blocks = bench.scale.repetitions
        flat = Place(flat_folder, FLAT, blocks)
        deep = Place(deep_folder, bench.scale.depth, blocks)
        begun = time.monotonic()
        flat.fill()
        deep.fill()
        size = sum(path.stat().st_size for path in deep_folder.iterdir())
        bench.say(f"  filled in {time.monotonic() - begun:.0f} s, {megabytes(size)}")
        return [*_starts(bench, flat, deep), *_operations(bench, flat, deep)]


def _starts(bench: Bench, flat: Place, deep: Place) -> list[Line]:
    """Start both again and again; each start finishes a block of tasks one by one."""
    ready: dict[int, list[float]] = defaultdict(list)
    rates: dict[int, list[float]] = defaultdict(list)
    imports = []
    for index in range(flat.blocks):
        imports.append(_import_seconds())
        bench.disk.sync()
        for place in (flat, deep):
            with servers.service(place.folder) as server:
                ready[place.rows].append(server.seconds_to_ready())
                first, last = place.block(index)
                with Client(server.port) as client:
                    wait_until_done(client, last)
                    took = finished(client, last) - finished(client, first)
                rates[place.rows].append((BLOCK - 1) / took)
                server.stop()
    from_start = statistics.median(ready[deep.rows])
    ratio = ratios(rates[flat.rows], rates[deep.rows])
    bench.ratios["finish"] = spread(ratio).median
    return [
        Line(
            f"from start to ready at depth {deep.rows:,}",
            f"≤ {seconds(START_MAX)}",
            f"{seconds(from_start)} ({seconds(from_start - statistics.median(imports))}"
            " beyond the imports)",
            seconds_of(ready[deep.rows]),
            from_start <= START_MAX,
        ),
        Line(
            f"from start to ready at depth {flat.rows:,}",
            "",
            seconds(statistics.median(ready[flat.rows])),
            seconds_of(ready[flat.rows]),
        ),
        _ratio_line("finish", deep.rows, ratio, rate(statistics.median(rates[deep.rows]))),
    ]


def _import_seconds() -> float:
    """Return what an interpreter takes that only imports what the service does."""
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "import sanic_app.__main__, uvloop"],
        cwd=servers.ROOT,
        check=True,
        timeout=60,
    )
    return time.monotonic() - begun


def _operations(bench: Bench, flat: Place, deep: Place) -> list[Line]:
    lines = []
    with (
        servers.service(flat.folder) as flat_server,
        servers.service(deep.folder) as deep_server,
        Client(flat_server.port) as flat_client,
        Client(deep_server.port) as deep_client,
    ):
        both = ((flat, flat_client), (deep, deep_client))
        taken: dict[tuple[str, int], list[float]] = defaultdict(list)
        for turn in range(2 * bench.scale.repetitions):
            bench.disk.sync()
            for place in (flat, deep):
                place.read_once()
            for name, requests in OPERATIONS.items():
                # Each is the first half of the time: what was asked just before leaves its traces.
                for place, client in both[:: 1 if turn % 2 else -1]:
                    each = client.timed(list(requests(place)))
                    taken[name, place.rows].append(statistics.median(each))
        for name in OPERATIONS:
            ratio = ratios(taken[name, deep.rows], taken[name, flat.rows])
            bench.ratios[name] = spread(ratio).median
            median = statistics.median(taken[name, deep.rows])
            lines.append(_ratio_line(name, deep.rows, ratio, seconds(median)))
        many: dict[int, list[float]] = defaultdict(list)
        for _ in range(bench.scale.repetitions):
            for place, server in ((flat, flat_server), (deep, deep_server)):
                many[place.rows].append(load(server.port, MANY, bench.scale.load_seconds).rate)
        name = "add, 64 connections"
        ratio = ratios(many[flat.rows], many[deep.rows])
        bench.ratios[name] = spread(ratio).median
        lines.append(_ratio_line(name, deep.rows, ratio, rate(statistics.median(many[deep.rows]))))
        resident, peak = deep_server.memory()
    return [*lines, _memory_line(deep.rows, resident, peak)]


def _ratio_line(name: str, rows: int, ratio: list[float], absolute: str) -> Line:
    median = spread(ratio).median
    return Line(
        f"{name}: time at depth {rows:,} by that at depth {FLAT:,}",
        "≤ 1.2 x",
        f"{times(median)} ({absolute})",
        times_of(ratio),
        median <= 1.2,
    )


def _memory_line(rows: int, resident: int, peak: int) -> Line:
    return Line(
        f"resident memory at depth {rows:,}, after all of these",
        f"≤ {megabytes(MEMORY_MAX)}",
        megabytes(resident),
        f"at most {megabytes(peak)}",
        peak <= MEMORY_MAX,
    )


def _adds(_: Place) -> Iterable[bytes]:
    return [add(LONG_WAIT)] * ASKED


def _always(path: str) -> Callable[[Place], Iterable[bytes]]:
    return lambda _: [get(path)] * ASKED


def _anywhere(path: str, *, waiting: bool) -> Callable[[Place], Iterable[bytes]]:
    """Return requests for places of the queue, or of the history, taken at random."""

    def requests(place: Place) -> Iterable[bytes]:
        start = place.waiting_from if waiting else 1
        # A page's worth is left behind the last.
        return [get(f"{path}{random.randrange(start, start + place.rows - 200)}") for _ in _TIMES]

    return requests


_TIMES = range(ASKED)

OPERATIONS: dict[str, Callable[[Place], Iterable[bytes]]] = {
    "add": _adds,
    "a queued task": _anywhere("/api/v1/tasks/", waiting=True),
    "a done task": _anywhere("/api/v1/tasks/", waiting=False),
    "a page of the queue": _anywhere("/api/v1/tasks?after=", waiting=True),
    "a page of results": _anywhere("/api/v1/results?after=", waiting=False),
    "the queue's figures": _always("/api/v1/queue"),
    "metrics": _always("/metrics"),
    "readiness": _always("/health/ready"),
}
