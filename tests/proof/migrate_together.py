"""Nodes that start at once on an empty database, are killed there, and releases side by side."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from sanic_app.store.migrations import migrations
from sanic_app.store.postgres.schema import LOCK_CLASS
from tests.postgres import Cluster
from tests.proof.history import Add, History
from tests.proof.machine import emptied
from tests.proof.nodes import Nodes, cluster, judged, loaded
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import service
from tests.running import Running

ROOT = Path(__file__).parents[2]
TOGETHER = 6
SIDE_BY_SIDE = 3
READY_SECONDS = 60.0
END_SECONDS = 5.0
"""So soon a node ends that must not go on."""
MIGRATING = (
    f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {LOCK_CLASS}"
    " AND objid = 0 AND granted"
)
MADE = "SELECT to_regclass('sanic_app.meta') IS NOT NULL"
KNOWN = len(migrations("postgres"))
COMPATIBLE = """
CREATE TABLE note (history_num bigint PRIMARY KEY, note text NOT NULL);
ALTER TABLE history ADD COLUMN note text;
"""
"""What nodes of the release before need not know."""
BREAKING = "UPDATE meta SET schema = {number}, compatible_from = {number};\n"
NEWER = "the schema was migrated by a newer service"


class Run:
    """What came of the rounds."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.figures: dict[str, int] = {}

    def count(self, name: str, more: int = 1) -> None:
        """Count something."""
        self.figures[name] = self.figures.get(name, 0) + more


