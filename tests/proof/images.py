"""Torn and dropped writes: every state that a power cut may leave, as far as chance finds them.

A real service's own calls are recorded: every write and sync of its disk and every answer to its
clients, in one order. At a moment of this record the power goes: what was synced stays, of the
rest each write is kept, dropped or torn. The store's own code opens what is left. (A file system
for SQLite in Python would do the same to one connection of another program; this does it to the
very calls of the service, creation, recovery, checkpoints and all.)
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from sanic_app.clock import SystemClock
from sanic_app.errors import StartError
from sanic_app.store.sqlite.store import SqliteStore
from tests.parts import shut
from tests.proof.history import History
from tests.proof.load import Client, Target, load, next_port
from tests.proof.machine import strace
from tests.proof.outcome import Outcome, Scale
from tests.proof.platter import Platter
from tests.proof.recording import (
    CALLS,
    OPTIONS,
    Acknowledged,
    Create,
    Event,
    Put,
    Shown,
    Sync,
    events,
)
from tests.proof.service import DATABASE, service
from tests.proof.tables import contradictions, snapshot

MEMORY = Path("/dev/shm")
OPERATIONS = 200
FAILING = ("-e", "inject=fdatasync:error=EIO:when=9")
CHANGES = ("checkpoint_pages=60",)
WORKERS = 2


def images(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Record services, cut their power at random moments, and open what may be left."""
    # Of a broken service's images every second one has lost something.
    wanted, few = scale.pick(200, 5_000), scale.pick(20, 60)
    sound = _record(seed, folder / "sound", CHANGES)
    doubtful = _record_failed_sync(folder / "doubtful")
    weak = _record(seed, folder / "weak", (*CHANGES, "unsynced"))
    hole = _record_failed_sync(folder / "hole", ("no_recovery",))
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        judge = partial(_judge, pool, seed)
        broken = judge(sound, wanted) + judge(doubtful, wanted // 5)
        controls = {
            "synchronous=NORMAL": judge(weak, few),
            "a sync that lies": judge(sound, few, lies=True),
            "no truncating checkpoint before ready (a hole in the WAL)": judge(hole, few),
        }
    losses = {
        name: sum(line.startswith("lost") for line in found) for name, found in controls.items()
    }
    return Outcome(
        promise="acknowledged means durable; shown means durable; whole or not at all",
        fault="power cut at any moment: unsynced writes kept, dropped or torn at sectors;"
        " the same after a failed sync, whose writes may be missing for ever",
        tried=wanted + wanted // 5,
        lost=len(broken),
        control="; ".join(
            f"{name}: {count} of {few} images lost acknowledged tasks"
            for name, count in losses.items()
        ),
        broken=tuple(broken),
        missed=tuple(f"{name} lost nothing" for name, count in losses.items() if not count),
        notes=f"{len(sound.events):,} calls and answers recorded,"
        f" {sum(isinstance(event, Acknowledged) for event in sound.events)} acknowledged",
    )


@dataclass(frozen=True, slots=True)
class Record:
    """What happened in order, and from which place on the power may go."""

    events: list[Event]
    first: int = 0


def _record(seed: int, folder: Path, changes: Sequence[str]) -> Record:
    """Record a creation, a life under load, and another on what a kill left of the first."""
    folder.mkdir()
    found: list[Event] = []
    for life in range(2):
        trace = folder.with_suffix(".strace")
        target, history = Target(), History()
        running = service(folder, changes=changes, prefix=strace(trace, CALLS, *OPTIONS))
        try:
            with load(target, history, seed + life, adders=2, pause=0.005):
                next_port(target, running.port)
                deadline = time.monotonic() + 20
                while len(history.operations) < OPERATIONS and time.monotonic() < deadline:
                    time.sleep(0.02)
                if life == 0:
                    target.up.clear()
                    running.kill()
            if life == 1:
                running.stop()
        finally:
            running.kill()
        found += events(trace, folder)
        trace.unlink()
    return Record(found)


def _record_failed_sync(folder: Path, changes: Sequence[str] = ()) -> Record:
    """Record a life whose sync fails in the midst of adds, and the life after it.

    The power goes once the second life serves: two faults before that are not promised.
    """
    folder.mkdir()
    service(folder).stop()
    content = (folder / DATABASE).read_bytes()
    found: list[Event] = [Create(DATABASE), Put(DATABASE, 0, content), Sync(DATABASE), Sync("")]
    ready = 0
    for first, options in ((1, FAILING), (1_001, ())):
        trace = folder.with_suffix(".strace")
        prefix = strace(trace, CALLS, *OPTIONS, *options)
        running = service(folder, changes=changes, prefix=prefix)
        client = Client("client", Target(running.port), History())
        try:
            for number in range(first, first + 12):
                if client.add(number, 3_600).answer != "ok":
                    break
            client.close()
            if options:
                assert running.wait() == 70
        finally:
            running.kill()
        life = list(events(trace, folder))
        acknowledged = (n for n, event in enumerate(life) if isinstance(event, Acknowledged))
        ready = len(found) + next(acknowledged, 0)
        found += life
        trace.unlink()
    return Record(found, ready)


def _judge(
    pool: ProcessPoolExecutor, seed: int, record: Record, count: int, *, lies: bool = False
) -> list[str]:
    """Cut the power so often; return what is wrong with what was left."""
    chance = random.Random(seed)
    places = sorted(chance.randrange(record.first, len(record.events)) for _ in range(count))
    parts = [(record, seed + part, places[part::WORKERS], lies) for part in range(WORKERS)]
    return list(itertools.chain(*pool.map(_judge_part, parts)))


def _judge_part(part: tuple[Record, int, list[int], bool]) -> list[str]:
    record, seed, places, lies = part
    chance = random.Random(seed)
    platter = Platter(lies=lies)
    told = Told()
    wrong: list[str] = []
    done = 0
    for place in places:
        for event in record.events[done:place]:
            platter.take(event)
            told.take(event)
        done = place
        with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
            folder = Path(name)
            platter.image(chance, folder)
            wrong += [f"{line} (power cut at {place})" for line in _look(folder, told)]
    return wrong


class Told:
    """What clients had been told when the power went."""

    def __init__(self) -> None:
        self.added: dict[int, int] = {}
        self.done: set[int] = set()

    def take(self, event: Event) -> None:
        match event:
            case Acknowledged(history_num, num):
                self.added[history_num] = num
            case Shown(history_nums):
                self.done.update(history_nums)


def _look(folder: Path, told: Told) -> list[str]:
    """Open an image with the store itself; return what is wrong with it, losses first."""
    database = folder / DATABASE
    try:
        asyncio.run(_open(database))
    except StartError as error:
        return [f"refused to start: {error.detail}"]
    try:
        return _missing(database, told) + contradictions(database)
    except sqlite3.DatabaseError as error:
        return [f"damaged: {error}"]


def _missing(database: Path, told: Told) -> list[str]:
    rows = snapshot(database)
    nums = {row.history_num: row.num for row in (*rows.queue, *rows.history)}
    lost = {number for number, num in told.added.items() if nums.get(number) != num}
    lost |= told.done - {row.history_num for row in rows.history}
    wrong = [f"lost: {sorted(lost)}"] if lost else []
    if sorted(nums) != list(range(1, len(nums) + 1)):
        wrong.append("history numbers have gaps")
    return wrong


async def _open(database: Path) -> None:
    store = SqliteStore(database, SystemClock(), 0)
    lease = await store.own()
    try:
        await store.open(lease)
    finally:
        # After a start that failed as well: its threads would keep this process from ending.
        await shut(store)
        lease.release()
