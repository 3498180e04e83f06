"""Steps of the wall clock in a live process, and pauses of the process itself."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

from tests.proof.checker import check
from tests.proof.history import History
from tests.proof.load import Client, Target
from tests.proof.machine import emptied, faketime
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import contradictions, snapshot
from tests.running import Running

DAY = 86_400
WAIT = 0.06
CONTROL_WAIT = 0.5
"""So long that the step comes in the wait, on the slowest machine too."""
SLACK = 5.0
"""A task that takes so much longer than its wait is stuck, on the slowest machine too."""


def clock_steps(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Step the wall clock in waits; nothing may be early, stuck, out of order or negative."""
    steps = scale.pick(20, 100)
    wrong, negative = _run(seed, steps, folder)
    control, _ = _run(seed, 10, folder, ("wall_clock",), CONTROL_WAIT)
    return Outcome(
        promise="never early, never stuck, in order, no figure negative, whatever the clock does",
        fault="steps of the wall clock by up to a day either way in a wait, SIGSTOP and SIGCONT"
        " in a wait, and a clock that went back while the service was down",
        tried=steps + 3,
        lost=len(wrong),
        control=f"a service that waits by the wall clock: {'; '.join(control)[:120]}",
        broken=tuple(wrong),
        missed=()
        if any("stuck" in line or "early" in line for line in control)
        else ("it was neither early nor stuck",),
        notes=f"{negative} scrapes without a negative figure",
    )


class Fake:
    """A wall clock that a test sets: an offset in a file that the process reads each time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        self.environ = {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: float) -> None:
        """Move the clock to so many seconds from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset:+.6f}", encoding="ascii")
        new.replace(self._file)


def _run(
    seed: int, steps: int, parent: Path, changes: tuple[str, ...] = (), wait: float = WAIT
) -> tuple[list[str], int]:
    chance = random.Random(seed)
    wrong: list[str] = []
    history = History()
    with emptied(parent) as folder:
        fake = Fake(folder / "offset")
        running = service(folder, environ=fake.environ, changes=changes)
        client = Client("client", Target(running.port), history)
        number = 0
        try:
            for number in range(steps):
                client.add(number * 2, wait)
                client.add(number * 2 + 1, 0)
                time.sleep(chance.uniform(0, WAIT))
                fake.set(chance.choice((-1, 1)) * chance.choice((0.01, 1, 60, 3_600, DAY)))
                wrong += _settled(running, client, number * 2 + 2, f"step {number}", wait)
                wrong += _negative(running)
                if any("stuck" in line for line in wrong):
                    break
            if not changes:
                for seconds in (0.1, 0.8):
                    number += 1
                    client.add(number * 2, 0.4)
                    client.add(number * 2 + 1, 0)
                    running.signal(signal.SIGSTOP)
                    time.sleep(seconds)
                    running.signal(signal.SIGCONT)
                    wrong += _settled(running, client, number * 2 + 2, "pause")
                client.add(number * 2 + 2, 0.4)
                client.add(number * 2 + 3, 0.0)
                running.kill()
                fake.set(-DAY)
                running = service(folder, environ=fake.environ)
                client.close()
                client = Client("later", Target(running.port), history)
                wrong += _settled(running, client, number * 2 + 4, "restart a day earlier", 0.4)
        finally:
            client.close()
            running.kill()
        verdict = check(history, snapshot(folder / DATABASE), finishes=steps)
        if not verdict.holds:
            wrong += [verdict.summary, *(each.message for each in verdict.violations[:3])]
        wrong += contradictions(folder / DATABASE)
    return wrong, steps


def _settled(
    running: Running, client: Client, count: int, when: str, wait: float = WAIT
) -> list[str]:
    """Return when so many tasks are done; say so if it takes longer than the wait allows."""
    if not drained(running, wait + SLACK):
        return [f"{when}: stuck, {running.request('GET', '/api/v1/queue')[1]}"]
    client.read_results(max(0, count - 50))
    client.read_queue()
    return []


def _negative(running: Running) -> list[str]:
    figures = running.request("GET", "/api/v1/queue")[1]
    wrong = [
        f"negative {name}: {value}"
        for name, value in figures.items()
        if isinstance(value, (int, float)) and value < 0
    ]
    text = running.request("GET", "/metrics")[1]
    return wrong + re.findall(r"^sanic_app_\S+ -\S+$", text, re.MULTILINE)
