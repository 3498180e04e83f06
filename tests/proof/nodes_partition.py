"""Nodes in network namespaces of their own, whose link to PostgreSQL fails in each direction."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.postgres import Cluster
from tests.proof.checker import Kind
from tests.proof.history import History
from tests.proof.machine import emptied, run
from tests.proof.nodes import Nodes, Place, cluster
from tests.proof.nodes_faults import NODES, Faulty, Run, late, once, summary
from tests.proof.outcome import Outcome, Scale

ROUNDS_PER_QUEUE = 25
SECONDS = (0.3, 1.0, 2.5, 4.0)
LATE_SECONDS = 3.0
"""A node that is cut off in a transaction holds the lock for a second, two of them one each."""
KINDS = ("down", "asks", "answers", "silent")


class Host:
    """A network namespace with two links: one to the server, and one to its clients."""

    def __init__(self, number: int) -> None:
        """Make it; the links are up."""
        self.name = f"sanic-{os.getpid()}-{number}"
        self._links = [f"san{os.getpid() % 100_000}{end}{number}" for end in "dc"]
        self.node, self.server = f"10.211.{number}.2", f"10.211.{number}.1"
        run("ip", "netns", "add", self.name, check=True)
        for link, net in zip(self._links, ("10.211", "10.212"), strict=True):
            self._connect(link, f"{net}.{number}")
        self._inside("link", "set", "lo", "up")
        self.place = Place(("ip", "netns", "exec", self.name), f"10.212.{number}.2")

    def _connect(self, link: str, net: str) -> None:
        run(*("ip", "link", "add", link, "type", "veth", "peer", "name", "peer"),
            *("netns", self.name), check=True)  # fmt: skip
        run("ip", "addr", "add", f"{net}.1/30", "dev", link, check=True)
        run("ip", "link", "set", link, "up", check=True)
        self._inside("link", "set", "peer", "name", link[-2:])
        self._inside("addr", "add", f"{net}.2/30", "dev", link[-2:])
        self._inside("link", "set", link[-2:], "up")

    @contextmanager
    def partition(self, kind: str) -> Iterator[None]:
        """Cut it off from the server: the link down, or packets lost in one direction or both."""
        asks = ("route", "add", "blackhole", f"{self.server}/32")
        answers = ("route", "add", "blackhole", f"{self.node}/32")
        if kind == "down":
            run("ip", "link", "set", self._links[0], "down", check=True)
        if kind in ("asks", "silent"):
            self._inside(*asks)
        if kind in ("answers", "silent"):
            run("ip", *answers, check=True)
        try:
            yield
        finally:
            if kind == "down":
                run("ip", "link", "set", self._links[0], "up", check=True)
            if kind in ("asks", "silent"):
                self._inside("route", "del", *asks[2:])
            if kind in ("answers", "silent"):
                run("ip", "route", "del", *answers[2:], check=True)

    def remove(self) -> None:
        """Remove it, and the links before it: with it they would go a while later."""
        for link in self._links:
            run("ip", "link", "del", link)
        run("ip", "netns", "del", self.name)

    def _inside(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments, check=True)


def nodes_partition(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Cut nodes off from their server, one or several, with or without a sign of it."""
    rounds = scale.pick(6, 200)
    found = _run(seed, rounds, folder, KINDS)
    control = _run(seed, 8, folder, ("answers",), ("repeats",))
    return Outcome(
        promise="a node that is cut off from PostgreSQL answers honestly, and holds nobody up",
        fault=f"{NODES} nodes in network namespaces of their own; the link down, packets lost in"
        " one direction or in both, for up to 4 s, on one node or on two",
        tried=rounds,
        lost=found.lost,
        control="a commit that is repeated without a look: "
        + "; ".join(map(summary, control.verdicts)),
        broken=(*found.broken, *late(found, LATE_SECONDS)),
        missed=() if Kind.DOUBLED in control.kinds else ("nothing was doubled",),
        notes=found.notes,
    )


def _run(
    seed: int, rounds: int, parent: Path, kinds: tuple[str, ...], changes: tuple[str, ...] = ()
) -> Run:
    chance = random.Random(seed)
    found = Run([], [], [], {})
    with _hosts() as hosts, _server(hosts) as server:

        def cut(_: Faulty) -> None:
            with ExitStack() as cuts:
                for host in chance.sample(hosts, chance.choice((1, 1, 2))):
                    cuts.enter_context(host.partition(chance.choice(kinds)))
                time.sleep(chance.choice(SECONDS) * chance.uniform(0.5, 1))
            time.sleep(0.2)

        while rounds > 0:
            count = min(rounds, ROUNDS_PER_QUEUE)
            rounds -= count
            with emptied(parent) as folder:
                urls = [
                    f"postgresql://postgres@{host.server}:{server.port}/postgres" for host in hosts
                ]
                places = [host.place for host in hosts]
                nodes = Nodes(folder, urls, changes, places, ALLOW_ANONYMOUS="true")
                faulty = Faulty(nodes, (), chance, History())
                once(server, faulty, cut, found, rounds=count, patience=5 if changes else 30)
            server.execute("DROP SCHEMA sanic_app CASCADE")
    found.late.sort()
    return found


@contextmanager
def _hosts() -> Iterator[list[Host]]:
    with ExitStack() as life:
        hosts = []
        for number in range(NODES):
            hosts.append(host := Host(number))
            life.callback(host.remove)
        yield hosts


@contextmanager
def _server(hosts: list[Host]) -> Iterator[Cluster]:
    """Give a server that listens on the links too."""
    addresses = ",".join(("127.0.0.1", *(host.server for host in hosts)))
    with cluster(f"listen_addresses = '{addresses}'") as server:
        server.configure("host all all 10.211.0.0/16 trust", file="pg_hba.conf")
        server.execute("SELECT pg_reload_conf()")
        yield server
