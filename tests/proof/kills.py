"""Kills: SIGKILL at random moments under the load of several clients."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.proof.checker import Kind, Verdict, check
from tests.proof.history import History
from tests.proof.load import Target, load, next_port
from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import contradictions, snapshot

ROUNDS_PER_DATABASE = 25
"""Judging compares what was read with what is there: a database gets only so many rounds."""


def kills(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill a loaded service again and again; judge every database by its whole history."""
    rounds = scale.pick(8, 1_000)
    chance = random.Random(seed)
    broken: list[str] = []
    lost = added = done = cancelled = 0
    left = rounds
    while left > 0:
        count = min(left, ROUNDS_PER_DATABASE)
        left -= count
        verdict, wrong = _run(chance.randrange(10**6), count, folder)
        added += verdict.counts.added
        done += verdict.counts.done
        cancelled += verdict.counts.cancelled
        if not verdict.holds or wrong:
            lost += max(len(verdict.violations), 1)
            broken += [verdict.summary, *wrong]
            broken += [violation.message for violation in verdict.violations[:3]]
    control, _ = _run(chance.randrange(10**6), 4, folder, ("lazy_commit",))
    kinds = {violation.kind for violation in control.violations}
    return Outcome(
        promise="acknowledged means durable; order; exactly once",
        fault="SIGKILL at a random moment under the load of clients that add one and many,"
        " cancel, pause, resume and read",
        tried=rounds,
        lost=lost,
        control=f"a service that answers before its commit: {control.summary}",
        broken=tuple(broken),
        missed=() if Kind.LOST in kinds else ("nothing was lost by a service that commits late",),
        notes=f"{added:,} tasks acknowledged, {done:,} done, {cancelled:,} cancelled",
    )


def _run(
    seed: int, rounds: int, parent: Path, changes: tuple[str, ...] = ()
) -> tuple[Verdict, list[str]]:
    chance = random.Random(seed)
    history, target = History(), Target()
    with emptied(parent) as folder:
        running = service(folder, changes=changes)
        try:
            with load(target, history, seed, steered=True):
                for _ in range(rounds):
                    next_port(target, running.port)
                    time.sleep(chance.uniform(0.02, 0.25))
                    with history.fault():
                        target.up.clear()
                        running.kill()
                        running = service(folder, changes=changes)
                next_port(target, running.port)
                time.sleep(0.3)
            # A broken service may never get there.
            wrong = [] if drained(running, 1 if changes else 20) else ["the queue is not drained"]
        finally:
            running.kill()
        rows = snapshot(folder / DATABASE)
        if not changes:
            wrong += contradictions(folder / DATABASE)
    return check(history, rows, finishes=rounds * 5), wrong
