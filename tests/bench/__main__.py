"""``python -m tests.bench``: measure everything in one run; a table, and BENCHMARKS.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import adds, copies, depth, listened, lists, nodes, waits, wrk
from tests.bench.bench import FULL, QUICK, Bench
from tests.bench.figures import Line
from tests.bench.machine import machine
from tests.bench.report import terminal, write
from tests.bench.servers import ROOT

MEASURES: Mapping[str, Callable[[Bench], list[Line]]] = {
    "adds": adds.many,
    "one": adds.one,
    "connections": adds.between,
    "batches": adds.batches,
    "listened": listened.listened,
    "drain": waits.drain,
    "idle": waits.idle,
    "lateness": waits.lateness,
    "drift": waits.drift,
    "depth": depth.depth,
    "lists": lists.lists,
    "copies": copies.copies,
    "nodes": nodes.nodes,
}
LOADED = {"adds", "one", "connections", "batches", "listened", "depth", "nodes"}
"""These need wrk."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when everything was measured, whatever the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in 2 minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MEASURES)
    parser.add_argument("--write", action="store_true", help="write BENCHMARKS.md in any case")
    parser.add_argument(
        # /tmp may lie in memory, and a sync of memory says nothing.
        "--folder",
        type=Path,
        default=Path("/var/tmp"),
        help="where queues are made, on the disk to measure",
    )
    given = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="bench-", dir=given.folder) as folder:
        bench = Bench(QUICK if given.quick else FULL, Path(folder))
        try:
            whole = _run(bench, given.only or list(MEASURES))
        finally:
            bench.disk.close()
        _print(bench)
        if given.write or (whole and not given.quick and not given.only):
            flags = " ".join(arguments if arguments is not None else sys.argv[1:])
            write(bench, ROOT, f"python -m tests.bench {flags}".strip() if flags else "make bench")
    return 0 if whole else 1


def _run(bench: Bench, names: Sequence[str]) -> bool:
    """Return whether everything could be measured."""
    whole = True
    bench.disk.sync()
    for name, measure in MEASURES.items():
        if name not in names:
            continue
        if name in LOADED and not wrk.installed():
            bench.missing.append(f"{name} needs wrk (Debian package wrk)")
            whole = False
            continue
        begun = time.monotonic()
        try:
            bench.lines += measure(bench)
        except Exception:  # noqa: BLE001 - one measure that cannot run must not hide the others
            traceback.print_exc()
            bench.missing.append(f"{name} failed")
            whole = False
        bench.say(f"{name}: {time.monotonic() - begun:.0f} s")
    return whole


def _print(bench: Bench) -> None:
    facts = machine(bench.folder, bench.disk)
    load = os.getloadavg()[0]
    lines = [*(f"{name:>9}  {value}" for name, value in facts), f"{'load':>9}  {load:.1f}"]
    missing = [f"NOT MEASURED  {each}" for each in dict.fromkeys(bench.missing)]
    sys.stdout.write("\n".join([*lines, "", terminal(bench.lines), *missing]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
