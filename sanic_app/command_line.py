"""The command line: serve, or run one of the commands."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from sanic_app import __version__, log
from sanic_app.client import COMMANDS, STORE_COMMANDS
from sanic_app.client.arguments import Parser
from sanic_app.client.output import printing, refuse
from sanic_app.errors import EXIT_FAILED, ServiceError, SettingsError, StartError, Usage
from sanic_app.settings import Settings, load
from sanic_app.signals import SIGNALED, raise_on_signals
from sanic_app.store.sqlite.lease import FileLease


def run(given: Sequence[str]) -> int:
    """Run the service, or one of the commands; return the exit status (see README.md)."""
    if given and given[0] in COMMANDS | STORE_COMMANDS:
        return printing(partial(_command, given))
    log.configure("INFO")
    try:
        settings = load(_flags(given), os.environ, Path())
    except SettingsError as error:
        return refuse(error.detail, error.exit_status)
    log.configure(settings.logger_level)
    try:
        place = settings.database
        _serve(settings, FileLease(place) if isinstance(place, Path) else None)
    except StartError as error:
        _end(refuse(error.detail, error.exit_status))
    except Exception:
        logging.getLogger(__name__).critical("the service failed", exc_info=True)
        _end(EXIT_FAILED)
    return 0


def _command(given: Sequence[str]) -> int:
    from sanic_app.client.service import Failed

    try:
        if given[0] == "health":
            return _health(given[1:])
        raise_on_signals()
        if given[0] in STORE_COMMANDS:
            from sanic_app.client import stores

            return stores.run(given, os.environ)
        from sanic_app.client import commands

        return commands.run(given, os.environ)
    except (Failed, ServiceError) as error:
        return refuse(str(error), error.exit_status)
    except KeyboardInterrupt:
        return SIGNALED + signal.SIGINT


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
    # A health check does not serve, so it needs no token.
    flags = _flags(given, "health", COMMANDS["health"], "") | {"ALLOW_ANONYMOUS": True}
    return health.check(load(flags, os.environ, Path()))


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


def _flags(given: Sequence[str], *command: str) -> dict[str, Any]:
    try:
        return vars(_parser(*command).parse_args(given))
    except Usage as error:
        raise SettingsError(f"flags: {error}") from None


def _parser(command: str = "", description: str = SERVE, epilog: str = LISTED) -> Parser:
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(command, description, epilog=epilog, formatter_class=form)

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


def _end(status: int) -> NoReturn:
    """End at once: a normal exit would close the store, and closing it writes."""
    sys.stderr.flush()
    os._exit(status)
