"""Faults of the server: killed and started again, frozen, and replaced by its standby."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.postgres import Cluster
from tests.proof.checker import Kind, Verdict
from tests.proof.history import Add, History, ReadQueue, ReadResults, ReadTask, Request
from tests.proof.load import requests_of
from tests.proof.machine import emptied
from tests.proof.nodes import Nodes, cluster, freeze, judged, loaded, share, thaw
from tests.proof.outcome import Outcome, Scale

NODES = 2
ROUNDS_PER_QUEUE = 25
BACK_SECONDS = 1.0
"""Adding goes on so soon after the server accepts connections again."""
FAILOVER_SECONDS = 2.0
READ_SECONDS = 2.0
SLACK = 1.0
"""What a machine with other things to do may add."""
UNKNOWN_SHARE = 0.01
SYNCHRONOUS = "synchronous_standby_names = '*'"
ALONE = "synchronous_standby_names = ''"
WAITS_ENDED = ("cancel", "terminate", "crash")


class Run(NamedTuple):
    """What came of the rounds on one queue, or on several."""

    verdicts: list[Verdict]
    wrong: list[str]
    back: list[float]
    """For each round the seconds from the server's return to the first add that was answered."""
    reads: list[float]
    """What the longest read of each queue took."""

    @property
    def kinds(self) -> set[Kind]:
        return {found.kind for verdict in self.verdicts for found in verdict.violations}

    @property
    def summary(self) -> str:
        return "; ".join(verdict.summary for verdict in self.verdicts)

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
    def unknown(self) -> float:
        """The share of unknown answers among all."""
        operations = sum(verdict.counts.operations for verdict in self.verdicts)
        return sum(verdict.counts.unknown for verdict in self.verdicts) / max(operations, 1)

    @property
    def notes(self) -> str:
        back = sorted(self.back)
        added = sum(verdict.counts.added for verdict in self.verdicts)
        return (
            f"{added:,} tasks acknowledged; {self.unknown:.2%} of the answers unknown; adding went"
            f" on after {share(back, 0.5):.2f} s, p99 {share(back, 0.99):.2f} s, the longest read"
            f" took {max(self.reads, default=0):.1f} s"
        )


