"""A full disk: adds are refused, reads go on, and space is all that it needs."""

from __future__ import annotations

import errno
import os
import random
import time
from contextlib import suppress
from pathlib import Path

from tests.proof.checker import check
from tests.proof.history import History, ReadResults
from tests.proof.load import Client, Target, requests_of
from tests.proof.machine import Volume, emptied, tmpfs
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import contradictions, snapshot
from tests.running import Running

SECONDS = 5.0
"""From free space to the next add."""
CREATED, FULL = 200, 507
MORE = 3_500
"""So many adds fill what a file system still has to give to files that are there."""


def full_disk(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Fill small file systems under a service, start it on a full one, and free space."""
    chance = random.Random(seed)
    broken: list[str] = []
    recoveries: list[float] = []
    rounds = scale.pick(2, 40)
    for number in range(rounds):
        if number % 2:
            with Volume(folder, chance.randrange(2, 6) * 2**20) as volume:
                wrong = _fill(volume.folder, recoveries)
        else:
            with tmpfs(folder, chance.randrange(160, 256) * 4096) as place:
                wrong = _fill(place, recoveries)
        broken += [f"round {number}: {line}" for line in wrong]
    with tmpfs(folder, 768 * 1024) as place:
        control = _fill(place, [], ("strict",))
    return Outcome(
        promise="a full disk: 507, reads go on, nothing acknowledged is lost, no restart needed",
        fault="tmpfs and ext4 of 640 KiB to 6 MiB filled under a running service,"
        " under a killed one, and under one that is then stopped and started; and filled to the"
        " last byte under a stopped one",
        tried=rounds * 4,
        lost=len(broken),
        control=f"a service that takes it for a failure: {'; '.join(control)[:120]}",
        broken=tuple(broken),
        missed=() if any("full disk" in line for line in control) else ("it was not noticed",),
        notes=f"adding again at the latest {max(recoveries, default=0):.2f} s after space was free",
    )


def _fill(place: Path, recoveries: list[float], changes: tuple[str, ...] = ()) -> list[str]:
    wrong: list[str] = []
    with emptied(place) as folder:
        history = History()
        running = service(folder, changes=changes)
        client = Client("nobody", Target(), history)
        try:
            for number, ending in enumerate(("run", "kill", "stop")):
                client = Client(f"client {number}", Target(running.port), history)
                for task in range(10):
                    client.add(number * 10_000 + task, 0.0 if task else 0.5)
                if ending == "kill":
                    running.kill()
                filler = fill(place)
                if ending == "stop":
                    # What the stop itself gives back is all that the start has.
                    running.stop()
                if ending != "run":
                    client.close()
                    running = service(folder, changes=changes)
                    client = Client(f"client {number}b", Target(running.port), history)
                wrong += _on_full(running, client, number * 10_000 + 1_000)
                wrong += _free(running, client, filler, number * 10_000 + 5_000, recoveries)
                client.close()
        except (AssertionError, OSError) as error:
            wrong.append(f"the service did not live through a full disk: {str(error)[-400:]}")
        finally:
            client.close()
            running.kill()
            (place / "filler").unlink(missing_ok=True)
        verdict = check(history, snapshot(folder / DATABASE), finishes=5)
        if verdict.violations:
            wrong += [verdict.summary, *(each.message for each in verdict.violations[:3])]
        if not wrong:
            wrong += contradictions(folder / DATABASE)
        if not changes:
            wrong += _no_room(folder, place)
    return wrong


def _no_room(folder: Path, place: Path) -> list[str]:
    """Start where not even SQLite's shared memory has room: reads, and all again with room."""
    stopped = service(folder)
    before = stopped.request("GET", "/get_result")
    stopped.stop()
    filler = fill(place)
    running = service(folder)
    try:
        after = running.request("GET", "/get_result")
        added = running.request("POST", "/add_task", {"num": 1, "timeout": 0})[0]
        filler.unlink()
        end = time.monotonic() + SECONDS
        while running.request("POST", "/add_task", {"num": 2, "timeout": 0})[0] != CREATED:
            if time.monotonic() > end:
                return [f"adding did not begin within {SECONDS:.0f} s of space: {running.log}"]
            time.sleep(0.02)
    except (AssertionError, OSError) as error:
        return [f"a start without any room: {error} {running.log[-400:]}"]
    finally:
        running.stop()
    if (added, after) != (FULL, before) or before[0] != CREATED:
        return [f"a start without any room: an add {added}, the results {after[0]}"]
    return []


def fill(place: Path) -> Path:
    """Take all the space that there is, to the last byte.

    ext4 gives freed blocks back only when its journal is committed: so it is filled, synced, and
    filled again until nothing more goes in.
    """
    filler = place / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while _write_until_full(descriptor):
            with suppress(OSError):
                os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return filler


def _write_until_full(descriptor: int) -> int:
    """Return how many bytes went in."""
    written = 0
    for size in (65_536, 4_096, 512, 1):
        try:
            while True:
                written += os.write(descriptor, bytes(size))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return written


def _on_full(running: Running, client: Client, first: int) -> list[str]:
    """Add until the service says that the disk is full, and look at the rest meanwhile."""
    for number in range(first, first + MORE):
        # ext4 may give some blocks back between two adds: then it was not full yet.
        if client.add(number, 0.0).answer != "ok" and client.add(-number, 0.0).answer != "ok":
            break
    else:
        return ["no add met the full disk"]
    wrong: list[str] = []
    status, problem = client.said
    if (status, problem.get("applied"), problem.get("type")) != (
        *(507, False),
        "urn:sanic-app:problem:disk-full",
    ):
        wrong.append(f"an add on a full disk: {status} {problem}")
    wrong += [
        f"{path} on a full disk: {status}"
        for path in ("/get_result", "/get_queue_work", "/api/v1/queue", "/metrics")
        if (status := running.request("GET", path)[0]) != 200
    ]
    client.read_results()
    client.read_queue()
    ready = running.request("GET", "/health/ready")
    if ready != (200, {"status": "ready", "reason": "the disk is full"}):
        wrong.append(f"/health/ready on a full disk: {ready}")
    # The head that waits becomes due while there is no room to finish it.
    time.sleep(0.6)
    if running.process.poll() is not None:
        wrong.append("the process ended on a full disk")
    return wrong


def _free(
    running: Running, client: Client, filler: Path, first: int, recoveries: list[float]
) -> list[str]:
    if not filler.stat().st_size:
        return ["there is no space to free: this proves nothing"]
    filler.unlink()
    begun = time.monotonic()
    number = first
    while client.add(number, 0.0).answer != "ok":
        number += 1
        if time.monotonic() - begun > SECONDS:
            return [f"no add within {SECONDS} s after space was free"]
        time.sleep(0.05)
    recoveries.append(time.monotonic() - begun)
    if not drained(running, SECONDS):
        return ["finishes do not catch up after a full disk"]
    client.read_results()
    if requests_of(client.history, ReadResults)[-1].answer != "ok":
        return ["no reads after a full disk"]
    return []
