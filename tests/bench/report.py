"""The table on the terminal, and ``BENCHMARKS.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.figures import Line
from tests.bench.machine import machine
from tests.bench.plots import bars, curves

HEADS = ("what", "target", "measured", "least to greatest", "reached")
PEERS_HEADING = "## Peers"
PLOT_OF_ADDS = "adds.svg"
PLOT_OF_DEPTH = "depth.svg"


def verdict(line: Line) -> str:
    return {None: "", True: "yes", False: "NO"}[line.reached]


def cells(line: Line) -> tuple[str, ...]:
    return line.what, line.target, line.measured, line.spread, verdict(line)


def terminal(lines: Sequence[Line]) -> str:
    """Return the lines as a table in columns."""
    rows = [HEADS, *map(cells, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def document(bench: Bench, command: str) -> str:
    """Return the text of ``BENCHMARKS.md``."""
    facts = machine(bench.folder, bench.disk)
    targets = [line for line in bench.lines if line.reached is not None]
    others = [line for line in bench.lines if line.reached is None]
    missing = "".join(f"- Not measured: {each}.\n" for each in dict.fromkeys(bench.missing))
    return f"""\
# Benchmarks

Made by `{command}`, which also wrote this page. Each figure is the median of
{bench.scale.repetitions} or more repetitions, interleaved with those of its yardstick in the same
run; ratios are formed per repetition. Everything is on: `synchronous=FULL`, validation, metrics.

{markdown(("", ""), facts)}

{missing}
## Targets

{markdown(HEADS, [cells(line) for line in targets])}

## Beside them

{markdown(HEADS[:4], [cells(line)[:4] for line in others])}

![Adds a second by the number of connections](tests/bench/{PLOT_OF_ADDS})

![Times at depth by those without](tests/bench/{PLOT_OF_DEPTH})

## What is compared

- **bare handler**: the same framework and event loop; parses the same body with `request.json` and
  answers a constant; no access log, no middleware, nothing else. It stores nothing.
- **one commit per request**: this service with group commit taken away.
- **in memory, aiohttp**: the three routes of the sample, a list and a coroutine; a restart loses
  everything.
- **sync**: 4 KiB overwritten and synced with `fdatasync`, on the same disk in the same run: in rows
  of a hundred, but for one connection right behind a bare round trip, and for an idle queue after a
  pause, as the service's own syncs are. A sync after something else takes longer than one of a row.

The load at several connections comes from `wrk` in one thread, which takes about one core; single
connections are a plain socket in Python, whose own time (some 20 µs) is in the figures.
"""


def write(bench: Bench, folder: Path, command: str) -> None:
    """Write ``BENCHMARKS.md`` in the folder, and its plots beside the programs."""
    page = folder / "BENCHMARKS.md"
    _, peers = _parts(page)
    page.write_text(f"{document(bench, command)}{peers}", encoding="utf-8")
    plots = folder / "tests" / "bench"
    (plots / PLOT_OF_ADDS).write_text(
        curves("durable adds a second, by connections", bench.curves), encoding="utf-8"
    )
    (plots / PLOT_OF_DEPTH).write_text(
        bars(f"time at depth {bench.scale.depth:,} by that without", bench.ratios, 1.2),
        encoding="utf-8",
    )


def write_peers(folder: Path, text: str) -> None:
    """Put the section about the peers at the end of ``BENCHMARKS.md``."""
    page = folder / "BENCHMARKS.md"
    ours, _ = _parts(page)
    page.write_text(f"{ours}\n{text.strip()}\n", encoding="utf-8")


def _parts(page: Path) -> tuple[str, str]:
    """Return what the page says of this service, and of the peers: each is made by itself."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    ours, heading, peers = text.partition(f"\n{PEERS_HEADING}\n")
    return ours, heading + peers
