"""I/O errors: each write and sync of the database's files fails once."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from sanic_app.store.sqlite.disk import UNFINISHED
from tests.proof.every_call import AT_ONCE
from tests.proof.life import Beginning, Life, Point, live, points
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE

SAMPLE = 4
"""Points of each life in the short form."""
SECONDS = 1.0
"""From the error to the end of the process, with strace slowing it."""
FAILED = 70
REFUSED = 1
FILES = tuple(
    f"{name}{end}"
    for name in (f"{DATABASE}{UNFINISHED}", DATABASE)
    for end in ("", "-wal", "-journal")
)
TOUCHING = re.compile(r"\b(pwrite64|ftruncate|unlink|fdatasync|fsync|rename)\(.*queue\.db")


def disk_errors(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Fail each write and sync in turn; judge the answers, the end, and the restart."""
    chance = random.Random(seed)
    broken: list[str] = []
    seconds: list[float] = []
    tried = lost = 0
    for fresh in (True, False):
        beginning = Beginning(folder / f"beginning-{fresh}", fresh=fresh)
        calm = live(beginning, folder / "calm", paths=FILES)
        chosen = [
            point for point in points(calm) if point.call in ("pwrite64", "fdatasync", "fsync")
        ]
        if scale is Scale.SHORT:
            chosen = chance.sample(chosen, SAMPLE)

        def fail(point: Point, beginning: Beginning = beginning) -> Failure:
            return _failed(beginning, folder, point)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for failure in pool.map(fail, chosen):
                tried += failure.met
                if failure.seconds is not None:
                    seconds.append(failure.seconds)
                if failure.wrong:
                    lost += 1
                    broken.append(f"{failure.point}: {'; '.join(failure.wrong)}")
    beginning = Beginning(folder / "beginning-control", fresh=False)
    control = _failed(beginning, folder, Point("fdatasync", 10), ("going_on",))
    text = "; ".join(control.wrong)
    return Outcome(
        promise="an I/O error is no false acknowledgement: the process ends, nothing is closed",
        fault="EIO at the n-th pwrite64, fdatasync and fsync of database and WAL",
        tried=tried,
        lost=lost,
        control=f"a service that goes on after the error: {text[:160]}",
        broken=tuple(broken),
        missed=() if "touches the files" in text else ("going on was not noticed",),
        notes=f"{len(seconds)} ended with status 70, at the latest {max(seconds, default=0):.3f} s"
        " after the error, strace included; the others hit the start",
    )


class Failure(NamedTuple):
    """What one error led to; ``seconds`` from it to the end of a process with status 70."""

    point: Point
    met: bool
    seconds: float | None
    wrong: list[str]


def _failed(
    beginning: Beginning, folder: Path, point: Point, changes: tuple[str, ...] = ()
) -> Failure:
    inject = f"inject={point.call}:error=EIO:when={point.number}"
    place = folder / f"{point.call}-{point.number}"
    life = live(beginning, place, ("-e", inject), FILES, changes)
    met = [number for number, line in enumerate(life.trace) if "(INJECTED)" in line]
    # What is being created is under another name and holds nothing yet: only what is made of it
    # in the end counts, and that is judged by the restart.
    found = [number for number in met if f"{DATABASE}{UNFINISHED}" not in life.trace[number]]
    if not found:
        return Failure(point, met=bool(met), seconds=None, wrong=life.wrong)
    wrong = list(life.wrong)
    # A new database that turns to its WAL is rolled back by SQLite itself: nobody was served.
    turning = beginning.fresh and not life.served
    later = [line for line in life.trace[found[0] + 1 :] if TOUCHING.search(line)]
    if later and not turning:
        wrong.append(f"touches the files after the error: {later[0]}")
    seconds = _moment(life.trace[-1]) - _moment(life.trace[found[0]])
    if life.status not in ((FAILED,) if life.served else (FAILED, REFUSED)):
        wrong.append(f"ended with status {life.status}")
    if seconds > SECONDS:
        wrong.append(f"ended only {seconds:.3f} s after the error")
    if life.status == REFUSED and not _one_clear_line(life):
        wrong.append(f"no clear line: {life.log}")
    return Failure(point, True, seconds if life.status == FAILED else None, wrong)


def _moment(line: str) -> float:
    return float(line.split()[1])


def _one_clear_line(life: Life) -> bool:
    lines = [line for line in life.log.splitlines() if '"level": "INFO"' not in line]
    return len(lines) == 1 and lines[0].startswith("sanic-app: ")
