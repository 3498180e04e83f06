"""The commands that work on a store itself: is it whole, and a copy of it."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeVar

from rich import progress
from rich.console import Console

from sanic_app.client import STORE_COMMANDS
from sanic_app.client.arguments import Parser
from sanic_app.client.output import refuse
from sanic_app.errors import EXIT_START, SettingsError, StartError, StoreBusy, StoreFailed
from sanic_app.settings import Settings, load, values
from sanic_app.signals import raise_signal, stop_signals
from sanic_app.store.audit import faults
from sanic_app.store.postgres import DRIVER_MISSING
from sanic_app.store.snapshot import Progress, Snapshot, Target
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.store.sqlite.target import SqliteTarget

T = TypeVar("T")

FAULTS_MAX = 100
"""Lines that a check prints; of more faults it tells the number."""
TRIES = 5
"""How often a store is read anew when a service starts meanwhile."""
NICE = 5
"""A lower priority than the service's, which may want the processor at the same time."""


def run(given: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit status.

    Raises:
        ServiceError: the arguments or settings are not valid, or the store cannot be used.
    """
    # The driver of PostgreSQL logs what its errors say as well.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    command, *others = given
    arguments = _parser(command).parse_args(others)
    if hasattr(os, "nice"):
        os.nice(NICE)
    flags = {"CONFIG": arguments.config, "ALLOW_ANONYMOUS": True}
    store = partial(_store, lambda: load(flags, environ, Path()))
    if command == "copy":
        return _copy(store(arguments.source), store(arguments.target))
    return _check(store(arguments.place))


class _Store(NamedTuple):
    """A store by its name, how to read it as of one moment, and how to make it by a copy."""

    name: str
    snapshot: Callable[[], AbstractContextManager[Snapshot]]
    target: Callable[[], AbstractContextManager[Target]]


def _check(store: _Store) -> int:
    """Print a line for each fault; return 0 when there is none, else 1."""
    found, more = _of_one_moment(
        store, "check", lambda tables: _faults(tables, f"checking {store.name}"), lambda: None
    )
    for line in found:
        print(f"{store.name}: {line}")
    if more:
        print(f"{store.name}: and {more} more")
    if not found:
        print(f"{store.name}: whole")
    return EXIT_START if found else 0


def _copy(source: _Store, place: _Store) -> int:
    """Copy, check the copy, and only then let it be seen."""
    with place.target() as target:
        try:
            _of_one_moment(source, "copy", partial(_fill, target, source.name), target.empty)
            with target.made() as made:
                found, more = _faults(made, "checking the copy")
            if found:
                for line in found:
                    sys.stderr.write(f"{source.name}: {line}\n")
                count = len(found) + more
                return refuse(f"{source.name} is not whole ({count} faults): nothing was copied")
            target.publish()
        except StoreFailed as error:
            return refuse(f"{source.name} is not whole: {error.detail}: nothing was copied")
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return refuse(f"cannot copy {source.name} to {place.name}: {reason}")
    print(f"copied {source.name} to {place.name}")
    return 0


def _of_one_moment(
    store: _Store, what: str, read: Callable[[Snapshot], T], begin_anew: Callable[[], None]
) -> T:
    """Return what is read of a store; read it again when a service was started meanwhile."""
    for _ in range(TRIES):
        with store.snapshot() as tables:
            found = read(tables)
            try:
                tables.verify()
            except StoreBusy:
                begin_anew()
                continue
            return found
    raise StoreBusy(f"cannot {what} {store.name}: it was changed again and again meanwhile")


def _fill(target: Target, name: str, tables: Snapshot) -> None:
    with _progress(f"copying {name}") as told:
        target.fill(tables, told)


def _faults(tables: Snapshot, text: str) -> tuple[list[str], int]:
    """Return the first faults, and how many more there are."""
    with _progress(text) as told:
        found = faults(tables, told)
        return list(islice(found, FAULTS_MAX)), sum(1 for _ in found)


@contextmanager
def _progress(text: str) -> Iterator[Progress]:
    """Show a bar on a terminal."""
    console = Console(stderr=True)
    with progress.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _store(settings: Callable[[], Settings], text: str | None) -> _Store:
    """Return the store at a path or URL, or that of the settings; a path does not need them."""
    place = settings().database if text is None else _parsed(text)
    if isinstance(place, Path):
        return _Store(str(place), lambda: SqliteSnapshot(place), lambda: SqliteTarget(place))
    try:
        from sanic_app.store.postgres import bulk  # noqa: PLC0415 - an extra
        from sanic_app.store.postgres.snapshot import PostgresSnapshot  # noqa: PLC0415 - the same
        from sanic_app.store.postgres.target import PostgresTarget  # noqa: PLC0415 - the same
    except ImportError:
        raise StartError(DRIVER_MISSING) from None

    def leave(number: int, frame: FrameType | None) -> None:
        bulk.leave()
        raise_signal(number, frame)

    for number in stop_signals():
        signal.signal(number, leave)
    schema = place.schema or settings().database_schema
    return _Store(
        f"{place} schema {schema}",
        lambda: PostgresSnapshot(place.url, schema),
        lambda: PostgresTarget(place.url, schema),
    )


def _parsed(text: str) -> values.Database:
    try:
        return values.database(text)
    except ValueError as error:
        # What was meant for a URL may have a password.
        shown = "the URL" if "://" in text or "=" in text else text
        raise SettingsError(f"{shown}: {error}") from None


def _parser(command: str) -> Parser:
    parser = Parser(command, STORE_COMMANDS[command])
    parser.add_argument("-C", "--config", metavar="FILE", help="YAML file with settings")
    places = "a path, or a URL as the setting DATABASE has it"
    if command == "check":
        parser.add_argument(
            "place", metavar="PLACE", nargs="?", help=f"{places}; else the setting DATABASE"
        )
    else:
        parser.add_argument("source", metavar="FROM", help=places)
        parser.add_argument("target", metavar="TO", help=f"{places}, where nothing is yet")
    return parser
