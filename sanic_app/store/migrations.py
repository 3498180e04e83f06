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
    packed: Traversable = files("sanic_app") / "migrations"
    root = packed if packed.is_dir() else Path(__file__).parents[2] / "migrations"
    found = sorted(
        Migration(int(match[1]), file.name, file.read_text(encoding="utf-8"))
        for file in (root / engine).iterdir()
        if (match := re.fullmatch(r"(\d{4})_\w+\.sql", file.name))
    )
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"the migrations of {engine} are not numbered from 0001 without gaps")
    return tuple(found)
