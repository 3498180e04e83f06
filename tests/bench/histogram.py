"""A histogram as a scrape shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Histogram(NamedTuple):
    """Upper bounds, each with how many values it and those below it hold."""

    buckets: Sequence[tuple[float, float]]

    @property
    def total(self) -> float:
        return self.buckets[-1][1]

    def quantile(self, share: float) -> float:
        """Return the upper bound of the bucket in which this share of the values lies."""
        return next(bound for bound, count in self.buckets if count >= share * self.total)


def histogram(text: str, name: str) -> Histogram:
    """Read a histogram without labels of its own out of a scrape."""
    found = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$', text, re.MULTILINE)
    return Histogram([(float(bound), float(count)) for bound, count in found])
