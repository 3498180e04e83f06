"""What a user gives to a command: its arguments, the file with tasks, the token."""

from __future__ import annotations

import argparse
import codecs
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from sanic_app.client import COMMANDS
from sanic_app.client.output import printing
from sanic_app.errors import Usage
from sanic_app.task import HISTORY_NUM_MAX

URL = "http://127.0.0.1:8000"


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Return the arguments, with the name of the command as ``command``.

    Raises:
        Usage: they are not valid.
    """
    command, *others = arguments
    given = _parser(command, environ).parse_args(others)
    given.command = command
    return given


def read_token(environ: Mapping[str, str]) -> str | None:
    """Return the token from the variables that the service itself reads."""
    token, file = environ.get("SANIC_APP_API_TOKEN"), environ.get("SANIC_APP_API_TOKEN_FILE")
    if token is None and file is not None:
        token = _read(file)
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token.strip()):
        raise Usage("the token must be visible ASCII characters, not empty")
    return token and token.strip()


def task_text(num: int, timeout: Decimal) -> str:
    """Return a task as JSON, its timeout as the decimal that the user gave."""
    return f'{{"num": {num}, "timeout": {timeout}}}'


def read_tasks(file: str) -> Iterator[str]:
    """Return the tasks of a file as JSON: a number and a timeout in each line."""
    text = _read(file)
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            num, timeout = words
            yield task_text(whole(num), seconds(timeout))
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

    def __init__(self, command: str, description: str, **named: Any) -> None:
        """Take the name of the command, empty for the service itself, and what it does."""
        prog = f"sanic-app {command}".rstrip()
        super().__init__(prog=prog, description=description, allow_abbrev=False, **named)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments."""
        raise Usage(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:  # noqa: ARG002 - argparse gives it
        """End after --help or --version, which may be printed to a full disk."""
        raise SystemExit(printing(lambda: status))


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


def seconds(text: str) -> Decimal:
    """Return a number of seconds. The service checks the range."""
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", text) or math.isinf(
        float(text)
    ):
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return Decimal(text)


def _parser(command: str, environ: Mapping[str, str]) -> Parser:
    parser = Parser(command, COMMANDS[command])

    def switch(name: str, text: str) -> None:
        parser.add_argument(name, action="store_true", help=text)

    def take(name: str, parse: Callable[[str], Any], text: str = "", **more: Any) -> None:
        parser.add_argument(name, type=parse, help=text, **more)

    url = environ.get("SANIC_APP_URL", URL)
    take("--url", str, "the service; else SANIC_APP_URL, else %(default)s", default=url)
    switch("--json", "print JSON, for scripts")
    match command:
        case "add":
            take("num", whole, "the number to append", metavar="NUM", nargs="?")
            take("timeout", seconds, "the wait before, in seconds", metavar="TIMEOUT", nargs="?")
            text = "add a batch: in each line a number, a space and a timeout; - is stdin"
            take("--file", not_empty, text)
            take("--key", key, "an idempotency key, which makes it safe to try again")
            switch("--wait", "return when it is finished")
        case "task":
            take("history_num", whole, metavar="HISTORY_NUM")
            switch("--wait", "return when it is finished")
        case "queue":
            take("--limit", whole, "how many tasks (%(default)s)", default=10)
        case "results":
            take("--after", natural, "after this history number", default=0)
            take("--limit", natural, "how many results; else all")
        case "cancel":
            take("first", whole, metavar="HISTORY_NUM")
            take("last", whole, "the end of a range", metavar="LAST", nargs="?")
        case "watch":
            text = "with --json, go on after the event with this id; else from now on"
            take("--after", event_id, text, metavar="ID")
        case "follow":
            text = "begin after this history number, 0 is the beginning; else from now on"
            take("--after", natural, text, metavar="HISTORY_NUM")
            text = "remember in this file how far it came, and go on from there the next time"
            take("--cursor", not_empty, text, metavar="FILE")
            text = (
                "instead of printing run this command of the shell for each, with SANIC_APP_NUM,"
                " SANIC_APP_HISTORY_NUM and SANIC_APP_DATE_FINISHED; again after a failure"
            )
            take("--exec", not_empty, text, metavar="COMMAND")
            text = "run it again N times, then end; else for ever"
            take("--retry", natural, text, metavar="N")
            switch(
                "--from-reset",
                "when results were removed before they were told, or the database is another, go"
                " on with what is there; else end with status 3",
            )
    return parser
