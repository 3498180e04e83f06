"""The outcome of a check."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from tests.proof.checker.counts import Counts
from tests.proof.checker.violation import Violation

DEFINITE_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a check. A run that is not `valid` proves nothing, even without violations."""

    violations: tuple[Violation, ...]
    counts: Counts
    finishes: int

    @property
    def valid(self) -> bool:
        """Whether enough was answered and enough was done for the run to count."""
        return self.counts.definite >= DEFINITE_SHARE and self.counts.done >= self.finishes

    @property
    def holds(self) -> bool:
        """Whether the run counts and every promise was kept."""
        return self.valid and not self.violations

    @property
    def summary(self) -> str:
        """One line: the verdict and the figures behind it."""
        counts = self.counts
        kinds = Counter(violation.kind for violation in self.violations)
        if kinds:
            result = "broken: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        else:
            result = "holds" if self.valid else "proves nothing"
        return (
            f"{result}; {counts.operations} operations ({counts.reads} reads), "
            f"{counts.added} added, {counts.done} done (needed {self.finishes}), "
            f"{counts.cancelled} cancelled, {counts.refused} refused, {counts.unknown} unknown, "
            f"{counts.excused} excused, {math.floor(counts.definite * 1000) / 10} % definite "
            f"(needed {DEFINITE_SHARE:.0%})"
        )
