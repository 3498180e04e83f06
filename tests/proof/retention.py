"""Retention: finished tasks are removed under load and kills, the oldest first, and no other."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.proof.history import Add, Added, History
from tests.proof.load import Target, load, next_port, requests_of
from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.running import Running

KEPT = 50
ENVIRON = {"SANIC_APP_HISTORY_KEEP": str(KEPT)}


def retention(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill a loaded service that keeps few finished tasks; judge what is left."""
    rounds = scale.pick(4, 200)
    wrong, removed = _run(seed, rounds, folder)
    control, _ = _run(seed, 2, folder, ("forgetful",))
    return Outcome(
        promise="retention removes the oldest finishes alone, and counts them",
        fault=f"SIGKILL under load with HISTORY_KEEP={KEPT}; batches, cancels and pauses among it",
        tried=rounds,
        lost=len(wrong),
        control=f"a service that removes one more: {'; '.join(control)[:160]}",
        broken=tuple(wrong),
        missed=() if any(f"of {KEPT} are kept" in each for each in control) else ("unnoticed",),
        notes=f"{removed:,} tasks removed",
    )


def _run(
    seed: int, rounds: int, parent: Path, changes: tuple[str, ...] = ()
) -> tuple[list[str], int]:
    chance = random.Random(seed)
    history, target = History(), Target()
    with emptied(parent) as folder:
        running = service(folder, changes=changes, environ=ENVIRON)
        try:
            with load(target, history, seed, steered=True):
                for _ in range(rounds):
                    next_port(target, running.port)
                    time.sleep(chance.uniform(0.05, 0.3))
                    target.up.clear()
                    running.kill()
                    running = service(folder, changes=changes, environ=ENVIRON)
                next_port(target, running.port)
                time.sleep(0.3)
            if not drained(running):
                return ["the queue is not drained"], 0
            wrong, removed = _judge(folder / DATABASE, history)
            wrong += _answers(running, removed)
        finally:
            running.kill()
    return wrong, removed


def _judge(database: Path, history: History) -> tuple[list[str], int]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        last, finished, pruned = connection.execute(
            "SELECT last_history_num, last_finish_num, pruned FROM state"
        ).fetchone()
        rows = connection.execute(
            "SELECT finish_num, history_num, num FROM history ORDER BY finish_num"
        ).fetchall()
        (damage,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    wrong = [] if damage == "ok" else [f"integrity_check: {damage}"]
    if last != finished:
        wrong.append(f"{last} were added and {finished} finished, of a queue that is empty")
    if [row[0] for row in rows] != list(range(pruned + 1, finished + 1)):
        wrong.append(f"the history does not hold the finishes behind {pruned}, up to {finished}")
    if len(rows) != min(KEPT, finished):
        wrong.append(f"{len(rows)} of {KEPT} are kept")
    asked = {
        operation.value.first + place: num
        for operation in requests_of(history, Add)
        if isinstance(operation.request, Add) and isinstance(operation.value, Added)
        for place, (num, _) in enumerate(operation.request.tasks)
    }
    if asked and max(asked) > last:
        wrong.append(f"{max(asked)} was acknowledged, and the last is {last}")
    wrong += [
        f"{number} holds {num}, and {asked[number]} was acknowledged"
        for _, number, num in rows
        if asked.get(number, num) != num
    ]
    if pruned < KEPT:
        wrong.append(f"no more than {pruned} were removed: this proves nothing")
    return wrong, pruned


def _answers(running: Running, removed: int) -> list[str]:
    """Return what is wrong with what the service says of it."""
    wrong = []
    said: Any = running.request("GET", "/api/v1/queue")[1]["pruned"]
    if said != removed:
        wrong.append(f"the service says that {said} were removed, and not {removed}")
    if (status := running.request("GET", "/api/v1/tasks/1")[0]) != 410:
        wrong.append(f"the first task answers {status}")
    return wrong
