"""What a proof hands back: one row of the table that ends a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

WIDTH = 100


class Scale(StrEnum):
    """How often a fault is tried: a selection for every change, or the figures of a release."""

    SHORT = "short"
    FULL = "full"

    def pick(self, short: int, full: int) -> int:
        """Return the one of the two numbers that goes with this scale."""
        return short if self is Scale.SHORT else full


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one fault went.

    ``lost`` counts the tries that broke the promise and ``broken`` says how; ``control`` says how
    the deliberately broken service failed, ``missed`` each control that did not fail, or failed
    for another reason than the one meant; ``notes`` are figures worth keeping.
    """

    promise: str
    fault: str
    tried: int
    lost: int
    control: str
    broken: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    notes: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, something was tried, and each control failed as meant."""
        return self.tried > 0 and self.lost == 0 and not self.broken and not self.missed


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as text, each with its five columns below one another."""
    return "\n".join(map(_row, outcomes))


def _row(outcome: Outcome) -> str:
    tried = f"tried {outcome.tried:,} · lost {outcome.lost:,}"
    lines = [f"{'holds ' if outcome.holds else 'BROKEN'}  {outcome.promise}"]
    for name, text in (
        ("fault", outcome.fault),
        ("result", tried + (f" · {outcome.notes}" if outcome.notes else "")),
        ("control", outcome.control),
        *(("BROKEN", text) for text in outcome.broken[:5]),
        *(("CONTROL MISSED", text) for text in outcome.missed),
    ):
        lines += textwrap.wrap(
            f"{name}: {text}",
            WIDTH,
            initial_indent=" " * 8,
            subsequent_indent=" " * 10,
        )
    return "\n".join(lines)
