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
{bench.scale.repetitions} or more repetitions. They alternate with those of what it is compared
with, and each ratio is taken within one round. Nothing is switched off: `synchronous=FULL`,
validation and metrics are on.

{markdown(("", ""), facts)}

{missing}
## Targets

{markdown(HEADS, [cells(line) for line in targets])}

## Other figures

{markdown(HEADS[:4], [cells(line)[:4] for line in others])}

![Adds a second by the number of connections](tests/bench/{PLOT_OF_ADDS})

![Times at depth by those without](tests/bench/{PLOT_OF_DEPTH})

## What is compared

- **bare handler**: the same framework and event loop. It parses the same body with `request.json`
  and answers with a constant. No access log, no middleware. It stores nothing.
- **one commit per request**: this service without group commit.
- **in memory, aiohttp**: the three routes of the sample, with a list and a coroutine. A restart
  loses everything.
- **sync**: overwrite 4 KiB and call `fdatasync`, on the same disk in the same run. Most are
  measured a hundred in a row. For a single connection, each sync comes right after a bare round
  trip. For an idle queue, it comes after a pause. The service's own syncs come like that too, and
  such a sync takes longer than one of a row.
- **at depth**: both databases lie in the system's page cache; each is read once before each turn. A
  page that the system has dropped is read from the disk, at any depth that memory does not hold.

With several connections, `wrk` makes the load in one thread and takes about one core. With a single
connection, it is a plain Python socket, whose own time (about 20 µs) is part of the figures.
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
