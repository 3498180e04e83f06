"""Power cuts: the whole process on a file system whose power goes under load."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.proof.checker import Kind, Verdict, check
from tests.proof.history import History
from tests.proof.load import Target, load, next_port
from tests.proof.machine import Volume, freeze, strace
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import contradictions, snapshot

CUTS_PER_VOLUME = 20
SIZE = 256 * 2**20
LYING = ("-e", "inject=fdatasync,fsync:retval=0")
"""The sync calls return at once, as if they had been done."""


def power_cuts(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Cut the power of a loaded service again and again; judge each volume by its history."""
    cuts = scale.pick(6, 200)
    chance = random.Random(seed)
    broken: list[str] = []
    lost = added = done = 0
    for first in range(0, cuts, CUTS_PER_VOLUME):
        count = min(CUTS_PER_VOLUME, cuts - first)
        verdict, wrong = _run(chance.randrange(10**6), count, folder)
        added += verdict.counts.added
        done += verdict.counts.done
        if not verdict.holds or wrong:
            lost += max(len(verdict.violations), 1)
            broken += [verdict.summary, *wrong]
            broken += [violation.message for violation in verdict.violations[:3]]
    normal, _ = _run(chance.randrange(10**6), 2, folder, changes=("unsynced",))
    lying, wrong = _run(chance.randrange(10**6), 1, folder, options=LYING)
    controls = {"synchronous=NORMAL": normal, "a sync that lies": lying}
    return Outcome(
        promise="acknowledged means durable; shown means durable",
        fault="power cut (EXT4_IOC_SHUTDOWN without log flush) under load",
        tried=cuts,
        lost=lost,
        control="; ".join(f"{name}: {_losses(verdict)}" for name, verdict in controls.items()),
        broken=tuple(broken),
        missed=tuple(
            f"{name} lost nothing: {verdict.summary}"
            for name, verdict in controls.items()
            if not _lost(verdict)
        ),
        notes=f"{added:,} tasks acknowledged, {done:,} done",
    )


def _lost(verdict: Verdict) -> int:
    return sum(violation.kind is Kind.LOST for violation in verdict.violations)


def _losses(verdict: Verdict) -> str:
    return f"{_lost(verdict)} of {verdict.counts.added} acknowledged tasks lost"


def _run(
    seed: int,
    cuts: int,
    folder: Path,
    changes: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> tuple[Verdict, list[str]]:
    chance = random.Random(seed)
    history, target = History(), Target()
    wrong: list[str] = []
    control = bool(changes or options)
    prefix = strace(folder / "lying.strace", ("fdatasync", "fsync"), *options) if options else ()
    with Volume(folder, SIZE) as volume:
        running = service(volume.folder)
        try:
            # The database itself is there before anything lies or dallies.
            assert running.stop() == 0
            volume.unmount()
            volume.mount()
            running = service(volume.folder, changes=changes, prefix=prefix)
            with load(target, history, seed, steered=True):
                for _ in range(cuts):
                    next_port(target, running.port)
                    time.sleep(chance.uniform(0.03, 0.4))
                    with history.fault():
                        # The power goes for the process and the disk at once. Were the process
                        # to live on, a sync that it begins in the moment of the cut could be
                        # told that all is well: the kernel drops the journal's transaction, and
                        # then finds none to wait for (jbd2_complete_transaction).
                        freeze(running.process.pid)
                        volume.cut()
                        running.kill()
                        target.up.clear()
                        volume.unmount()
                        volume.mount()
                        running = service(volume.folder, changes=changes)
                next_port(target, running.port)
                time.sleep(0.3)
            if not drained(running, 1 if control else 20):
                wrong.append("the queue is not drained")
        finally:
            running.kill()
        if not control:
            wrong += contradictions(volume.folder / DATABASE)
        rows = snapshot(volume.folder / DATABASE)
    return check(history, rows, finishes=cuts * 5), wrong
