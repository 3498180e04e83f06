"""Owners: many starts on one queue at once, by its name or by a link to it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, service
from tests.running import Running

SECONDS = 2.0


def owners(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Start many at once, exactly one of which may win; and one more on a queue in use."""
    broken: list[str] = []
    starts, rounds = scale.pick(12, 50), scale.pick(1, 10)
    alone = _imports(1)
    together = _imports(starts)
    slowest = late = 0.0
    for _ in range(rounds):
        race = _race(folder, starts)
        broken += race.wrong
        slowest = max(slowest, race.slowest)
        seconds, wrong = _late_comers(folder)
        late = max(late, seconds)
        broken += wrong
    if slowest - together > SECONDS:
        broken.append(f"a loser of the race took {slowest:.1f} s, of which {together:.1f} s start")
    if late > SECONDS:
        broken.append(f"a late comer took {late:.1f} s")
    control = _without_lock(folder)
    return Outcome(
        promise="one owner; whoever is not says so within 2 s and has touched nothing",
        fault=f"{starts} starts at once, a start on a queue in use, and one through a link",
        tried=rounds * (starts + 2),
        lost=len(broken),
        control=f"3 services without the lock: {control} serve",
        broken=tuple(broken),
        missed=() if control > 1 else ("not more than one served",),
        notes=f"a late comer ended within {late:.2f} s (Python's start {alone:.2f} s), the last"
        f" of {starts} within {slowest:.2f} s (their start alone {together:.2f} s)",
    )


class Race(NamedTuple):
    """How many served, when the last loser had ended, and what was wrong."""

    served: int
    slowest: float
    wrong: list[str]


def _without_lock(parent: Path) -> int:
    """Return how many of three serve one queue when nobody takes the lock."""
    with emptied(parent) as folder:
        runners: list[Running] = []
        try:
            for _ in range(3):
                runners.append(service(folder, changes=("no_lock",), ready=False))
                runners[-1].wait_until_serving()
        except AssertionError:
            pass
        finally:
            for runner in runners:
                runner.kill()
        return sum("serving on" in runner.log for runner in runners)


def _race(parent: Path, starts: int) -> Race:
    with emptied(parent) as folder:
        begun = time.monotonic()
        runners = [service(folder, ready=False) for _ in range(starts)]
        try:
            ended = _losers(runners, begun)
            served = [runner for runner in runners if "serving on" in runner.log]
            wrong = [] if len(served) == 1 else [f"{len(served)} of {starts} serve"]
            for runner in runners:
                if runner not in served:
                    wrong += _refusal(runner)
            if len(served) == 1:
                served[0].wait_until_serving()
                served[0].add(1)
                served[0].wait_for_result([1])
        finally:
            for runner in runners:
                runner.kill()
    return Race(len(served), ended, wrong)


def _losers(runners: list[Running], begun: float) -> float:
    """Return when all but those that serve had ended."""
    deadline = begun + 60
    while time.monotonic() < deadline:
        left = [runner for runner in runners if runner.process.poll() is None]
        if all("serving on" in runner.log for runner in left):
            break
        time.sleep(0.01)
    return time.monotonic() - begun


def _refusal(runner: Running) -> list[str]:
    if runner.process.poll() is None:
        return ["one neither serves nor ends"]
    status = runner.wait()
    lines = runner.lines
    if status != 1 or len(lines) != 1 or "another process owns the queue" not in lines[0]:
        return [f"a loser ended with status {status}: {runner.log}"]
    return []


def _late_comers(parent: Path) -> tuple[float, list[str]]:
    wrong: list[str] = []
    slowest = 0.0
    with emptied(parent) as folder, service(folder) as owner:
        for number in range(10):
            owner.add(number, 60)
        (folder / "link.db").symlink_to(folder / DATABASE)
        before = _bytes(folder)
        for name in (DATABASE, "link.db"):
            begun = time.monotonic()
            late = service(folder, "--database", name, ready=False)
            try:
                while late.process.poll() is None and time.monotonic() - begun < 10:
                    time.sleep(0.005)
                slowest = max(slowest, time.monotonic() - begun)
                wrong += _refusal(late)
            finally:
                late.kill()
        if _bytes(folder) != before:
            wrong.append("a late comer has changed the files")
    return slowest, wrong


def _bytes(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (file.name, file.read_bytes())
        for file in sorted(folder.iterdir())
        if not file.name.endswith("-shm")
    ]


def _imports(count: int) -> float:
    """Return how long so many processes take that end before they look for the lock."""
    begun = time.monotonic()
    command = (sys.executable, "-m", "sanic_app", "--version")
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) for _ in range(count)
    ]
    for process in processes:
        process.wait(60)
    return time.monotonic() - begun
