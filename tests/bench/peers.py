"""``python -m tests.bench.peers``: other queues on the same disk, and what they do not promise."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.bench import servers, wrk
from tests.bench.adds import LONG_WAIT, MANY
from tests.bench.bench import FULL, QUICK, Bench
from tests.bench.client import Client, add
from tests.bench.figures import rate
from tests.bench.fill import fill
from tests.bench.machine import machine
from tests.bench.peer import NOT_HERE, PEERS, Measured
from tests.bench.report import PEERS_HEADING, markdown, write_peers
from tests.bench.servers import PEERS_PYTHON, ROOT
from tests.bench.waits import SHORTEST, finished, wait_until_done

OURS = "this service"
HEADS = ("queue", "put", f"put, {MANY} clients", "finish", "put is answered", "not promised")
SECONDS = 300
SINGLES = 1_000


class About(NamedTuple):
    """What a figure stands for."""

    answered: str
    not_promised: str


ABOUT = {
    OURS: About("after the sync; over HTTP", "working in parallel"),
    "beanstalkd -f 0": About(
        "after the sync; over TCP",
        "exactly once (a job is given out again when its reservation expires), waits that delay"
        " later jobs, a result list",
    ),
    "beanstalkd": About(
        "before the sync, which runs every 50 ms; over TCP",
        "that an acknowledged job survives a power cut, and all of the line above",
    ),
    "huey": About(
        "after the sync; in the same process",
        "that a task survives a crash of its worker (it is deleted before it runs), a network,"
        " waits that delay later tasks",
    ),
    "persist-queue": About(
        "after the sync; in the same process",
        "exactly once (a task that was not acknowledged is given out again), a network, waits",
    ),
    "procrastinate": About(
        "after the sync (synchronous_commit); to PostgreSQL over a local socket",
        "that a job continues by itself after its worker was killed, waits that delay later"
        " jobs, a result in the transaction of the finish",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when something was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help="write them into BENCHMARKS.md")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    given = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="bench-", dir=given.folder) as folder:
        # PostgreSQL's user has to pass.
        Path(folder).chmod(0o711)
        bench = Bench(QUICK if given.quick else FULL, Path(folder))
        text = _text(bench, _measured(bench))
        bench.disk.close()
    sys.stdout.write(f"{text}\n")
    if given.write:
        write_peers(ROOT, text)
    return 0


def _measured(bench: Bench) -> dict[str, list[Measured]]:
    """Measure each peer in turn, again and again."""
    found: dict[str, list[Measured]] = defaultdict(list)
    missing: set[str] = set()
    for _ in range((bench.scale.repetitions + 1) // 2):
        bench.disk.sync()
        for name in [OURS, *PEERS]:
            if name in missing:
                continue
            with bench.room("peer") as folder:
                measured = _ours(bench, folder) if name == OURS else peer(bench, name, folder)
            if measured is None:
                missing.add(name)
                bench.missing.append(name)
            else:
                found[name].append(measured)
        bench.say("peers: once around")
    return found


def peer(bench: Bench, name: str, folder: Path, *url: str) -> Measured | None:
    """Measure a peer, with a server of its own or in the empty database of a URL.

    None: it is not installed.
    """
    python = str(PEERS_PYTHON) if PEERS_PYTHON.exists() else sys.executable
    seconds = str(bench.scale.load_seconds)
    command = [python, "-m", "tests.bench.peer", name, str(folder), seconds, *url]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode == NOT_HERE:
        return None
    if done.returncode:
        bench.say(f"{name} failed:\n{done.stderr}")
        return None
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _ours(bench: Bench, folder: Path) -> Measured:
    with servers.service(folder) as server, Client(server.port) as client:
        many = wrk.load(server.port, MANY, bench.scale.load_seconds).rate
        one = client.timed_for(bench.scale.load_seconds, add(LONG_WAIT))
    fill(folder / "singles.db", first=(SHORTEST,) * SINGLES)
    with servers.service(folder, "singles.db") as server, Client(server.port) as client:
        wait_until_done(client, SINGLES)
        took = finished(client, SINGLES) - finished(client, 1)
    return Measured("", len(one) / sum(one), many, (SINGLES - 1) / took)


def _text(bench: Bench, found: dict[str, list[Measured]]) -> str:
    rows = []
    for name, each in found.items():
        put, take = (
            statistics.median(m.put for m in each),
            statistics.median(m.take for m in each),
        )
        many = [m.put_by_many for m in each if m.put_by_many is not None]
        rows.append(
            (
                " ".join(filter(None, [name, f"({each[0].version})" if each[0].version else ""])),
                rate(put),
                rate(statistics.median(many)) if many else "",
                rate(take),
                *ABOUT[name],
            )
        )
    facts = machine(bench.folder, bench.disk)
    missing = "".join(f"\n- Not installed: {name}." for name in bench.missing)
    return f"""{PEERS_HEADING}

Made by `make bench-peers`, on the same disk, each with the durability named in the table. *Put* is
one client that waits for each answer. *Finish* takes one task at a time and finishes or deletes it.

{markdown(("", ""), facts)}

{markdown(HEADS, rows)}
{missing}"""


if __name__ == "__main__":
    sys.exit(main())
