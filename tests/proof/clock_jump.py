"""A standby is promoted whose clock is ten minutes ahead of the primary's, or behind it."""

from __future__ import annotations

import math
import random
import re
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from tests.postgres import Cluster
from tests.proof.checker import Kind
from tests.proof.history import Added, History, Seen
from tests.proof.load import Client, stamp
from tests.proof.machine import emptied, faketime
from tests.proof.nodes import Nodes, cluster, loaded
from tests.proof.outcome import Outcome, Scale
from tests.proof.server_faults import (
    FAILOVER_SECONDS,
    NODES,
    SLACK,
    SYNCHRONOUS,
    Run,
    join,
    judge,
    slow,
    until_added,
)
from tests.running import Running

JUMP = 600
"""Seconds between the clock of a server and that of the next one."""
CLOCKS = (JUMP, 0, -JUMP, 0)
"""How far the clock of each next server is from the true time."""
WAIT = 3.0
"""The timeout of the head that waits while its server is replaced."""
LONG = 60.0
RESTARTED = 2.0
"""The timeout of a head whose nodes are all killed and started again."""


def clock_jump(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Promote under load, and in the wait of a lone head; then look at what nodes say of time."""
    busy, lone = scale.pick(2, 16), scale.pick(2, 16)
    run = _run(seed, busy, lone, folder)
    early = _run(seed, 0, 1, folder, "server_clock")
    still = _run(seed, 0, 1, folder, "still_stamps", clocks=(-JUMP,))
    return Outcome(
        promise="never early, no wait postponed, stamps never go back, ages and due times go on"
        " whatever the clock of a promoted server shows",
        fault=f"a synchronous standby is promoted whose clock is {JUMP} s ahead of the primary's,"
        " or behind it; nodes killed and started behind it",
        tried=busy + lone,
        lost=run.lost,
        control=f"nodes that wait by the clock of the server: {_first(early)}; stamps that wait for"
        f" the clock: {_first(still)}",
        broken=(*run.broken, *slow(run, FAILOVER_SECONDS)),
        missed=(
            *(() if _early(early) else ("nothing was early by the clock of the server",)),
            *(() if any("old after" in line for line in still.wrong) else ("ages went on",)),
        ),
        notes=run.notes,
    )


def _first(run: Run) -> str:
    return run.broken[0] if run.broken else "nothing was wrong"


def _early(run: Run) -> bool:
    return Kind.EARLY in run.kinds or any("too early" in line for line in run.wrong)


def _run(
    seed: int,
    busy: int,
    lone: int,
    parent: Path,
    *changes: str,
    clocks: Sequence[int] = CLOCKS,
) -> Run:
    chance = random.Random(seed)
    run = Run([], [], [], [])
    history = History()
    standby = Cluster()
    offsets = cycle(clocks)
    with cluster(SYNCHRONOUS, "wal_keep_size = 64MB") as primary, emptied(parent) as folder:
        servers = [primary, standby]
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
        where = f"postgresql://postgres@{hosts}/postgres"
        try:
            _follow(servers, 0)
            nodes = Nodes(folder, [where] * NODES, changes)
            try:
                if busy:
                    with loaded(nodes, history, seed):
                        for _ in range(busy):
                            _follow(servers, next(offsets))
                            time.sleep(chance.uniform(0.3, 1))
                            with history.fault():
                                _replace(servers)
                                run.back.append(until_added(nodes, history))
                        time.sleep(1)
                    if not nodes.drained():
                        run.wrong.append("the queue is not drained")
                most = max((0, *clocks[:busy]))
                for number in range(lone):
                    offset = next(offsets)
                    most = max(most, offset)
                    _follow(servers, offset)
                    wrong = _lone(servers, nodes, history, number, most - offset)
                    run.wrong.extend(f"clock {offset:+} s: {line}" for line in wrong)
                judge(run, nodes, history, servers[0], rounds=busy + lone)
            finally:
                nodes.close()
        finally:
            standby.remove()
    return run


def _follow(servers: Sequence[Cluster], offset: int) -> None:
    """Make a standby with another clock."""
    primary, standby = servers
    standby.stop(signal.SIGKILL)
    standby.environ = {}
    if offset:
        standby.environ = {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME": f"{offset:+}",
            "DONT_FAKE_MONOTONIC": "1",
        }
    join(primary, standby)
    ((shown,),) = standby.query("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert isinstance(shown, float)
    assert abs(shown - time.time() - offset) < 5, "the clock of the standby is not the one meant"


def _replace(servers: list[Cluster]) -> None:
    """Lose the primary, and promote the standby."""
    servers[0].stop(signal.SIGKILL)
    servers.reverse()
    servers[0].execute("SELECT pg_promote()")


def _lone(
    servers: list[Cluster],
    nodes: Nodes,
    history: History,
    number: int,
    ahead: int,
) -> Iterator[str]:
    """Replace the server in the wait of a lone head; tell what is wrong, then and afterwards."""
    keeper, other = (Client(f"lone {number} {i}", nodes.targets[i], history) for i in (0, 1))
    num = 10**12 + number * 10
    begun = time.monotonic()
    first = _number(keeper, num, WAIT)
    with history.fault():
        _replace(servers)
        took = _done_after(other, first, begun, WAIT + FAILOVER_SECONDS + 2 * SLACK)
    yield from _judged(took, WAIT, FAILOVER_SECONDS + SLACK)
    if took == math.inf:
        return
    begun = time.monotonic()
    took = _done_after(other, _number(keeper, num + 1, 1.0), begun, 1.0 + 2 * SLACK)
    yield from _judged(took, 1.0, SLACK)
    begun = time.monotonic()
    head = _number(keeper, num + 2, LONG)
    time.sleep(1.2)
    for running in nodes.running:
        yield from _figures(running, head, begun, ahead)
    # Another node, and its start, has nothing but what the server says.
    nodes.kill(1)
    nodes.restart(1)
    task = nodes.running[1].request("GET", f"/api/v1/tasks/{head}")[1]
    yield from _left(task, begun)
    other.cancel(head, head)
    yield from _restarted(nodes, keeper, other, history, num + 3)
    for client in (keeper, other):
        client.close()


def _restarted(
    nodes: Nodes, keeper: Client, other: Client, history: History, num: int
) -> Iterator[str]:
    """Kill all nodes in the wait of a head: the rest of it is left, or at most all of it."""
    begun = time.monotonic()
    head = _number(keeper, num, RESTARTED)
    with history.fault():
        for each in range(NODES):
            nodes.kill(each)
        for each in range(NODES):
            nodes.restart(each)
        ready = time.monotonic() - begun
        took = _done_after(other, head, begun, ready + RESTARTED + 2 * SLACK)
    yield from (f"after a restart {line}" for line in _judged(took, RESTARTED, ready + SLACK))


def _number(client: Client, num: int, timeout: float) -> int:
    added = client.add(num, timeout).value
    assert isinstance(added, Added), "an add was refused"
    return added.first


def _done_after(client: Client, number: int, begun: float, seconds: float) -> float:
    """Return how long after the beginning the task was seen done; for ever, if it takes longer."""
    while time.monotonic() < begun + seconds:
        operation = client.read_task(number)
        if isinstance(operation.value, Seen) and operation.value.state == "done":
            return operation.completed - begun
        time.sleep(0.01)
    return math.inf


def _judged(took: float, timeout: float, more: float) -> Iterator[str]:
    if took < timeout:
        yield f"a head of {timeout:.0f} s was done after {took:.2f} s, too early"
    elif took == math.inf:
        yield f"a head of {timeout:.0f} s is not done {more:.0f} s after its deadline"
    elif took > timeout + more:
        yield f"a head of {timeout:.0f} s was done after {took:.2f} s"


def _figures(running: Running, head: int, begun: float, ahead: int) -> Iterator[str]:
    """Tell what is wrong with ages and due times while a lone head of 60 s waits."""
    task = running.request("GET", f"/api/v1/tasks/{head}")[1]
    yield from _left(task, begun)
    due = (stamp(task["date_due"]) - stamp(task["date_started"])) / 1_000_000
    if abs(due - LONG) > SLACK:
        yield f"a head of {LONG:.0f} s is due {due:.2f} s after its start"
    ages = [
        running.request("GET", "/api/v1/queue")[1]["oldest_task_age_seconds"],
        _gauge(running, "queue_oldest_task_age_seconds"),
    ]
    passed = time.monotonic() - begun
    for age in ages:
        if not passed - SLACK < age <= passed:
            yield f"a task is {age:.2f} s old after {passed:.2f} s"
    shown = _gauge(running, "stamp_ahead_seconds")
    if not (ahead / 2 < shown <= ahead + SLACK if ahead else shown < SLACK):
        yield f"stamps are {shown:.0f} s ahead, not {ahead} s"


def _left(task: dict[str, float], begun: float) -> Iterator[str]:
    left, passed = task["seconds_until_due"], time.monotonic() - begun
    if not LONG - passed - SLACK < left <= LONG:
        yield f"{left:.2f} s of {LONG:.0f} are left after {passed:.2f} s"


def _gauge(running: Running, name: str) -> float:
    text = running.request("GET", "/metrics")[1]
    found = re.search(rf"^sanic_app_{name} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])
