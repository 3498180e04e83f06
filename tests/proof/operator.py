"""What operators do: backups, restores, copies, and files that are exchanged, deleted or linked."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.proof.copies import copy, copying
from tests.proof.machine import emptied
from tests.proof.nodes import cluster
from tests.proof.operator_postgres import PostgresWalks
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, service
from tests.proof.tables import contradictions
from tests.running import Running

SECONDS = 2.0
BACKUP_SECONDS = 10.0
POSTGRES_SHARE = 5
"""So often the walks with PostgreSQL are taken for each of the others."""

Walk = Callable[[Path, random.Random], list[str]]


def operator(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Walk each path with random loads; look at what is served and what was acknowledged."""
    chance = random.Random(seed)
    broken: list[str] = []
    with cluster() as server:
        postgres = PostgresWalks(server, kills=scale.pick(1, 2))
        kinds = (*WALKS, *postgres.walks * scale.pick(1, POSTGRES_SHARE))
        walks = [kinds[n % len(kinds)] for n in range(scale.pick(len(kinds), 200))]
        for walk in walks:
            with emptied(folder) as home:
                broken += [f"{walk.__name__}: {line}" for line in walk(home, chance)]
        with emptied(folder) as home:
            control = _restored_beside_its_wal(home, random.Random(seed), ("no_marks",))
        with emptied(folder) as home:
            piecemeal = postgres.control(home)
    return Outcome(
        promise="never ready on a wrong database; nothing acknowledged lost without a word",
        fault=", ".join(
            walk.__name__.strip("_").replace("_", " ") for walk in (*WALKS, *postgres.walks)
        ),
        tried=len(walks),
        lost=len(broken),
        control=f"a service that takes any WAL for its own: {'; '.join(control)[:120]}; a copy that"
        f" is seen while it is made: {'; '.join(piecemeal)[:120]}",
        broken=tuple(broken),
        missed=(
            *(() if any("it serves" in line for line in control) else ("it was refused too",)),
            *(() if any("not whole" in line for line in piecemeal) else ("nobody saw it",)),
        ),
    )


def _load(running: Running, chance: random.Random) -> int:
    """Add batches, done at once or waiting; return the last history number."""
    last = 0
    for _ in range(chance.randrange(1, 6)):
        tasks = chance.choice((1, 20, 900))
        timeout = chance.choice((0, 0, 60))
        body = {"tasks": [{"num": 1, "timeout": timeout}] * tasks}
        status, answer = running.request("POST", "/api/v1/tasks/batch", body)
        if status != 201:
            raise RuntimeError(f"{status}: {answer}")
        last = answer["last"]
    return last


def _back_up(home: Path) -> float:
    return copy(home, DATABASE, "copy.db")


def _last(home: Path) -> tuple[int, list[str]]:
    """Start what is there; return the last history number that it knows, and what is wrong."""
    running = service(home)
    try:
        last = running.add(1, 60)["history_num"] - 1
        wrong = [] if running.request("GET", "/get_result")[0] == 200 else ["no result list"]
    finally:
        running.kill()
    return last, wrong + contradictions(home / DATABASE)


def _refusal(home: Path, words: str, *flags: str, changes: tuple[str, ...] = ()) -> list[str]:
    """Return what is wrong with a start that must be refused with these words."""
    running = service(home, *flags, changes=changes, ready=False)
    deadline = time.monotonic() + 20
    while running.process.poll() is None and time.monotonic() < deadline:
        if "serving on" in running.log:
            running.kill()
            return ["it serves"]
        time.sleep(0.01)
    status = running.wait()
    if status != 1 or len(running.lines) != 1 or words not in running.log:
        return [f"status {status}: {running.log}"]
    return []


def _end(running: Running, words: str) -> list[str]:
    """Return what is wrong with the end of a service whose files were touched."""
    begun = time.monotonic()
    try:
        status = running.wait(20)
    except Exception:  # noqa: BLE001 - it goes on
        running.kill()
        return ["it goes on"]
    seconds = time.monotonic() - begun
    if status != 70 or seconds > SECONDS or words not in running.log:
        return [f"status {status} after {seconds:.1f} s: {running.log}"]
    return []


