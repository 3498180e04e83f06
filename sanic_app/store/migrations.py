"""Migrations: plain SQL files, numbered from 0001. An engine applies each in one transaction."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    sql: str


@cache
def migrations(engine: str) -> tuple[Migration, ...]:
    """Return the engine's migrations in order; read once, since commits ask how many there are.

    They are packed into the package; in a checkout they stand beside it.
    """
    found = sorted(
        Migration(int(match[1]), file.name, file.read_text(encoding="utf-8"))
        for file in _folder(engine).iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", file.name))
    )
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"the migrations of {engine} are not numbered from 0001 without gaps")
    return tuple(found)


def stated(engine: str) -> dict[str, str]:
    """Return what they make, as ``schema.txt`` states it: what each part is like, by its name."""
    lines = (_folder(engine) / "schema.txt").read_text(encoding="utf-8").splitlines()
    parts = (line.partition(": ") for line in lines if not line.startswith("#"))
    return {name: text for name, _, text in parts}


def _folder(engine: str) -> Traversable:
    packed: Traversable = files("sanic_app") / "migrations"
    root = packed if packed.is_dir() else Path(__file__).parents[2] / "migrations"
    return root / engine
