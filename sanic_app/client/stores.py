"""The commands that work on a store itself: is it whole, and a copy of it."""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

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
    StoreBusy,
)
from sanic_app.settings import load, values
from sanic_app.signals import SIGNALED, stop_signals
from sanic_app.store.audit import faults
from sanic_app.store.sqlite.snapshot import SqliteSnapshot
from sanic_app.store.sqlite.target import SqliteTarget

FAULTS_MAX = 100
"""Lines that a check prints; of more faults it tells the number."""
TRIES = 5
"""How often a store is read anew when a service starts meanwhile."""
NICE = 10
"""The service comes first where both want the processor."""

Told = Callable[[int, int], object]


def main(given: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit status."""
    for number in stop_signals():
        signal.signal(number, stop)
    return printing(partial(_run, given, environ))


def _run(given: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        arguments = _parser().parse_args(given)
        if hasattr(os, "nice"):
            os.nice(NICE)
        if arguments.command == "copy":
            return _copy(_place(arguments.source), _place(arguments.target))
        if arguments.place is not None:
            return _check(_place(arguments.place))
        flags = {"CONFIG": arguments.config, "ALLOW_ANONYMOUS": True}
        return _check(_file(load(flags, environ, Path()).database))
    except SettingsError as error:
        return _refuse(error.detail, EXIT_USAGE)
    except ServiceError as error:
        return _refuse(error.detail, EXIT_START)
    except KeyboardInterrupt:
        return SIGNALED + signal.SIGINT


def _check(place: Path) -> int:
    """Print a line for each fault; return 0 when there is none, else 1."""
    for _ in range(TRIES):
        with SqliteSnapshot(place) as store:
            found, more = _faults(store, f"checking {place}")
            try:
                store.verify()
            except StoreBusy:
                continue
        break
    else:
        raise StoreBusy(f"cannot check {place}: it was changed again and again meanwhile")
    for line in found:
        print(f"{place}: {line}")
    if more:
        print(f"{place}: and {more} more")
    if not found:
        print(f"{place}: whole")
    return EXIT_START if found else 0


def _copy(source: Path, place: Path) -> int:
    """Copy, check the copy, and only then let it be seen."""
    with SqliteTarget(place) as target:
        try:
            _fill(target, source)
            with SqliteSnapshot(target.new) as made:
                found, more = _faults(made, "checking the copy")
            if found:
                for line in found:
                    sys.stderr.write(f"{source}: {line}\n")
                count = len(found) + more
                return _refuse(f"{source} is not whole ({count} faults): nothing was copied")
            target.publish()
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return _refuse(f"cannot copy {source} to {place}: {reason}")
    print(f"copied {source} to {place}")
    return 0


def _fill(target: SqliteTarget, source: Path) -> None:
    for _ in range(TRIES):
        with SqliteSnapshot(source) as store, _progress(f"copying {source}") as told:
            target.fill(store, told)
            try:
                store.verify()
            except StoreBusy:
                target.empty()
                continue
            return
    raise StoreBusy(f"cannot copy {source}: it was changed again and again meanwhile")


def _faults(store: SqliteSnapshot, text: str) -> tuple[list[str], int]:
    """Return the first faults, and how many more there are."""
    with _progress(text) as told:
        found = faults(store, told)
        return list(islice(found, FAULTS_MAX)), sum(1 for _ in found)


@contextmanager
def _progress(text: str) -> Iterator[Told]:
    """Show a bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _place(text: str) -> Path:
    try:
        return _file(values.database(text))
    except ValueError as error:
        raise SettingsError(f"{text}: {error}") from None


def _file(place: values.Database) -> Path:
    if not isinstance(place, Path):
        raise SettingsError(f"{place}: only SQLite can be checked and copied")
    return place


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
        return made

    places = "a path, or a URL such as sqlite:////data/queue.db"
    made = command("check")
    made.add_argument(
        "place", metavar="PLACE", nargs="?", help=f"{places}; else the setting DATABASE"
    )
    made.add_argument("-C", "--config", metavar="FILE", help="YAML file with settings")
    made = command("copy")
    made.add_argument("source", metavar="FROM", help=places)
    made.add_argument("target", metavar="TO", help="likewise; there must be nothing yet")
    return parser


def _refuse(text: str, status: int = EXIT_START) -> int:
    sys.stderr.write(f"sanic-app: {text}\n")
    return status
