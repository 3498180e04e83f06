"""The command line: serve, or run one of the commands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from sanic_app import __version__, log
from sanic_app.client import COMMANDS, STORE_COMMANDS
from sanic_app.client.output import printing, refuse
from sanic_app.errors import EXIT_FAILED, EXIT_START, EXIT_USAGE, SettingsError, StartError
from sanic_app.settings import Settings, load
from sanic_app.store.sqlite.lease import FileLease


def run(given: Sequence[str]) -> int:
    """Run the service, or one of the commands; return the exit status (see README.md)."""
    if given[:1] == ["health"]:
        return _health(given[1:])
    if given and given[0] in COMMANDS:
        from sanic_app.client import commands

        return commands.main(given, os.environ)
    if given and given[0] in STORE_COMMANDS:
        from sanic_app.client import stores

        return stores.main(given, os.environ)
    log.configure("INFO")
    try:
        settings = load(vars(_parser().parse_args(given)), os.environ, Path())
    except SettingsError as error:
        return refuse(error.detail, EXIT_USAGE)
    log.configure(settings.logger_level)
    try:
        place = settings.database
        _serve(settings, FileLease(place) if isinstance(place, Path) else None)
    except StartError as error:
        _end(refuse(error.detail, EXIT_START))
    except Exception:
        logging.getLogger(__name__).critical("the service failed", exc_info=True)
        _end(EXIT_FAILED)
    return 0


def _serve(settings: Settings, lease: FileLease | None) -> None:
    # Loading the framework takes most of a start. By now this process owns the queue: a second one
    # has ended without loading it.
    import asyncio

    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        # The library would keep the metrics in files of that folder, for servers of many processes,
        # and count on from them after a restart.
        os.environ.pop(name, None)
    from sanic_app.process import raise_descriptor_limit, serve

    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, lease))


def _health(given: Sequence[str]) -> int:
    from sanic_app.client import health

    log.configure("ERROR")
    try:
        flags = vars(_parser(" health", COMMANDS["health"], "").parse_args(given))
        # A health check does not serve, so it needs no token.
        settings = load({**flags, "ALLOW_ANONYMOUS": True}, os.environ, Path())
    except SettingsError as error:
        return refuse(error.detail, EXIT_USAGE)
    return printing(partial(health.check, settings))


def _loop_factory() -> Callable[[], Any] | None:
    """Return uvloop's, or None for Python's own loop, which is slower."""
    if sys.platform == "win32" or sys.implementation.name != "cpython":
        return None
    try:
        import uvloop
    except ImportError as error:
        logging.getLogger(__name__).warning("serving without uvloop: %s", error)
        return None
    return uvloop.new_event_loop


SERVE = "Serve a durable queue that works through its tasks one at a time, in order."
LISTED = "\n".join(
    [
        "commands for a running service:",
        *(f"  {name:<9} {text}" for name, text in COMMANDS.items()),
        "",
        "commands for a store:",
        *(f"  {name:<9} {text}" for name, text in STORE_COMMANDS.items()),
        "",
        "Each command has a --help of its own.",
    ]
)


def _parser(
    command: str = "", description: str = SERVE, epilog: str = LISTED
) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"sanic-app{command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def flag(short: str, long: str, key: str, value: str, text: str) -> None:
        parser.add_argument(short, long, dest=key, metavar=value, help=text)

    flag("-H", "--host", "HOST", "HOST", "address to bind")
    flag("-P", "--port", "PORT", "PORT", "port to bind")
    flag("-L", "--logger-level", "LOGGER_LEVEL", "LEVEL", "DEBUG to CRITICAL")
    flag("-D", "--database", "DATABASE", "PATH", "path, or URL of SQLite or PostgreSQL")
    flag("-C", "--config", "CONFIG", "FILE", "YAML file with settings")
    parser.add_argument(
        "--allow-anonymous",
        dest="ALLOW_ANONYMOUS",
        action="store_const",
        const=True,
        help="serve other machines without a token",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports an error as one line, without a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"flags: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:  # noqa: ARG002 - argparse gives it
        """End after --help or --version, which may be printed to a full disk."""
        raise SystemExit(printing(lambda: status))


def _end(status: int) -> NoReturn:
    """End at once: a normal exit would close the store, and closing it writes."""
    sys.stderr.flush()
    os._exit(status)
