"""`sanic-app copy` as a process, to its end or killed, and the places that it copies between."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sanic_app.store.audit import faults
from sanic_app.store.postgres.snapshot import PostgresSnapshot
from sanic_app.store.snapshot import TABLES, Snapshot
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from tests import warm
from tests.postgres import Cluster

Rows = Mapping[str, Sequence[tuple[Any, ...]]]
"""All rows of the tables that make a queue."""


class Place(Protocol):
    """Where a queue is, or is to be."""

    @property
    def text(self) -> str:
        """What the command line calls it."""

    def exists(self) -> bool:
        """Return whether anything of it can be seen."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Return what is there."""


class File(NamedTuple):
    path: Path

    @property
    def text(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return SqliteSnapshot(self.path)


class Schema(NamedTuple):
    server: Cluster
    name: str

    @property
    def text(self) -> str:
        return f"{self.server.url()}?schema={self.name}"

    def exists(self) -> bool:
        return bool(self.server.query(f"SELECT 1 FROM pg_namespace WHERE nspname = '{self.name}'"))

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return PostgresSnapshot(self.server.url(), self.name)


def found(place: Place) -> tuple[Rows, list[str]]:
    """Return all rows of a place, and what `sanic-app check` finds there."""
    with place.snapshot() as tables:
        rows = {
            name: list(tables.select(f"SELECT {table.listed} FROM {name} ORDER BY {table.key}"))
            for name, table in TABLES.items()
        }
        return rows, list(faults(tables))


def copying(
    home: Path, source: str, target: str, changes: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start the documented way of a backup, of a restore and of a move."""
    return subprocess.Popen(
        warm.command(("copy", source, target), changes),
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def copy(home: Path, source: str, target: str) -> float:
    """Copy, and return the seconds that it took."""
    begun = time.monotonic()
    done = warm.run(("copy", source, target), env=os.environ, cwd=home)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.monotonic() - begun


Moment = Callable[[subprocess.Popen[str]], object]
"""Waits for a moment in the life of a copy."""


def killed(
    home: Path, source: Place, target: Place, moment: Moment, changes: Sequence[str] = ()
) -> None:
    """Kill a copy at a moment, if it has not ended by then."""
    process = copying(home, source.text, target.text, changes)
    moment(process)
    process.kill()
    process.communicate()


def after(seconds: float) -> Moment:
    """Return the moment so many seconds after the start."""

    def moment(process: subprocess.Popen[str]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    return moment


def seen(target: Place) -> Moment:
    """Return the moment when something of the copy can be seen."""

    def moment(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not target.exists():
            time.sleep(0.001)

    return moment
