"""The commands that work on a store itself: is it whole, and a copy of it."""

from __future__ import annotations

import argparse
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
from typing import NamedTuple, NoReturn

from rich.console import Console
from rich.progress import Progress

from sanic_app.client import STORE_COMMANDS
from sanic_app.client.commands import stop
from sanic_app.client.output import printing
from sanic_app.errors import (
    EXIT_START,
    EXIT_USAGE,
    ServiceError,
    SettingsError,
    StartError,
    StoreBusy,
    StoreFailed,
)
from sanic_app.settings import Settings, load, values
from sanic_app.signals import SIGNALED, stop_signals
from sanic_app.store.audit import faults
from sanic_app.store.postgres import DRIVER_MISSING
from sanic_app.store.snapshot import Snapshot, Target
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.store.sqlite.target import SqliteTarget

FAULTS_MAX = 100
"""Lines that a check prints; of more faults it tells the number."""
TRIES = 5
"""How often a store is read anew when a service starts meanwhile."""
NICE = 5
"""The service comes first where both want the processor."""

Told = Callable[[int, int], object]


def main(given: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit status."""
    for number in stop_signals():
        signal.signal(number, stop)
    # The driver of PostgreSQL logs what its errors say as well.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    return printing(partial(_run, given, environ))


def _run(given: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        arguments = _parser().parse_args(given)
        if hasattr(os, "nice"):
            os.nice(NICE)
        flags = {"CONFIG": arguments.config, "ALLOW_ANONYMOUS": True}
        places = _Places(lambda: load(flags, environ, Path()))
        if arguments.command == "copy":
            return _copy(places.store(arguments.source), places.store(arguments.target))
        return _check(places.store(arguments.place))
    except SettingsError as error:
        return _refuse(error.detail, EXIT_USAGE)
    except ServiceError as error:
        return _refuse(error.detail, EXIT_START)
    except KeyboardInterrupt:
        return SIGNALED + signal.SIGINT


class _Store(NamedTuple):
    """A store by its name, how to read it as of one moment, and how to make it by a copy."""

    name: str
    snapshot: Callable[[], AbstractContextManager[Snapshot]]
    target: Callable[[], AbstractContextManager[Target]]


def _check(store: _Store) -> int:
    """Print a line for each fault; return 0 when there is none, else 1."""
    for _ in range(TRIES):
        with store.snapshot() as tables:
            found, more = _faults(tables, f"checking {store.name}")
            try:
                tables.verify()
            except StoreBusy:
                continue
        break
    else:
        raise StoreBusy(f"cannot check {store.name}: it was changed again and again meanwhile")
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
            _fill(target, source)
            with target.made() as made:
                found, more = _faults(made, "checking the copy")
            if found:
                for line in found:
                    sys.stderr.write(f"{source.name}: {line}\n")
                count = len(found) + more
                return _refuse(f"{source.name} is not whole ({count} faults): nothing was copied")
            target.publish()
        except StoreFailed as error:
            return _refuse(f"{source.name} is not whole: {error.detail}: nothing was copied")
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return _refuse(f"cannot copy {source.name} to {place.name}: {reason}")
    print(f"copied {source.name} to {place.name}")
    return 0


def _fill(target: Target, source: _Store) -> None:
    for _ in range(TRIES):
        with source.snapshot() as tables, _progress(f"copying {source.name}") as told:
            target.fill(tables, told)
            try:
                tables.verify()
            except StoreBusy:
                target.empty()
                continue
            return
    raise StoreBusy(f"cannot copy {source.name}: it was changed again and again meanwhile")


def _faults(tables: Snapshot, text: str) -> tuple[list[str], int]:
    """Return the first faults, and how many more there are."""
    with _progress(text) as told:
        found = faults(tables, told)
        return list(islice(found, FAULTS_MAX)), sum(1 for _ in found)


@contextmanager
def _progress(text: str) -> Iterator[Told]:
    """Show a bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Places:
    """Finds stores by what the user calls them."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        """Take where the settings come from; a path does not need them."""
        self._settings = settings

    def store(self, text: str | None) -> _Store:
        """Return the store at a path or URL, or that of the settings."""
        place = self._settings().database if text is None else _parsed(text)
        if isinstance(place, Path):
            return _Store(str(place), lambda: SqliteSnapshot(place), lambda: SqliteTarget(place))
        try:
            # An extra.
            from sanic_app.store.postgres import bulk  # noqa: PLC0415
            from sanic_app.store.postgres.snapshot import PostgresSnapshot  # noqa: PLC0415
            from sanic_app.store.postgres.target import PostgresTarget  # noqa: PLC0415
        except ImportError:
            raise StartError(DRIVER_MISSING) from None

        def leave(number: int, frame: FrameType | None) -> None:
            bulk.leave()
            stop(number, frame)

        for number in stop_signals():
            signal.signal(number, leave)
        schema = place.schema or self._settings().database_schema
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


class _Parser(argparse.ArgumentParser):
    """Reports an error as one line, without a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _parser() -> _Parser:
    parser = _Parser(prog="sanic-app", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, parser_class=_Parser)

    def command(name: str) -> argparse.ArgumentParser:
        text = STORE_COMMANDS[name]
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(command=name)
        made.add_argument("-C", "--config", metavar="FILE", help="YAML file with settings")
        return made

    places = "a path, or a URL as the setting DATABASE has it"
    made = command("check")
    made.add_argument(
        "place", metavar="PLACE", nargs="?", help=f"{places}; else the setting DATABASE"
    )
    made = command("copy")
    made.add_argument("source", metavar="FROM", help=places)
    made.add_argument("target", metavar="TO", help=f"{places}, where nothing is yet")
    return parser


def _refuse(text: str, status: int = EXIT_START) -> int:
    sys.stderr.write(f"sanic-app: {text}\n")
    return status