def server_kill(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill all processes of the server, and start it again."""
    rounds = scale.pick(4, 100)
    run = _on_one_server(seed, rounds, folder, _kill)
    # Whether the last commits had reached the disk is a matter of chance.
    control = _on_one_server(seed, 1, folder, _kill, ("asynchronous",))
    for again in range(1, 4):
        if Kind.LOST not in control.kinds:
            control = _on_one_server(seed + again, 1, folder, _kill, ("asynchronous",))
    return Outcome(
        promise="PostgreSQL may crash: nothing acknowledged is lost, and adding goes on by itself",
        fault="SIGKILL of all processes of the server under load, then a start",
        tried=rounds,
        lost=run.lost,
        control=f"commits that do not wait for the WAL: {control.summary}",
        broken=(*run.broken, *slow(run, BACK_SECONDS)),
        missed=() if Kind.LOST in control.kinds else ("nothing was lost by asynchronous commits",),
        notes=run.notes,
    )


def server_frozen(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Stop all processes of the server for a while."""
    rounds = scale.pick(3, 50)
    run = _on_one_server(seed, rounds, folder, _freeze)
    control = _on_one_server(seed, 1, folder, _freeze, ("no_deadlines",))
    limit = READ_SECONDS + SLACK
    return Outcome(
        promise="a frozen server is noticed, reads are answered in time, and all goes on by itself",
        fault="SIGSTOP of all processes of the server for up to 5 s",
        tried=rounds,
        lost=run.lost,
        control=f"a service without deadlines: its longest read took {max(control.reads):.1f} s",
        broken=(
            *run.broken,
            *slow(run, BACK_SECONDS),
            *(f"a read took {each:.1f} s" for each in run.reads if each > limit),
        ),
        missed=() if max(control.reads) > limit else ("a service without deadlines was in time",),
        notes=run.notes,
    )


def failover(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Promote the synchronous standby of a server that is dead, frozen, or comes back."""
    rounds = scale.pick(3, 100)
    run = _on_two_servers(seed, rounds, folder)
    control = _on_two_servers(seed, 1, folder, ("first_host",), ("back",))
    return Outcome(
        promise="a synchronous standby takes over: nothing is lost, and nobody writes elsewhere",
        fault="the primary killed, frozen, or back again without a fence; pg_promote",
        tried=rounds,
        lost=run.lost,
        control=f"nodes that take the first host instead of the best: {control.summary}",
        broken=(*run.broken, *slow(run, FAILOVER_SECONDS)),
        missed=() if Kind.LOST in control.kinds else ("nothing was lost on the first host",),
        notes=run.notes,
    )


def standby_away(seed: int, scale: Scale, folder: Path) -> Outcome:
    """End the wait for a standby that does not answer, and then promote that standby."""
    rounds = scale.pick(3, 50)
    run = _on_two_servers(seed, rounds, folder, kinds=WAITS_ENDED)
    control = _on_two_servers(seed, 1, folder, ("no_warnings",), ("cancel",))
    return Outcome(
        promise="no write is acknowledged that is not on the standby, whoever ends the wait for it",
        fault="the standby killed; pg_cancel_backend and pg_terminate_backend in the wait for it,"
        " a crash of the primary; then pg_promote",
        tried=rounds,
        lost=run.lost,
        control=f"nodes that take a warning in COMMIT for nothing: {control.summary}",
        broken=run.broken,
        missed=() if Kind.LOST in control.kinds else ("nothing was lost behind a warning",),
        notes=run.notes,
    )


def slow(run: Run, seconds: float) -> tuple[str, ...]:
    return tuple(
        f"adding went on after {each:.1f} s" for each in run.back if each > seconds + SLACK
    )


# One server.


def _kill(server: Cluster, _: random.Random) -> None:
    server.stop(signal.SIGKILL)
    server.start()


def _freeze(server: Cluster, chance: random.Random) -> None:
    assert server.process is not None
    pids = [server.process.pid, *server.children()]
    freeze(pids)
    time.sleep(chance.uniform(3, 5))
    thaw(pids)


def _on_one_server(
    seed: int,
    rounds: int,
    parent: Path,
    fault: Callable[[Cluster, random.Random], None],
    changes: tuple[str, ...] = (),
) -> Run:
    chance = random.Random(seed)
    run = Run([], [], [], [])
    with cluster() as server:
        while rounds > 0:
            count = min(rounds, ROUNDS_PER_QUEUE)
            rounds -= count
            history = History()
            with emptied(parent) as folder:
                nodes = Nodes(folder, [server.url()] * NODES, changes)
                try:
                    with loaded(nodes, history, chance.randrange(10**6)):
                        for _ in range(count):
                            time.sleep(chance.uniform(0.3, 1))
                            with history.fault():
                                fault(server, chance)
                                run.back.append(until_added(nodes, history))
                        time.sleep(1)
                    judge(run, nodes, history, server, rounds=count)
                finally:
                    nodes.close()
            server.execute("DROP SCHEMA sanic_app CASCADE")
    return run


# Two servers.


def _on_two_servers(
    seed: int,
    rounds: int,
    parent: Path,
    changes: tuple[str, ...] = (),
    kinds: Sequence[str] = ("killed", "frozen", "back"),
) -> Run:
    chance = random.Random(seed)
    run = Run([], [], [], [])
    standby = Cluster()
    with cluster(SYNCHRONOUS, "wal_keep_size = 64MB") as primary:
        try:
            servers = [primary, standby]
            hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
            where = f"postgresql://postgres@{hosts}/postgres"
            while rounds > 0:
                count = min(rounds, ROUNDS_PER_QUEUE)
                rounds -= count
                history = History()
                join(*servers)
                with emptied(parent) as folder:
                    nodes = Nodes(folder, [where] * NODES, changes)
                    try:
                        with loaded(nodes, history, chance.randrange(10**6)):
                            for number in range(count):
                                time.sleep(chance.uniform(0.3, 1))
                                kind = kinds[number % len(kinds)]
                                with history.fault():
                                    run.back.append(_fail_over(servers, kind, nodes, history))
                                servers.reverse()
                                if number < count - 1:
                                    join(*servers)
                            time.sleep(1)
                        lenient = kinds[0] in WAITS_ENDED
                        judge(run, nodes, history, servers[0], rounds=count, lenient=lenient)
                    finally:
                        nodes.close()
                servers[0].execute("DROP SCHEMA sanic_app CASCADE")
        finally:
            standby.remove()
    return run


def join(primary: Cluster, standby: Cluster) -> None:
    """Make a synchronous standby, and return when commits wait for it."""
    standby.make_standby(primary, ALONE)
    standby.start()
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    end = time.monotonic() + 30
    synced = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
    while not primary.query(synced):
        assert time.monotonic() < end, "the standby does not follow"
        time.sleep(0.02)


def _fail_over(servers: Sequence[Cluster], kind: str, nodes: Nodes, history: History) -> float:
    """Lose the primary, and promote the standby; return how soon adding went on."""
    old, new = servers
    if kind in WAITS_ENDED:
        _end_waits(old, new, kind)
        new.execute("SELECT pg_promote()")
        return until_added(nodes, history)
    assert old.process is not None
    pids = [old.process.pid, *old.children()]
    if kind == "frozen":
        freeze(pids)
    else:
        old.stop(signal.SIGKILL)
    new.execute("SELECT pg_promote()")
    back = until_added(nodes, history)
    if kind == "frozen":
        # It goes on with what was under way, for which no standby waits any more.
        thaw(pids)
        time.sleep(1)
        old.stop(signal.SIGKILL)
    elif kind == "back":
        (old.data / "postgresql.auto.conf").write_text(f"{ALONE}\n", encoding="utf-8")
        old.start()
        new.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'sanic-app'"
        )
        time.sleep(2)
        nodes.revive()
        time.sleep(1)
        old.stop(signal.SIGKILL)
        until_added(nodes, history)
    return back


def _end_waits(old: Cluster, new: Cluster, kind: str) -> None:
    """Lose the standby, end the waits for it, lose the primary, and start the standby again."""
    # Killed: a stopped one would find in its socket what it has missed.
    new.stop(signal.SIGKILL)
    end = time.monotonic() + 1.5
    while kind != "crash" and time.monotonic() < end:
        old.query(
            f"SELECT pg_{kind}_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'"
        )
        time.sleep(0.02)
    if kind == "crash":
        time.sleep(0.3)
        old.stop(signal.SIGKILL)
        # What is in its WAL is there now, whether the standby has it or not.
        old.start()
        time.sleep(1)
    old.stop(signal.SIGKILL)
    new.start()


def until_added(nodes: Nodes, history: History) -> float:
    """Return how many seconds it takes from now until an add is answered that was sent by then."""
    begun = time.monotonic()
    while time.monotonic() < begun + 20:
        nodes.revive()
        for operation in reversed(history.operations[-400:]):
            if (
                isinstance(operation.request, Add)
                and operation.answer == "ok"
                and operation.completed > begun
            ):
                return operation.completed - begun
        time.sleep(0.005)
    return time.monotonic() - begun


def _without_reads_in_faults(history: History, kinds: tuple[type[Request], ...]) -> History:
    """Leave out what was read while the primary showed more than its standby had."""
    kept = History()
    kept.faults = history.faults
    kept.operations = [
        each
        for each in history.operations
        if not isinstance(each.request, kinds)
        or not any(each.completed > begun and each.invoked < end for begun, end in history.faults)
    ]
    return kept


def judge(
    run: Run, nodes: Nodes, history: History, server: Cluster, *, rounds: int, lenient: bool = False
) -> None:
    """Judge what clients have seen of one queue, and add it to the run."""
    if not nodes.drained():
        run.wrong.append("the queue is not drained")
    # A standby that lacks what a node has seen ends that node, as it should.
    ended = [line for line in nodes.ended if not (lenient and "went back" in line)]
    run.wrong.extend(f"a node ended: {line}" for line in ended)
    kinds = (ReadQueue, ReadResults, ReadTask)
    if lenient:
        history = _without_reads_in_faults(history, kinds)
    reads = [each for kind in kinds for each in requests_of(history, kind)]
    run.reads.append(max(each.completed - each.invoked for each in reads))
    verdict, wrong, _ = judged(server.url(), history, rounds)
    run.verdicts.append(verdict)
    run.wrong.extend(wrong)
