"""Faults of nodes: killed and stopped at random moments, cut off from their server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from tests.postgres import Cluster
from tests.proof.checker import Kind, Verdict
from tests.proof.history import History
from tests.proof.load import Client
from tests.proof.machine import emptied
from tests.proof.nodes import Nodes, cluster, judged, loaded, share
from tests.proof.outcome import Outcome, Scale
from tests.proxy import Proxy

NODES = 3
ROUNDS_PER_QUEUE = 50
"""Judging compares what was read with what is there: a queue gets only so many rounds."""
LATE_SECONDS = 2.0
"""A takeover takes 0.5 s; on a machine that has other things to do, more."""
FAULTS = ("before", "in", "after", "cut", "delay", "freeze")


class Faulty(NamedTuple):
    """What a fault may touch."""

    nodes: Nodes
    proxies: Sequence[Proxy]
    chance: random.Random
    history: History


Fault = Callable[[Faulty], None]


class Run(NamedTuple):
    """What came of the rounds on one queue, or on several."""

    verdicts: list[Verdict]
    wrong: list[str]
    late: list[float]
    """Seconds after the deadline, of each head that was taken over, sorted."""
    figures: dict[str, float]

    @property
    def kinds(self) -> set[Kind]:
        return {found.kind for verdict in self.verdicts for found in verdict.violations}

    @property
    def lost(self) -> int:
        broken = sum(max(len(v.violations), 1) for v in self.verdicts if not v.holds)
        return broken + len(self.wrong)

    @property
    def broken(self) -> tuple[str, ...]:
        return (
            *(verdict.summary for verdict in self.verdicts if not verdict.holds),
            *self.wrong,
            *(found.message for verdict in self.verdicts for found in verdict.violations[:3]),
        )

    @property
    def notes(self) -> str:
        added = sum(verdict.counts.added for verdict in self.verdicts)
        operations = sum(verdict.counts.operations for verdict in self.verdicts)
        unknown = sum(verdict.counts.unknown for verdict in self.verdicts)
        figures = ", ".join(f"{value:,.0f} {name}" for name, value in self.figures.items())
        return (
            f"{added:,} tasks acknowledged; {unknown:,} of {operations:,} answers unknown;"
            f" {len(self.late):,} heads taken over, {share(self.late, 0.5):.2f} s after their"
            f" deadline, p99 {share(self.late, 0.99):.2f} s; {figures}"
        )


def nodes_kill(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill a node at a random moment, again and again, the keeper of the head among them."""
    run = _run(seed, scale.pick(4, 500), folder, _kill)
    # Whether a killed node is the keeper of a head that waits is a matter of chance.
    control = _run(seed, 1, folder, _kill_for_good, ("no_takeover",))
    for again in range(1, 4):
        if not control.wrong:
            control = _run(seed + again, 1, folder, _kill_for_good, ("no_takeover",))
    missed = () if control.wrong else ("a queue without takeover was done too",)
    return Outcome(
        promise="a node that dies takes nothing along, and its head is done in time",
        fault=f"SIGKILL of one of {NODES} nodes at a random moment under load",
        tried=scale.pick(4, 500),
        lost=run.lost,
        control=f"nodes that leave a head to its keeper: {'; '.join(control.wrong)}",
        broken=(*run.broken, *late(run)),
        missed=missed,
        notes=run.notes,
    )


