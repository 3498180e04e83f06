"""A slow disk: while commits stall, health and reads are answered at once."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.proof.checker import check
from tests.proof.history import Add, History
from tests.proof.load import Target, load, next_port, requests_of
from tests.proof.machine import emptied, strace
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, service
from tests.proof.tables import snapshot
from tests.running import Running

DELAY_MICROSECONDS = 200_000
SECONDS = 1.0
PATHS = ("/health/live", "/health/ready", "/api/v1/queue", "/api/v1/results", "/get_queue_work")


def slow_disk(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Delay each sync under load, and ask for everything that needs none."""
    asked, slowest, wrong = _run(seed, scale.pick(2, 60), folder)
    _, control, _ = _run(seed, 1, folder, ("blocking_commit",), delay=1_500_000)
    return Outcome(
        promise="health and reads answer within 1 s whatever the disk does",
        fault=f"each fdatasync delayed by {DELAY_MICROSECONDS // 1_000} ms under 3 adding clients",
        tried=asked,
        lost=len(wrong),
        control="a service that commits in its event loop, syncs of 1.5 s:"
        f" {control:.2f} s for an answer",
        broken=tuple(wrong),
        missed=() if control > SECONDS else ("it answered at once as well",),
        notes=f"{asked} answers, the slowest after {slowest:.3f} s",
    )


def _run(
    seed: int,
    seconds: float,
    parent: Path,
    changes: tuple[str, ...] = (),
    delay: int = DELAY_MICROSECONDS,
) -> tuple[int, float, list[str]]:
    history, target = History(), Target()
    times: list[float] = []
    wrong: list[str] = []
    with emptied(parent) as folder:
        # What a start has to sync is not what this is about.
        service(folder).stop()
        inject = f"inject=fdatasync,fsync:delay_enter={delay}"
        prefix = strace(
            folder / "slow.strace", ("fdatasync", "fsync"), "-e", inject,
            paths=[folder / f"{DATABASE}-wal"],
        )  # fmt: skip
        running = service(folder, changes=changes, prefix=prefix)
        try:
            with load(target, history, seed, waits=(0.0,)):
                next_port(target, running.port)
                time.sleep(0.5)
                deadline = time.monotonic() + seconds
                chance = random.Random(seed)
                while time.monotonic() < deadline:
                    path = chance.choice(PATHS)
                    times.append(_ask(running, path, wrong))
                    time.sleep(0.01)
                running.kill()
        finally:
            running.kill()
        adds = [each for each in requests_of(history, Add) if each.answer == "ok"]
        quick = [each for each in adds if each.completed - each.invoked < delay / 1_000_000]
        if not adds or quick:
            wrong.append(f"{len(quick)} of {len(adds)} adds were answered without a slow sync")
        verdict = check(history, snapshot(folder / DATABASE), finishes=3)
        if verdict.violations:
            wrong.append(verdict.summary)
    wrong += [f"an answer after {each:.3f} s" for each in times if each > SECONDS]
    return len(times), max(times, default=0.0), wrong


def _ask(running: Running, path: str, wrong: list[str]) -> float:
    begun = time.monotonic()
    try:
        status, body = running.request("GET", path)
    except OSError as error:
        status, body = 0, str(error)
    if status != 200:
        wrong.append(f"{path}: {status} {body}")
    return time.monotonic() - begun
