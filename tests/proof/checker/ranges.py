"""Ranges of numbers or moments, both ends included."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


def merged(ranges: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same ranges in order, those that overlap as one."""
    found: list[tuple[float, float]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def meets(ranges: list[tuple[float, float]], first: float, last: float) -> bool:
    """Return whether one of the merged ranges overlaps this one."""
    index = bisect_left(ranges, first, key=lambda each: each[1])
    return index < len(ranges) and ranges[index][0] <= last
