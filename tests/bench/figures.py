"""What is made of measured values: medians, spreads, percentiles, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

KILO, MEGA = 10**3, 10**6


class Spread(NamedTuple):
    """The median of some repetitions, and their least and greatest."""

    median: float
    low: float
    high: float


class Line(NamedTuple):
    """One line of the table; ``reached`` is None where no target is set."""

    what: str
    target: str
    measured: str
    spread: str = ""
    reached: bool | None = None


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each repetition: what is compared was measured side by side."""
    return [one / other for one, other in zip(above, below, strict=True)]


def rate(value: float) -> str:
    return f"{value:,.0f}/s"


def seconds(value: float) -> str:
    if abs(value) < 0.9995e-3:
        return f"{value * MEGA:.0f} µs"
    if abs(value) < 1:
        return f"{value * KILO:.2f} ms"
    return f"{value:.2f} s"


def megabytes(value: float) -> str:
    return f"{value / MEGA:.0f} MB"


def times(value: float) -> str:
    return f"{value:.2f} x"


def rates_of(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found.low:,.0f} to {rate(found.high)}"


def seconds_of(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{seconds(found.low)} to {seconds(found.high)}"


def times_of(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found.low:.2f} to {times(found.high)}"
