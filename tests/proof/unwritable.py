"""Places where nothing can be written, and files that are no queue: one clear line at start."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from tests.proof.machine import emptied, run, starts, tmpfs
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, service

SECONDS = 2.0
TRIES = 3
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
"""Root without the right to pass over permissions."""

Damage = Callable[[Path], None]


def unwritable(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Start where it cannot serve; look at status, time, words and bytes."""
    broken: list[str] = []
    slowest = 0.0
    tried = 0
    _fill(folder / "filled")
    for name, (damage, prefix) in CASES.items():
        with tmpfs(folder, 16 * 2**20) as place, emptied(place) as home:
            shutil.copytree(folder / "filled", home, dirs_exist_ok=True)
            damage(home)
            seconds, wrong = _refused(home, prefix)
            run("mount", "-o", "remount,rw", str(place))
            home.chmod(0o700)
        tried += 1
        slowest = max(slowest, seconds)
        broken += [f"{name}: {line}" for line in wrong]
    _, control = _refused(folder / "filled", ())
    return Outcome(
        promise="a start that cannot serve ends within 2 s with one clear line, nothing changed",
        fault=", ".join(CASES),
        tried=tried,
        lost=len(broken),
        control=f"a place where all is well: {'; '.join(control)[:80]}",
        broken=tuple(broken),
        missed=() if "it serves" in control else ("it was refused too",),
        notes=f"the slowest took {slowest:.2f} s, the start of Python included",
    )


def _fill(home: Path) -> None:
    home.mkdir()
    running = service(home)
    for number in range(20):
        running.add(number, 0 if number < 10 else 60)
    running.kill()


def _refused(home: Path, prefix: Sequence[str]) -> tuple[float, list[str]]:
    """Start it in vain.

    A start that was slow is tried again, for others may have been busy. If they always are, it may
    take as many times as long as any start of Python.
    """
    seconds: list[float] = []
    while len(seconds) < TRIES:
        took, wrong = _started(home, prefix)
        if wrong or took <= SECONDS:
            return took, wrong
        seconds.append(took)
    least = min(seconds) / starts(1).busy
    return least, [f"it takes {least:.2f} s at the least"] if least > SECONDS else []


def _started(home: Path, prefix: Sequence[str]) -> tuple[float, list[str]]:
    before = _bytes(home)
    begun = time.monotonic()
    running = service(home, prefix=prefix, ready=False)
    wrong: list[str] = []
    while running.process.poll() is None and time.monotonic() - begun < 5:
        if "serving on" in running.log:
            wrong.append("it serves")
            break
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    if running.process.poll() is None:
        running.kill()
        return seconds, wrong or ["it neither serves nor ends"]
    status = running.wait()
    if status != 1:
        wrong.append(f"status {status}")
    if len(running.lines) != 1 or not running.lines[0].startswith("sanic-app: "):
        wrong.append(f"no clear line: {running.log}")
    if _bytes(home) != before:
        wrong.append("files have changed")
    return seconds, wrong


def _bytes(home: Path) -> dict[str, bytes]:
    names = (DATABASE, f"{DATABASE}-wal")
    # SQLite makes an empty WAL where there was none: nothing is in either.
    return {name: _content(home / name) for name in names}


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _read_only(home: Path) -> None:
    run("mount", "-o", "remount,ro", str(home.parent), check=True)


def _read_only_and_new(home: Path) -> None:
    _new(home)
    _read_only(home)


def _new(home: Path) -> None:
    for file in home.iterdir():
        file.unlink()


def _no_rights(home: Path) -> None:
    home.chmod(0o555)
    for file in home.iterdir():
        file.chmod(0o444)


def _no_rights_and_new(home: Path) -> None:
    _new(home)
    home.chmod(0o555)


def _other_file(home: Path) -> None:
    _new(home)
    (home / DATABASE).write_text("This is a letter.\n" * 500, encoding="ascii")


def _damaged_header(home: Path) -> None:
    _settled(home)
    with (home / DATABASE).open("r+b") as file:
        file.write(b"SQLite fermat 3")


def _truncated(home: Path) -> None:
    _settled(home)
    os.truncate(home / DATABASE, 5 * 4096)


def _newer_schema(home: Path) -> None:
    _change(home, "PRAGMA user_version = 9999")


def _wrong_state(home: Path) -> None:
    _change(home, "UPDATE state SET last_history_num = 12, last_finish_num = 2, depth = 10")


def _settled(home: Path) -> None:
    _change(home, "SELECT 1")


def _change(home: Path, sql: str) -> None:
    with closing(sqlite3.connect(home / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(sql).fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _lost_database(home: Path) -> None:
    (home / DATABASE).unlink()


CASES: dict[str, tuple[Damage, Sequence[str]]] = {
    "a read-only file system": (_read_only, ()),
    "a read-only file system without a database": (_read_only_and_new, ()),
    "a folder without rights": (_no_rights, WITHOUT_RIGHTS),
    "a folder without rights and without a database": (_no_rights_and_new, WITHOUT_RIGHTS),
    "another kind of file": (_other_file, ()),
    "a damaged header": (_damaged_header, ()),
    "a truncated file": (_truncated, ()),
    "a newer schema": (_newer_schema, ()),
    "a wrong state row": (_wrong_state, ()),
    "a WAL without its database": (_lost_database, ()),
}
