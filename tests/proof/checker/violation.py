"""What is wrong with a run: one broken promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.proof.history import Operation, Row


class Kind(StrEnum):
    """Which promise."""

    LOST = "lost"  # acknowledged or shown, and not there
    DOUBLED = "doubled"
    ALTERED = "altered"  # there, with other content than was asked or shown
    INVENTED = "invented"  # nobody asked for it, or not yet
    REFUSED_BUT_PRESENT = "refused but present"
    TORN = "torn"  # a batch, in part
    GAP = "gap"
    REORDERED = "reordered"
    SHRUNK = "shrunk"  # seen done, and later not in the result list
    EARLY = "early"
    OVERLAP = "overlap"
    IN_BOTH = "in both"
    IN_NEITHER = "in neither"
    REVIVED = "revived"  # cancelled, and queued or done all the same
    CANCELLED_UNASKED = "cancelled unasked"
    MISCOUNTED = "miscounted"
    STARTED_WHILE_PAUSED = "started while paused"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise, with the history numbers it concerns and what shows it."""

    kind: Kind
    message: str
    history_nums: tuple[int, ...] = ()
    evidence: tuple[Operation | Row, ...] = ()


def present(*found: Operation | Row | None) -> tuple[Operation | Row, ...]:
    """Return the evidence without what is not there."""
    return tuple(each for each in found if each is not None)


def repeated(
    what: str, values: Iterable[int], operation: Operation | None = None
) -> Iterator[Violation]:
    """Report each value that is there more than once."""
    for value, count in Counter(values).items():
        if count > 1:
            message = f"{what} {value} is there {count} times"
            numbers = (value,) if what == "history number" else ()
            yield Violation(Kind.DOUBLED, message, numbers, present(operation))
