"""What a user gives to a command: its arguments, the file with tasks, the token."""

from __future__ import annotations

import argparse
import codecs
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sanic_app.client import COMMANDS
from sanic_app.task import HISTORY_NUM_MAX

URL = "http://127.0.0.1:8000"


class Usage(Exception):
    """The command line is not valid."""


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Return the arguments, with the name of the command as ``command``.

    Raises:
        Usage: they are not valid.
    """
    return _parser(environ).parse_args(arguments)


def read_token(environ: Mapping[str, str]) -> str | None:
    """Return the token from the variables that the service itself reads."""
    token, file = environ.get("SANIC_APP_API_TOKEN"), environ.get("SANIC_APP_API_TOKEN_FILE")
    if token is None and file is not None:
        token = _read(file)
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token.strip()):
        raise Usage("the token must be visible ASCII characters, not empty")
    return token and token.strip()


def read_tasks(file: str) -> Iterator[dict[str, Any]]:
    """Return the tasks of a file: a number and a timeout in each line."""
    text = _read(file)
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            num, timeout = words
            yield {"num": whole(num), "timeout": seconds(timeout)}
        except (ValueError, argparse.ArgumentTypeError):
            raise Usage(f"{file}, line {number}: must be a number and a timeout") from None


def _read(file: str) -> str:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        # Programs on Windows put a byte order mark before their text, and some write UTF-16.
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise Usage(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Usage(f"cannot read {file}: it is not UTF-8") from None


class Parser(argparse.ArgumentParser):
    """Reports an error as one line, without a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise Usage(message)


def whole(text: str) -> int:
    """Return an integer in the notation of JSON."""
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise argparse.ArgumentTypeError(f"not a whole number: {text}")
    return int(text)


def natural(text: str) -> int:
    """Return an integer that is not negative, and not beyond the last history number."""
    if not 0 <= (number := whole(text)) <= HISTORY_NUM_MAX:
        raise argparse.ArgumentTypeError(f"out of range: {text}")
    return number


def event_id(text: str) -> str:
    """Return the id of an event."""
    if not re.fullmatch(r"([0-9a-f]{32}\.)?[0-9]{1,19}\.[0-9]{1,19}", text):
        raise argparse.ArgumentTypeError(f"not the id of an event: {text}")
    return text


def key(text: str) -> str:
    """Return an idempotency key. An empty one, perhaps of a variable that is not set, is none."""
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise argparse.ArgumentTypeError("must be 1 to 255 visible ASCII characters")
    return text


def not_empty(text: str) -> str:
    """Return a text that is more than blanks."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def seconds(text: str) -> int | float:
    """Return a number of seconds. The service checks the range."""
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", text) or math.isinf(
        float(text)
    ):
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return int(text) if text.isdigit() else float(text)


def _parser(environ: Mapping[str, str]) -> Parser:
    shared = Parser(add_help=False)
    shared.add_argument(
        "--url",
        default=environ.get("SANIC_APP_URL", URL),
        help="the service; else SANIC_APP_URL, else %(default)s",
    )
    shared.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser = Parser(
        prog="sanic-app",
        description="Speak to a running service. The token, if it wants one, is taken from"
        " SANIC_APP_API_TOKEN or from the file that SANIC_APP_API_TOKEN_FILE names.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str) -> argparse.ArgumentParser:
        text = COMMANDS[name]
        made = commands.add_parser(
            name, parents=[shared], help=text, description=text, allow_abbrev=False
        )
        made.set_defaults(command=name)
        return made

    made = command("add")
    made.add_argument("num", metavar="NUM", type=whole, nargs="?", help="the number to append")
    made.add_argument(
        "timeout", metavar="TIMEOUT", type=seconds, nargs="?", help="the wait before, in seconds"
    )
    made.add_argument(
        "--file",
        type=not_empty,
        help="add a batch: in each line a number, a space and a timeout; - is stdin",
    )
    made.add_argument(
        "--key", type=key, help="an idempotency key, which makes it safe to try again"
    )
    made.add_argument("--wait", action="store_true", help="return when it is finished")
    made = command("task")
    made.add_argument("history_num", metavar="HISTORY_NUM", type=whole)
    made.add_argument("--wait", action="store_true", help="return when it is finished")
    made = command("queue")
    made.add_argument("--limit", type=whole, default=10, help="how many tasks (%(default)s)")
    made = command("results")
    made.add_argument("--after", type=natural, default=0, help="after this history number")
    made.add_argument("--limit", type=natural, help="how many results; else all")
    made = command("cancel")
    made.add_argument("first", metavar="HISTORY_NUM", type=whole)
    made.add_argument("last", metavar="LAST", type=whole, nargs="?", help="the end of a range")
    command("pause")
    command("resume")
    made = command("watch")
    made.add_argument(
        "--after",
        metavar="ID",
        type=event_id,
        help="with --json, go on after the event with this id; else from now on",
    )
    made = command("follow")
    made.add_argument(
        "--after",
        metavar="HISTORY_NUM",
        type=natural,
        help="begin after this history number, 0 is the beginning; else from now on",
    )
    made.add_argument(
        "--cursor",
        metavar="FILE",
        type=not_empty,
        help="remember in this file how far it came, and go on from there the next time",
    )
    made.add_argument(
        "--exec",
        metavar="COMMAND",
        type=not_empty,
        help="instead of printing run this command of the shell for each, with SANIC_APP_NUM,"
        " SANIC_APP_HISTORY_NUM and SANIC_APP_DATE_FINISHED; again after a failure",
    )
    made.add_argument(
        "--retry", metavar="N", type=natural, help="run it again N times, then end; else for ever"
    )
    made.add_argument(
        "--from-reset",
        action="store_true",
        help="when results were removed before they were told, or the database is another, go on"
        " with what is there; else end with status 3",
    )
    return parser
