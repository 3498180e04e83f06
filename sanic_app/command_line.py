"""The command line: serve, or one of the commands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sanic_app import __version__, log
from sanic_app.client import COMMANDS
from sanic_app.errors import EXIT_FAILED, EXIT_START, EXIT_USAGE, SettingsError, StartError
from sanic_app.settings import Settings, load
from sanic_app.store.sqlite.lease import FileLease


def run(given: Sequence[str]) -> int:
    """Run the service, or a command that speaks to one; return the exit status of README.md."""
    if given and given[0] in COMMANDS:
        from sanic_app.client import commands  # noqa: PLC0415 - the service needs none of it

        return commands.main(given, os.environ)
    log.configure("INFO")
    try:
        settings = load(vars(_parser().parse_args(given)), os.environ, Path())
    except SettingsError as error:
        return _refuse(error.detail, EXIT_USAGE)
    log.configure(settings.logger_level)
    try:
        _serve(settings, FileLease(settings.database))
    except StartError as error:
        _end(_refuse(error.detail, EXIT_START))
    except Exception:
        logging.getLogger(__name__).critical("the service failed", exc_info=True)
        _end(EXIT_FAILED)
    return 0


def _serve(settings: Settings, lease: FileLease) -> None:
    # Not before the lock is held: loading the framework takes most of a start, and whoever is
    # not the owner says so without it.
    import asyncio  # noqa: PLC0415

    from sanic_app.process import serve  # noqa: PLC0415

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, lease))


def _loop_factory() -> Callable[[], Any] | None:
    """Return uvloop's, or None for the loop of Python itself, which is slower."""
    if sys.platform == "win32" or sys.implementation.name != "cpython":
        return None
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError as error:
        logging.getLogger(__name__).warning("serving without uvloop: %s", error)
        return None
    return uvloop.new_event_loop


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sanic-app",
        description="A durable queue that works through its tasks one at a time, in order.",
        epilog=f"Commands that speak to a running service: {', '.join(COMMANDS)}."
        " Each has a --help of its own.",
        allow_abbrev=False,
    )
    parser.add_argument("-H", "--host", dest="HOST", metavar="HOST", help="address to bind")
    parser.add_argument("-P", "--port", dest="PORT", metavar="PORT", help="port to bind")
    parser.add_argument(
        *("-L", "--logger-level"), dest="LOGGER_LEVEL", metavar="LEVEL", help="DEBUG to CRITICAL"
    )
    parser.add_argument(
        *("-D", "--database"), dest="DATABASE", metavar="PATH", help="path or sqlite:/// URL"
    )
    parser.add_argument(
        *("-C", "--config"), dest="CONFIG", metavar="FILE", help="YAML file with settings"
    )
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
    """One clear line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"flags: {message}")


def _refuse(detail: str, status: int) -> int:
    sys.stderr.write(f"sanic-app: {detail}\n")
    return status


def _end(status: int) -> NoReturn:
    """End at once: an orderly end would close the store, and closing writes."""
    sys.stderr.flush()
    os._exit(status)
