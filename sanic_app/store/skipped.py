"""Which tasks were cancelled behind the first of the queue, for every engine.

The place of a task leaves them out. So it has to know how many there are before a number, and what
their timeouts add up to. Each counts in one block of every level. The blocks of a level are equally
wide, and a group of 64 is as wide as one block of the next level. Those before a number are, on
each level, in the blocks of the number's own group that stand before its own block: at most 63 rows
a level, and on the last level one for each quarter of a million numbers.

A place subtracts what is before the first of the queue from what is before the task. So when the
front of the queue passes skipped tasks, no sum has to be corrected, and what it has passed may be
forgotten little by little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from sanic_app.task import HISTORY_NUM_MAX, SECOND, Task

FORGET_MAX = 5_000
"""How many blocks one commit forgets: more than it adds, so that there is an end to them."""
_RADIX = 64
"""Blocks in a group. With more a place reads more rows, with fewer a cancel writes more."""


class Level(NamedTuple):
    """One way to divide the history numbers."""

    level: int
    width: int
    """The history numbers in a block. The block of a number is the number divided by it."""
    group: int
    """The history numbers in a group of blocks."""


LEVELS = (
    Level(0, 1, _RADIX),
    Level(1, _RADIX, _RADIX**2),
    Level(2, _RADIX**2, _RADIX**3),
    Level(3, _RADIX**3, HISTORY_NUM_MAX),
)


class Block(NamedTuple):
    """Skipped tasks of one block.

    The sum of their timeouts can exceed 64 bits: seconds and microseconds are summed apart.
    """

    level: int
    block: int
    tasks: int
    seconds: int
    micros: int


class SkippedRows(Protocol):
    """What is kept of blocks, in one open transaction."""

    def skip(self, blocks: Sequence[Block]) -> None:
        """Add tasks that were cancelled behind the first of the queue to what is kept of blocks."""

    def forget_skipped(self, passed: Sequence[tuple[int, int]], limit: int) -> None:
        """Forget blocks before the given one of their level, not beyond the limit."""


class Skipped:
    """What one commit skips, and how far the front of the queue gets in it."""

    def __init__(self, rows: SkippedRows) -> None:
        """Take the open transaction."""
        self._rows = rows
        self._tasks: list[Task] = []
        # The first of the queue, when tasks were skipped behind it or it has passed some.
        self._front: int | None = None

    def add(self, tasks: Iterable[Task], front: int) -> None:
        """Skip tasks behind the first of the queue."""
        self._tasks += tasks
        self._front = front

    def advance(self, front: int) -> None:
        """Let the front of the queue pass skipped tasks."""
        self._front = front

    def end(self) -> None:
        """Write what was skipped, and forget what was passed."""
        if self._tasks:
            self._rows.skip(blocks(self._tasks))
        if self._front is not None:
            self._rows.forget_skipped(passed(self._front), FORGET_MAX)


def blocks(tasks: Iterable[Task]) -> list[Block]:
    """Return what skipped tasks add to the blocks of each level."""
    below = sorted(Block(0, task[0], 1, *divmod(task.timeout, SECOND)) for task in tasks)
    found = below
    for level in LEVELS[1:]:
        below = [
            Block(level.level, block, *[sum(each) for each in zip(*group, strict=True)][2:])
            for block, group in groupby(below, lambda each: each.block // _RADIX)
        ]
        found = found + below
    return found


def passed(first: int) -> list[tuple[int, int]]:
    """Return the first block of each level that places still need, as pairs of level and block.

    ``first`` is the first of the queue.
    """
    # On the last level all numbers are one group, whose start is never passed. There, what stands
    # before the first of the queue is in no difference.
    *lower, (top, width, _) = LEVELS
    return [(level, first // group * group // width) for level, width, group in lower] + [
        (top, first // width)
    ]
