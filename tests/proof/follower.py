"""Follower: over kills of service and follower each done task's command runs once, in order."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from tests.following import Following, Proxy
from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import snapshot
from tests.running import Running

SECONDS = 30.0
COMMAND = 'sleep 0.01; echo "$SANIC_APP_HISTORY_NUM $SANIC_APP_NUM" >> log'
WAITS = (0, 0, 0, 0.001, 0.01, 0.03)
LOST = "no command ran for task"


def follower(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill both again and again; compare what the commands wrote with the results."""
    rounds = scale.pick(8, 200)
    wrong, told, repeated = _run(seed, rounds, folder)
    # Whether a kill finds a command that has not ended is a matter of chance.
    control: list[str] = []
    for again in range(3):
        if not any(LOST in each for each in control):
            control, *_ = _run(seed + again, 5, folder, ("eager_cursor",))
    return Outcome(
        promise="a follower runs the command for each done task, in order, and again only after"
        " its own kill",
        fault="SIGKILL of the service, of the follower, with and without its command; SIGTERM; a"
        " proxy that answers 502 and cuts streams",
        tried=rounds,
        lost=len(wrong),
        control=f"a cursor that is written before the command: {'; '.join(control)[:160]}",
        broken=tuple(wrong),
        missed=() if any(LOST in each for each in control) else ("no command was left out",),
        notes=f"{told:,} commands, {repeated} of them for the second time after a kill",
    )


class Scene:
    """A service, a proxy before it, and a follower; each can be killed at any moment."""

    def __init__(self, folder: Path, chance: random.Random, changes: Sequence[str]) -> None:
        self._folder = folder
        self._chance = chance
        self._changes = changes
        self.service: Running = service(folder)
        self.proxy = Proxy(self.service.port)
        self.follower = self._follow()
        self.kills = 0
        self._added = 0

    def work(self) -> None:
        """Add some tasks and perhaps cancel one."""
        tasks = [
            {"num": self._added + place, "timeout": self._chance.choice(WAITS)}
            for place in range(self._chance.randrange(1, 9))
        ]
        self._added += len(tasks)
        self.service.request("POST", "/api/v1/tasks/batch", {"tasks": tasks})
        if self._chance.random() < 0.3:
            self.service.request("DELETE", f"/api/v1/tasks/{self._added}")

    def restart_service(self) -> None:
        """Kill it, and let the proxy refuse meanwhile."""
        if self._chance.random() < 0.5:
            self.proxy.refusal = (502, "text/html")
        self.service.kill()
        self.service = service(self._folder)
        self.proxy.port_behind = self.service.port
        self.proxy.refusal = None

    def restart_follower(self) -> None:
        """Kill it, alone or with the command that it runs, or stop it in order."""
        # A command that is left alone ends, and so hides a cursor that is too early.
        how = 1 if self._changes else self._chance.randrange(3)
        if how == 0:
            self.follower.process.terminate()
        else:
            self.kills += 1
            # So that it has something to do.
            self.work()
            self._kill(with_command=how == 1)
        self.follower.wait()
        self.follower.__exit__()
        self.follower = self._follow()

    def end(self) -> list[str]:
        """Let everything be finished and dealt with; return what kept that from happening."""
        if not drained(self.service):
            return ["the queue is not drained"]
        last = max(number for number, _ in self.done())
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if (lines := self.lines()) and lines[-1][0] == last:
                return []
            time.sleep(0.02)
        return [f"the follower did not get to task {last}: {self.follower.said[-3:]}"]

    def done(self) -> list[tuple[int, int]]:
        """Return history number and num of the results."""
        rows = sorted(
            snapshot(self._folder / DATABASE).history, key=lambda row: row.finish_num or 0
        )
        return [(row.history_num, row.num) for row in rows if row.outcome == "done"]

    def lines(self) -> list[tuple[int, int]]:
        """Return what the commands wrote."""
        try:
            lines = (self._folder / "log").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return []
        return [(int(number), int(num)) for number, num in (line.split() for line in lines)]

    def close(self) -> None:
        """End all of it."""
        self.follower.__exit__()
        self.proxy.__exit__()
        self.service.kill()

    def _follow(self) -> Following:
        arguments = ("--after", "0", "--cursor", "cursor", "--exec", COMMAND)
        return Following(self.proxy.url, *arguments, folder=self._folder, changes=self._changes)

    def _kill(self, *, with_command: bool) -> None:
        process = self.follower.process
        deadline = time.monotonic() + 3
        while with_command and not _children(process.pid) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        for child in _children(process.pid) if with_command else ():
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        process.kill()


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def _run(
    seed: int, rounds: int, parent: Path, changes: Sequence[str] = ()
) -> tuple[list[str], int, int]:
    chance = random.Random(f"{seed} follower")
    with emptied(parent) as folder:
        scene = Scene(folder, chance, changes)
        try:
            for _ in range(rounds):
                scene.work()
                time.sleep(chance.uniform(0, 0.5))
                scene.work()
                if chance.random() < 0.5:
                    scene.restart_service()
                if chance.random() < 0.3:
                    scene.proxy.cut()
                scene.work()
                time.sleep(chance.uniform(0, 0.05))
                if chance.random() < 0.7:
                    scene.restart_follower()
            wrong = scene.end()
            lines, done = scene.lines(), scene.done()
        finally:
            scene.close()
    repeated = sum(one == next_one for one, next_one in pairwise(lines))
    if repeated > scene.kills:
        wrong.append(f"{repeated} commands ran again after {scene.kills} kills")
    once = [line for place, line in enumerate(lines) if not place or line != lines[place - 1]]
    wrong += [f"{LOST} {number}" for number, _ in sorted(set(done) - set(once))]
    if not wrong and once != done:
        wrong.append("the commands ran in another order, or for what is no result")
    return wrong, len(lines), repeated