def nodes_stop(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Stop a node at a random moment, in mid-transaction too, and let it go on."""
    run = _run(seed, scale.pick(8, 500), folder, _stop)
    wanted = {Kind.EARLY, Kind.OVERLAP}
    # Whether the finish of a node that was stopped meets the next head is a matter of chance.
    control = _run(seed, 5, folder, _stop_keeper, ("any_start",))
    for again in range(1, 4):
        if not control.kinds & wanted:
            control = _run(seed + again, 5, folder, _stop_keeper, ("any_start",))
    return Outcome(
        promise="a node that is stopped holds nothing up, and does nothing twice when it goes on",
        fault=f"SIGSTOP of one of {NODES} nodes for up to 2 s, then SIGCONT",
        tried=scale.pick(8, 500),
        lost=run.lost,
        control="a finish that names no start: " + "; ".join(map(summary, control.verdicts)),
        broken=run.broken,
        missed=() if control.kinds & wanted else ("no task was finished early",),
        notes=run.notes,
    )


def nodes_cut(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Cut, delay and freeze a node's connection before, in and after COMMIT."""
    rounds = scale.pick(len(FAULTS), 500)
    run = _run(seed, rounds, folder, _cuts(FAULTS))
    control = _run(seed, 4, folder, _cuts(("after",)), ("repeats",))
    return Outcome(
        promise="a lost answer to COMMIT is resolved: applied once, or certainly not",
        fault="connections cut before, in and after COMMIT, all at once, delayed, frozen for 3 s",
        tried=rounds,
        lost=run.lost,
        control="a commit that is repeated without a look: "
        + "; ".join(map(summary, control.verdicts)),
        broken=run.broken,
        missed=() if Kind.DOUBLED in control.kinds else ("nothing was doubled",),
        notes=run.notes,
    )


def summary(verdict: Verdict) -> str:
    """Return the verdict in one line."""
    return verdict.summary


def late(run: Run, seconds: float = LATE_SECONDS) -> tuple[str, ...]:
    """Return what is wrong when heads were taken over too late."""
    p99 = share(run.late, 0.99)
    if p99 <= seconds:
        return ()
    return (f"a head was taken over {p99:.2f} s after its deadline",)


def _kill(faulty: Faulty) -> None:
    nodes, _, chance, _ = faulty
    number = chance.randrange(NODES)
    nodes.kill(number)
    time.sleep(chance.uniform(0, 0.3))
    nodes.restart(number)


def _kill_for_good(faulty: Faulty) -> None:
    """Kill all but one, and start none of them again: their heads are left to the last one."""
    faulty.nodes.kill(1)
    faulty.nodes.kill(2)
    time.sleep(1)


def _stop(faulty: Faulty) -> None:
    nodes, _, chance, _ = faulty
    with nodes.stopped(chance.randrange(NODES)):
        time.sleep(chance.choice((0.02, 0.3, 1.0, 2.0)) * chance.uniform(0.5, 1))


def _stop_keeper(faulty: Faulty) -> None:
    """Stop the node that adds a task until another one has finished it, and a long one waits."""
    nodes, _, chance, history = faulty
    keeper, other = (Client(f"stop {each}", nodes.targets[each], history) for each in (0, 1))
    number = 10**12 + chance.randrange(10**9)
    keeper.add(number, 0.2)
    with nodes.stopped(0):
        other.add(number + 1, 1.5)
        time.sleep(0.8)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        other.read_results(max(other.added[-1].last - 5, 0))
    for client in (keeper, other):
        client.close()


def _cuts(kinds: Sequence[str]) -> Fault:
    """Return what makes one of these faults after the other."""
    coming = cycle(kinds)
    return lambda faulty: _cut(faulty, next(coming))


def _cut(faulty: Faulty, kind: str) -> None:
    _, between, chance, _ = faulty
    proxy = chance.choice(between)
    match kind:
        case "cut":
            proxy.cut()
        case "delay":
            proxy.delay = chance.uniform(0.01, 0.1)
            time.sleep(0.3)
            proxy.delay = 0.0
        case "freeze":
            proxy.on_commit = kind
            time.sleep(3)
            proxy.on_commit = ""
            proxy.thaw()
        case _:
            proxy.on_commit = kind
    time.sleep(0.2)


def _run(seed: int, rounds: int, parent: Path, fault: Fault, changes: tuple[str, ...] = ()) -> Run:
    chance = random.Random(seed)
    run = Run([], [], [], {})
    with cluster() as server:
        while rounds > 0:
            count = min(rounds, ROUNDS_PER_QUEUE)
            rounds -= count
            with emptied(parent) as folder, proxies(server) as between:
                nodes = Nodes(folder, [proxy.url for proxy in between], changes)
                faulty = Faulty(nodes, between, chance, History())
                # A broken service may never get there.
                once(server, faulty, fault, run, rounds=count, patience=5 if changes else 30)
            server.execute("DROP SCHEMA sanic_app CASCADE")
    run.late.sort()
    return run


@contextmanager
def proxies(server: Cluster) -> Iterator[list[Proxy]]:
    """Give a proxy for each node."""
    made = [Proxy(server.port) for _ in range(NODES)]
    try:
        yield made
    finally:
        for proxy in made:
            proxy.close()


def once(
    server: Cluster, faulty: Faulty, fault: Fault, run: Run, *, rounds: int, patience: float
) -> None:
    """Let a fault happen to one queue so many times, and add what came of it to the run."""
    nodes, _, chance, history = faulty
    try:
        with loaded(nodes, history, chance.randrange(10**6)):
            for _ in range(rounds):
                time.sleep(chance.uniform(0.05, 0.3))
                with history.fault():
                    fault(faulty)
            time.sleep(1)
        if not nodes.drained(patience):
            run.wrong.append("the queue is not drained")
        for outcome in ("applied", "repeated", "absent"):
            found = nodes.metric("commits_resolved_total", outcome=outcome)
            run.figures[outcome] = run.figures.get(outcome, 0) + found
        run.wrong.extend(f"a node ended: {line}" for line in nodes.ended)
    finally:
        nodes.close()
    verdict, wrong, taken_over = judged(server.url(), history, rounds)
    run.verdicts.append(verdict)
    run.wrong.extend(wrong)
    run.late.extend(taken_over)
