"""A full disk of PostgreSQL: that of its tables, and that of its WAL."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.postgres import Cluster
from tests.proof.checker import Kind
from tests.proof.full_disk import fill
from tests.proof.history import Add, History
from tests.proof.load import Client
from tests.proof.machine import Volume, emptied, tmpfs
from tests.proof.nodes import Nodes, loaded
from tests.proof.outcome import Outcome, Scale
from tests.proof.server_faults import BACK_SECONDS, NODES, Run, judge, slow, until_added

DATA_BYTES, WAL_BYTES = 96 * 2**20, 24 * 2**20
SETTINGS = (
    "min_wal_size = 2MB",
    "max_wal_size = 8MB",
    "checkpoint_timeout = 1h",
    # Each new piece of WAL needs room.
    "wal_recycle = off",
)
PATIENCE = "3"
MET_SECONDS = 60.0
"""So soon a full disk is met under load."""
MORE = 20_000
"""So many adds fill what the tables still have to give."""
HEAD = 0.5
"""The timeout of a head that becomes due on a full disk, in seconds."""
ROUNDS_PER_QUEUE = 10


class Small(NamedTuple):
    """A server on small volumes."""

    server: Cluster
    data: Path
    wal: Path


def server_full(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Fill the volume of the tables, and that of the WAL, and free them."""
    chance = random.Random(seed)
    rounds, queues = scale.pick(1, ROUNDS_PER_QUEUE), range(scale.pick(1, 2))
    with _small(tmpfs) as small:
        found = [_on(small, chance, rounds, folder) for _ in queues]
        crashes = _panics(small.server)
        strict = _on(small, chance, 1, folder, "strict_server", volumes=("data",))
        lazy = _on(small, chance, 3, folder, "asynchronous", volumes=("wal",))
    if scale is Scale.FULL:
        with _small(Volume) as small:
            found += [_on(small, chance, rounds, folder) for _ in queues]
            crashes += _panics(small.server)
    run = Run(*([each for part in parts for each in part] for parts in zip(*found, strict=True)))
    ended = [line for line in strict.wrong if "a node ended" in line]
    return Outcome(
        promise="a full disk of PostgreSQL: 507 or a lost connection, nothing acknowledged is lost,"
        " and everything goes on by itself when there is room and the server runs",
        fault="tmpfs and ext4 of the tables (96 MiB) and of the WAL (24 MiB) filled to the last"
        " byte under load; the server is started again where it ended",
        tried=len(run.back),
        lost=run.lost,
        control=f"nodes that take it for a failure: {'; '.join(ended[:1])[:150]}; commits that do"
        f" not wait for the WAL: {lazy.summary}",
        broken=(*run.broken, *slow(run, BACK_SECONDS)),
        missed=(
            *(() if ended else ("no node ended at a full disk",)),
            *(() if Kind.LOST in lazy.kinds else ("nothing was lost by asynchronous commits",)),
        ),
        notes=f"{run.notes}; the server crashed {crashes} times",
    )


def _on(
    small: Small,
    chance: random.Random,
    rounds: int,
    parent: Path,
    *changes: str,
    volumes: tuple[str, ...] = ("data", "wal"),
) -> Run:
    """Fill each volume so many times under load, and then that of the tables once more."""
    run = Run([], [], [], [])
    history = History()
    with emptied(parent) as folder:
        where = [small.server.url()] * NODES
        nodes = Nodes(folder, where, changes, STORE_PATIENCE=PATIENCE)
        try:
            with loaded(nodes, history, chance.randrange(10**6)):
                for volume in volumes * rounds:
                    time.sleep(chance.uniform(0.3, 1))
                    with history.fault():
                        run.wrong.extend(_fill(small, volume, chance.uniform(0, 1), history))
                        run.back.append(until_added(nodes, history))
                time.sleep(1)
            if not changes:
                run.wrong.extend(_quiet(small, nodes, history))
            judge(run, nodes, history, small.server, rounds=rounds)
        finally:
            nodes.close()
    small.server.execute("DROP SCHEMA sanic_app CASCADE")
    small.server.execute("CHECKPOINT")
    return run


