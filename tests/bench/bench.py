"""What every measure is given: how much to measure, where, and the disk's own speed."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.bench.figures import Line, percentile

BLOCK = bytes(4096)
SYNCS = 100

Curve = Sequence[tuple[float, float]]
"""Points of a plot."""


class Scale(NamedTuple):
    """How much is measured."""

    name: str
    repetitions: int
    load_seconds: float
    connections: Sequence[int]
    """At these numbers of connections the rates are compared, beside 64."""
    drained: int
    """Tasks in one drain; single finishes are a hundredth."""
    lone_tasks: int
    row_of_tasks: int
    """Tasks of 10 ms, one after the other."""
    depth: int
    listed: int
    """Tasks in each whole list."""
    aged: int
    """Commits during which an old snapshot is held."""


FULL = Scale(
    "full", 7, 3, (1, 2, 4, 8, 16, 32, 128), 500_000, 500, 1_000, 10_000_000, 1_000_000, 60_000
)
QUICK = Scale("quick", 3, 1, (8,), 50_000, 60, 200, 200_000, 100_000, 3_000)


class Disk:
    """The disk's own speed: an overwrite of 4 KiB and its ``fdatasync``."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "sync", os.O_RDWR | os.O_CREAT, 0o600)
        self.once()
        self.seconds: list[float] = []

    def sync(self) -> float:
        """Return the median of some overwrites now, in seconds."""
        taken = [self.once() for _ in range(SYNCS)]
        self.seconds += taken
        return statistics.median(taken)

    @property
    def median(self) -> float:
        """The median of the rows of the whole run."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The 99th percentile of the rows of the whole run."""
        return percentile(self.seconds, 0.99)

    def once(self) -> float:
        """Return the seconds of one overwrite: a lone one takes longer than one of a row."""
        begun = time.perf_counter()
        os.pwrite(self._descriptor, BLOCK, 0)
        os.fdatasync(self._descriptor)
        return time.perf_counter() - begun

    def close(self) -> None:
        os.close(self._descriptor)


class Bench:
    """One run."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        self.scale = scale
        self.folder = folder
        self.disk = Disk(folder)
        self.lines: list[Line] = []
        self.missing: list[str] = []
        self.curves: dict[str, Curve] = {}
        self.ratios: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Tell on standard error how far it is; standard output has the table alone."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    @contextmanager
    def room(self, name: str) -> Iterator[Path]:
        """Give a folder on the measured disk that goes afterwards."""
        with TemporaryDirectory(prefix=f"{name}-", dir=self.folder) as folder:
            yield Path(folder)


def worst(ratios: Mapping[str, float]) -> str:
    """Return the name of the greatest."""
    return max(ratios, key=lambda name: ratios[name])
