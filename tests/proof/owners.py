"""Owners: many starts on one queue at once, by its name or by a link to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from tests.proof.machine import Starts, emptied, starts
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, service
from tests.running import Running

SECONDS = 2.0
"""What a loser takes beyond its start, on a machine with nothing else to do."""


def owners(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Start many at once, exactly one of which may win; and one more on a queue in use."""
    broken: list[str] = []
    count, rounds = scale.pick(12, 50), scale.pick(1, 10)
    slowest = late = 0.0
    for _ in range(rounds):
        alone, together = starts(1), starts(count)
        race = _race(folder, count)
        broken += race.wrong
        slowest = max(slowest, _beyond("a loser of the race", race.slowest, together, broken))
        seconds, wrong = _late_comers(folder)
        late = max(late, _beyond("a late comer", seconds, alone, broken))
        broken += wrong
    control = _without_lock(folder)
    return Outcome(
        promise="one owner; whoever is not says so within 2 s and has touched nothing",
        fault=f"{count} starts at once, a start on a queue in use, and one through a link",
        tried=rounds * (count + 2),
        lost=len(broken),
        control=f"3 services without the lock: {control} serve",
        broken=tuple(broken),
        missed=() if control > 1 else ("not more than one served",),
        notes=f"beyond its start a late comer took {late:.2f} s, and the last of {count}"
        f" {slowest:.2f} s, as on a machine with nothing else to do",
    )


def _beyond(who: str, seconds: float, start: Starts, broken: list[str]) -> float:
    """Return what somebody took beyond the start, as if the machine did nothing else."""
    beyond = (seconds - start.seconds) / start.busy
    if beyond > SECONDS:
        broken.append(f"{who} took {seconds:.1f} s, of which {start.seconds:.1f} s start")
    return beyond


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