@contextmanager
def _small(kind: type[tmpfs | Volume]) -> Iterator[Small]:
    """Give a server whose tables and whose WAL lie on small volumes of their own."""
    server = Cluster(SETTINGS)
    with ExitStack() as life:
        life.callback(server.remove)
        places = []
        for name, size in (("tables", DATA_BYTES), ("wal", WAL_BYTES)):
            folder = server.folder / name
            folder.mkdir()
            volume = kind(folder, size)
            life.enter_context(volume)
            shutil.chown(volume.folder, "postgres", "postgres")
            places.append(volume.folder)
        # Before they are unmounted.
        life.callback(server.stop)
        data, wal = places
        server.data = data / "data"
        server.initdb = [f"--waldir={wal / 'wal'}", "--wal-segsize=1"]
        server.make()
        server.start()
        yield Small(server, data, wal)


def _fill(small: Small, volume: str, seconds: float, history: History) -> list[str]:
    """Fill a volume until it is noticed and so many seconds more; return when all can go on."""
    if volume == "wal":
        # What a checkpoint removes would be room for a while.
        small.server.execute("CHECKPOINT")
    begun, before = time.monotonic(), _panics(small.server)
    filler = fill(small.data if volume == "data" else small.wal)
    while not _panics(small.server) > before and not (
        volume == "data" and _refused(history, begun)
    ):
        if time.monotonic() > begun + MET_SECONDS:
            filler.unlink()
            return [f"nobody met the full disk of {volume}"]
        time.sleep(0.01)
    time.sleep(seconds)
    filler.unlink()
    _bring_back(small.server)
    return []


def _refused(history: History, begun: float) -> bool:
    """Return whether an add was refused that was sent later."""
    return any(
        isinstance(each.request, Add) and each.invoked > begun and each.answer == "refused"
        for each in history.operations[-400:]
    )


def _panics(server: Cluster) -> int:
    """Return how often the server has crashed: without room for its WAL, or for a checkpoint."""
    return (server.folder / "log").read_text(encoding="utf-8").count(" PANIC: ")


def _bring_back(server: Cluster) -> None:
    """Start the server again if it has ended, as its supervisor does; return when it answers."""
    end = time.monotonic() + MET_SECONDS
    while True:
        assert server.process is not None
        if server.process.poll() is not None:
            server.process.wait()
            server.start()
        try:
            server.query("SELECT 1")
        except psycopg.OperationalError:
            assert time.monotonic() < end, "the server does not come back"
            time.sleep(0.02)
        else:
            return


def _quiet(small: Small, nodes: Nodes, history: History) -> Iterator[str]:
    """Fill the volume of the tables, and look at each answer while nobody else writes."""
    if not nodes.drained():
        yield "the queue is not drained"
    # A checkpoint needs room too, and crashes the server without it.
    small.server.execute("CHECKPOINT")
    writer, other = nodes.running[0], nodes.running[1]
    client = Client("quiet", nodes.targets[0], history)
    first = 2 * 10**12
    # Before the disk is full: there may be no room for it afterwards.
    waiting = client.add(first, HEAD)
    with history.fault():
        filler = fill(small.data)
        reason = ""
        for number in range(first + 1, first + MORE):
            if client.add(number, 0.0).answer == "ok":
                continue
            status, problem = client.said
            kind, applied = problem.get("type"), problem.get("applied")
            if (status, applied, kind) != (507, False, "urn:sanic-app:problem:disk-full"):
                yield f"an add on a full disk: {status} {problem}"
            # Not if a smaller commit found room meanwhile.
            reason = writer.request("GET", "/health/ready")[1]["reason"]
            if reason == "the disk is full":
                break
        else:
            yield f"no add met the full disk, or readiness says {reason}"
        for running in (writer, other):
            for path in ("/get_result", "/get_queue_work", "/api/v1/queue", "/metrics"):
                if (status := running.request("GET", path)[0]) != 200:
                    yield f"{path} on a full disk: {status}"
            if (status := running.request("GET", "/health/ready")[0]) != 200:
                yield f"/health/ready on a full disk: {status}"
        # The head becomes due while there may be no room to finish it.
        time.sleep(HEAD * 2)
        filler.unlink()
    if waiting.answer != "ok":
        yield "the head was not added"
    if not nodes.drained():
        yield "finishes do not catch up after a full disk"
    client.read_results(max(0, client.added[-1].last - 10))
    client.close()
