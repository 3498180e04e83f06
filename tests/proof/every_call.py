"""Kills at every write, sync, truncate, rename and unlink call."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.proof.life import Beginning, Point, live, points
from tests.proof.outcome import Outcome, Scale

SAMPLE = 5
"""Points of each life in the short form, beside the last ones."""
BEYOND = 100
"""A life that does not survive so many calls more than the first one made is a mistake."""
AT_ONCE = 2


def every_call(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill a life at each call that writes, until it survives; restart and judge each time."""
    chance = random.Random(seed)
    broken: list[str] = []
    counts: Counter[str] = Counter()
    lost = 0
    for fresh in (True, False):
        beginning = Beginning(folder / f"beginning-{fresh}", fresh=fresh)
        calm = live(beginning, folder / "calm")
        if calm.wrong or calm.status != 0:
            broken.append(f"without any fault: {calm.status} {calm.wrong} {calm.log}")
        passed = points(calm)
        kill = partial(_killed, beginning, folder)
        if scale is Scale.SHORT:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                tries = list(pool.map(kill, chance.sample(passed, SAMPLE)))
        else:
            tries = _all(kill, passed)
        for one in tries:
            counts[one.point.call] += one.killed
            if one.wrong:
                lost += 1
                broken.append(f"at {one.point.call} {one.point.number}: {'; '.join(one.wrong)}")
    beginning = Beginning(folder / "beginning-control", fresh=False)
    control = _killed(beginning, folder, Point("fdatasync", 8), ("lazy_commit",)).wrong
    return Outcome(
        promise="whole or not at all, at every call that writes",
        fault="SIGKILL at the n-th write, sync, truncate, rename and unlink call of a creation,"
        " and of a life that recovers a WAL, adds, finishes, checkpoints and stops",
        tried=counts.total(),
        lost=lost,
        control=f"a service that answers before its commit: {'; '.join(control)[:120]}",
        broken=tuple(broken),
        missed=() if any("broken: lost" in line for line in control) else ("nothing was lost",),
        notes=", ".join(f"{count} {call}" for call, count in counts.items()),
    )


class Try(NamedTuple):
    """One life that was to be killed."""

    point: Point
    killed: bool
    wrong: list[str]


def _all(kill: Callable[[Point], Try], passed: list[Point]) -> list[Try]:
    """Try every call, and further ones until a life survives: no two lives are quite alike."""
    tries: list[Try] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tries += pool.map(kill, passed)
    for call in {point.call for point in passed}:
        last = max(point.number for point in passed if point.call == call)
        for number in range(last + 1, last + BEYOND):
            tries.append(kill(Point(call, number)))
            if not tries[-1].killed:
                break
        else:
            tries.append(Try(Point(call, last + BEYOND), False, ["no life survives"]))
    return tries


def _killed(beginning: Beginning, folder: Path, point: Point, changes: tuple[str, ...] = ()) -> Try:
    inject = f"inject={point.call}:signal=KILL:when={point.number}"
    name = f"{point.call}-{point.number}"
    life = live(beginning, folder / name, ("-e", inject), changes=changes)
    return Try(point, "killed by SIGKILL" in life.trace[-1], life.wrong)