def migrate_together(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Start six nodes at once, kill them while they migrate, and roll over to newer releases."""
    rounds, rolls = scale.pick(2, 40), scale.pick(1, 5)
    run, torn, lax = Run(), Run(), Run()
    with cluster() as server:
        _together(server, random.Random(seed), rounds, folder, run)
        for number in range(rolls):
            _roll_over(server, seed + number, folder, run)
        _together(server, random.Random(seed), 2, folder, torn, "torn_migration")
        _roll_over(server, seed, folder, lax, "any_schema")
    goes_on = [line for line in lax.wrong if "goes on" in line]
    counted = ", ".join(f"{value:,} {name}" for name, value in run.figures.items())
    return Outcome(
        promise="nodes that start at once make the schema once, whoever is killed meanwhile; older"
        " nodes serve beside a newer release, or end with one line",
        fault=f"{TOGETHER} nodes started at once on an empty database, killed while one of them"
        " migrates, and started again; nodes replaced by those of a newer release under load",
        tried=rounds * 2 + rolls * 2,
        lost=len(run.wrong),
        control=f"a migration whose statements are committed one by one: {_first(torn.wrong)};"
        f" nodes that do not look at the schema: {_first(goes_on)}",
        broken=tuple(run.wrong),
        missed=(
            *(() if torn.wrong else ("a torn migration did no harm",)),
            *(() if goes_on else ("every older node ended",)),
        ),
        notes=counted,
    )


def _first(lines: Sequence[str]) -> str:
    return lines[0][:160] if lines else "nothing was wrong"


# Six at once.


def _together(
    server: Cluster, chance: random.Random, rounds: int, parent: Path, run: Run, *changes: str
) -> None:
    took = 0.0
    for _ in range(rounds):
        for kill in (False, True):
            with emptied(parent) as folder:
                started = _start(server, folder, TOGETHER, changes)
                try:
                    if kill:
                        victims = _killed(server, started, took, chance, run)
                        started += _start(server, folder, victims, changes)
                    else:
                        took = max(took, _migrated(server))
                    run.wrong.extend(_all_serve(server, started))
                    run.count("nodes became ready", sum(bool(each.port) for each in started))
                finally:
                    for each in started:
                        if each.process.poll() is None:
                            each.kill()
            server.execute("DROP SCHEMA IF EXISTS sanic_app CASCADE")
        if changes and run.wrong:
            return


def _start(server: Cluster, folder: Path, count: int, changes: tuple[str, ...]) -> list[Running]:
    def start(_: int) -> Running:
        return service(folder, "-D", server.url(), changes=changes, ready=False)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(start, range(count)))


def _migrated(server: Cluster) -> float:
    """Return how many seconds the migration took, once it is over."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        begun = _until(lambda: connection.execute(MIGRATING).fetchall())
        return _until(lambda: connection.execute(MADE).fetchall() == [(True,)]) - begun


def _until(condition: Callable[[], object]) -> float:
    """Return the moment at which the condition holds."""
    end = time.monotonic() + READY_SECONDS
    while not condition():
        assert time.monotonic() < end, "nobody migrates"
    return time.monotonic()


def _killed(
    server: Cluster, started: list[Running], took: float, chance: random.Random, run: Run
) -> int:
    """Kill some or all while one of them migrates; return how many."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        _until(lambda: connection.execute(MIGRATING).fetchall())
        time.sleep(chance.uniform(0, took))
        victims = chance.sample(started, chance.choice((TOGETHER // 2, TOGETHER)))
        for each in victims:
            each.process.kill()
        if connection.execute(MADE).fetchall() == [(False,)]:
            run.count("kills before the end of the migration", len(victims))
    for each in victims:
        each.wait()
        started.remove(each)
    return len(victims)


def _all_serve(server: Cluster, started: Sequence[Running]) -> Iterator[str]:
    """Tell which node does not serve, and whether they serve one and the same queue."""
    for each in started:
        try:
            each.wait_until_serving(READY_SECONDS)
        except AssertionError:
            yield f"a node did not start: {' '.join(each.log.split())[-200:]}"
            return
    numbers = [each.add(number, 600)["history_num"] for number, each in enumerate(started)]
    if numbers != list(range(1, len(started) + 1)):
        yield f"tasks of {len(started)} nodes have the numbers {numbers}"
    for each in started:
        listed = each.request("GET", "/get_queue_work")[1]["tasks"]
        if len(listed) != len(started):
            yield f"a node lists {len(listed)} tasks of {len(started)}"
    rows = server.query("SELECT schema, compatible_from FROM sanic_app.meta")
    if rows != [(KNOWN, 1)]:
        yield f"the schema is {rows}"


# Releases side by side.


def _roll_over(server: Cluster, seed: int, parent: Path, run: Run, *changes: str) -> None:
    """Replace nodes by those of a newer release, and then by one that older ones cannot join."""
    history = History()
    with emptied(parent) as folder:
        compatible = _release(folder / "compatible", COMPATIBLE)
        breaking = _release(folder / "breaking", COMPATIBLE, BREAKING)
        nodes = Nodes(folder, [server.url()] * SIDE_BY_SIDE, changes)
        try:
            with loaded(nodes, history, seed):
                time.sleep(0.5)
                for number in (0, 1):
                    with history.fault():
                        nodes.kill(number)
                        nodes.releases[number] = compatible
                        nodes.restart(number)
                    run.count("nodes replaced by a newer release")
                    run.wrong.extend(_served(nodes, history))
                with history.fault():
                    nodes.kill(0)
                    nodes.releases[0] = breaking
                    nodes.restart(0)
                    for number in (1, 2):
                        run.wrong.extend(_ends(nodes.running[number], number))
                        nodes.kill(number)
                    run.wrong.extend(_refuses(server, folder))
                    for number in (1, 2):
                        nodes.releases[number] = breaking
                        nodes.restart(number)
                run.count("nodes ended by a release that they cannot join", 2)
                run.wrong.extend(_served(nodes, history))
                time.sleep(0.5)
            if not nodes.drained():
                run.wrong.append("the queue is not drained")
            run.wrong.extend(f"a node ended: {line}" for line in nodes.ended)
        finally:
            nodes.close()
        verdict, wrong, _ = judged(server.url(), history, 10)
        run.count("tasks acknowledged meanwhile", verdict.counts.added)
        if not verdict.holds:
            run.wrong += [verdict.summary, *(each.message for each in verdict.violations[:3])]
        run.wrong.extend(wrong)
    server.execute("DROP SCHEMA sanic_app CASCADE")


def _release(folder: Path, *steps: str) -> dict[str, str]:
    """Make a newer release, with further migrations; return the environment that runs it."""
    for name in ("sanic_app", "migrations"):
        shutil.copytree(ROOT / name, folder / name)
    for number, step in enumerate(steps, KNOWN + 1):
        path = folder / "migrations" / "postgres" / f"{number:04}_step.sql"
        path.write_text(step.format(number=number), encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def _served(nodes: Nodes, history: History) -> Iterator[str]:
    """Tell which node does not answer an add that is sent from now on."""
    begun = time.monotonic()
    for name in ("adder 0", "adder 1", "adder 2"):
        while not any(
            each.client == name and each.answer == "ok" and each.invoked > begun
            for each in history.operations[-1_000:]
            if isinstance(each.request, Add)
        ):
            if time.monotonic() > begun + END_SECONDS:
                yield f"{name} was not served beside a newer release"
                break
            time.sleep(0.01)
    for number, running in enumerate(nodes.running):
        if running.process.poll() is not None:
            yield f"node {number} ended beside a newer release"


def _ends(running: Running, number: int) -> Iterator[str]:
    """Tell whether a node goes on that must end, or says more than one line."""
    end = time.monotonic() + END_SECONDS
    while running.process.poll() is None:
        if time.monotonic() > end:
            yield f"node {number} goes on beside a release that it cannot join"
            return
        time.sleep(0.01)
    if running.wait() != 70:
        yield f"node {number} ended with status {running.wait()}"
    said = [line for line in running.lines if NEWER in line]
    if len(said) != 1 or "Traceback" in running.log:
        yield f"node {number} ended with {len(said)} lines: {running.log[-300:]}"


def _refuses(server: Cluster, folder: Path) -> Iterator[str]:
    """Tell whether a node of this release does more than end at its start with one line."""
    older = service(folder, "-D", server.url(), ready=False)
    try:
        status = older.wait(20)
    finally:
        if older.process.poll() is None:
            older.kill()
    line = f"newer than this service's {KNOWN}: use a newer service"
    if status != 1 or older.log.count("\n") != 1 or line not in older.log:
        yield f"an older node started with status {status}: {older.log[-300:]}"