def _backed_up_and_restored(home: Path, chance: random.Random) -> list[str]:
    running = service(home)
    try:
        before = _load(running, chance)
        seconds = _back_up(home)
        _load(running, chance)
    finally:
        running.kill()
    for suffix in ("", "-wal", "-shm"):
        (home / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    copy(home, "copy.db", DATABASE)
    last, wrong = _last(home)
    if last != before:
        wrong.append(f"{last} restored, and {before} were backed up")
    return wrong + ([f"a backup took {seconds:.1f} s"] if seconds > BACKUP_SECONDS else [])


def _copies_killed(home: Path, chance: random.Random) -> list[str]:
    """Kill copies at random moments: the target is whole or not there, and the next one is made."""
    running = service(home)
    wrong = []
    try:
        before = _load(running, chance)
        for _ in range(5):
            process = copying(home, DATABASE, "copy.db")
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=chance.uniform(0.1, 0.9))
            process.kill()
            process.communicate()
            if (home / "copy.db").exists():
                wrong += contradictions(home / "copy.db")
                (home / "copy.db").unlink()
        _back_up(home)
    finally:
        running.kill()
    restored = home / "restored"
    restored.mkdir()
    copy(home, "copy.db", str(restored / DATABASE))
    last, more = _last(restored)
    return wrong + more + ([f"{last} restored of {before}"] if last != before else [])


def _restored_beside_its_wal(
    home: Path, chance: random.Random, changes: tuple[str, ...] = ()
) -> list[str]:
    running = service(home, changes=changes)
    try:
        _load(running, chance)
        _back_up(home)
        after = _load(running, chance)
    finally:
        running.kill()
    own = home / "own.db"
    shutil.copyfile(home / DATABASE, own)
    shutil.copyfile(home / "copy.db", home / DATABASE)
    wrong = _refusal(home, "does not belong to", changes=changes)
    if wrong:
        return wrong
    own.replace(home / DATABASE)
    last, wrong = _last(home)
    return wrong + ([f"{last} known, and {after} acknowledged"] if last != after else [])


def _three_files_copied(home: Path, chance: random.Random) -> list[str]:
    running = service(home)
    try:
        after = _load(running, chance)
    finally:
        running.kill()
    other = home / "other"
    other.mkdir()
    for file in home.glob(f"{DATABASE}*"):
        shutil.copyfile(file, other / file.name)
    last, wrong = _last(other)
    return wrong + ([f"{last} copied of {after}"] if last != after else [])


def _wrong_file(home: Path, chance: random.Random) -> list[str]:
    running = service(home)
    try:
        _load(running, chance)
    finally:
        running.stop()
    (home / DATABASE).write_bytes(chance.choice((b"", b"letter", bytes(8_192))))
    return _refusal(home, DATABASE)


def _touched(words: str, deed: Callable[[Path], object]) -> Walk:
    def walk(home: Path, chance: random.Random) -> list[str]:
        running = service(home)
        try:
            _load(running, chance)
            _back_up(home)
            deed(home)
            return _end(running, words)
        finally:
            running.kill()

    return walk


def _second_name(home: Path, chance: random.Random) -> list[str]:
    running = service(home)
    try:
        _load(running, chance)
        (home / f"{DATABASE}.lock").unlink()
        wrong = _refusal(home, "another process owns the queue")
        os.link(home / DATABASE, home / "other.db")
        wrong += _end(running, "hard links")
    finally:
        running.kill()
    return wrong + _refusal(home, "hard links", "--database", "other.db")


_deleted = _touched("was deleted", lambda home: (home / DATABASE).unlink())
_deleted.__name__ = "_deleted_while_it_runs"
_replaced = _touched("was replaced", lambda home: (home / "copy.db").replace(home / DATABASE))
_replaced.__name__ = "_replaced_while_it_runs"
_written_over = _touched(
    "was written over", lambda home: shutil.copyfile(home / "copy.db", home / DATABASE)
)
_written_over.__name__ = "_copied_over_while_it_runs"

WALKS: tuple[Walk, ...] = (
    *(_backed_up_and_restored, _copies_killed, _restored_beside_its_wal, _three_files_copied),
    *(_wrong_file, _deleted, _replaced, _written_over, _second_name),
)
