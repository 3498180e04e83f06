"""The commands: what each asks the service, and how its answer is shown."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from sanic_app.client import watch
from sanic_app.client.service import Failed, Service, Unreachable
from sanic_app.errors import EXIT_START, EXIT_USAGE

URL = "http://127.0.0.1:8000"
WAIT_SECONDS = 25
"""A wait is asked for in pieces of so many seconds, since proxies give up after 30 or 60."""
GONE_SECONDS = 60.0
"""How long a service that does not answer is waited for."""
PAGE = 1_000
INTERRUPTED = 130

Json = dict[str, Any]


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return the exit status: 1 when it could not be done."""
    try:
        given = _parser(environ).parse_args(arguments)
        service = Service(given.url, _token(environ))
        return int(given.run(service, given))
    except (_Usage, ValueError) as error:
        return _refuse(str(error), EXIT_USAGE)
    except Failed as error:
        return _refuse(str(error), EXIT_START)
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is left of it must not be written either.
        sys.stdout = None
        return EXIT_START
    except KeyboardInterrupt:
        return INTERRUPTED


# One function for each command.


def add(service: Service, given: argparse.Namespace) -> int:
    """Add a task, or with --file a batch; with --wait return when it is finished."""
    headers = {"Idempotency-Key": given.key} if given.key else {}
    if given.file is not None:
        if given.num is not None:
            raise _Usage("give NUM and TIMEOUT, or --file")
        body = {"tasks": list(_read_tasks(given.file))}
        batch = service.ask("POST", "/api/v1/tasks/batch", body, headers, seconds=60)
        last = batch["last"]
        _show(given, batch, f"added tasks {batch['first']} to {last}")
    else:
        if given.timeout is None:
            raise _Usage("NUM and TIMEOUT are required")
        body = {"num": given.num, "timeout": given.timeout}
        task = service.ask("POST", "/api/v1/tasks", body, headers)
        last = task["history_num"]
        if not (given.wait and given.json):
            _show(given, task, f"added {_line(task)}")
    return _follow(service, given, last) if given.wait else 0


def task(service: Service, given: argparse.Namespace) -> int:
    """Show one task; with --wait return when it is finished."""
    if given.wait:
        return _follow(service, given, given.history_num)
    found = service.ask("GET", f"/api/v1/tasks/{given.history_num}")
    _show(given, found, _line(found))
    return 0


def queue(service: Service, given: argparse.Namespace) -> int:
    """Show the figures of the queue, and its first tasks."""
    figures = service.ask("GET", "/api/v1/queue")
    tasks = service.ask("GET", f"/api/v1/tasks?limit={given.limit}")["tasks"]
    if given.json:
        _print_json({**figures, "tasks": tasks})
        return 0
    console = Console(highlight=False)
    console.print(watch.figures_line(figures))
    if tasks:
        console.print(watch.tasks_table(tasks))
    if figures["depth"] > len(tasks):
        console.print(f"and {figures['depth'] - len(tasks)} more")
    return 0


def results(service: Service, given: argparse.Namespace) -> int:
    """Show the result list, from --after on."""
    found = list(_results(service, given.after, given.limit))
    if given.json:
        _print_json({"results": found})
        return 0
    table = Table("task", "num", "finished", box=None, pad_edge=False)
    for column in table.columns[:2]:
        column.justify = "right"
    for result in found:
        table.add_row(str(result["history_num"]), str(result["num"]), result["date_finished"])
    Console(highlight=False).print(table)
    return 0


def cancel(service: Service, given: argparse.Namespace) -> int:
    """Cancel a task, or those from one history number to another."""
    if given.last is None:
        found = service.ask("DELETE", f"/api/v1/tasks/{given.first}")
        _show(given, found, f"cancelled {_line(found)}")
    else:
        span = urlencode({"from": given.first, "to": given.last})
        found = service.ask("DELETE", f"/api/v1/tasks?{span}", seconds=600)
        _show(given, found, f"cancelled {found['count']} tasks")
    return 0


def pause(service: Service, given: argparse.Namespace) -> int:
    """Start no further task; the wait that runs goes on."""
    figures = service.ask("POST", "/api/v1/queue/pause")
    _show(given, figures, "paused")
    return 0


def resume(service: Service, given: argparse.Namespace) -> int:
    """Start tasks again."""
    figures = service.ask("POST", "/api/v1/queue/resume")
    _show(given, figures, "resumed")
    return 0


def _watch(service: Service, given: argparse.Namespace) -> int:
    """Show the queue as it moves, until Ctrl+C; with --json a line for each event."""
    try:
        if given.json:
            for event in service.events():
                if event.kind:
                    _print_json({"event": event.kind, "id": event.id, **event.data})
        else:
            watch.live(service)
    except KeyboardInterrupt:
        # This is how it ends.
        return 0
    return 0


# What they share.


def _follow(service: Service, given: argparse.Namespace, number: int) -> int:
    """Return when the task is finished: 0 when it is done, over restarts of the service too."""
    gone_at: float | None = None
    path = f"/api/v1/tasks/{number}?wait={WAIT_SECONDS}"
    while True:
        try:
            found = service.ask("GET", path, seconds=WAIT_SECONDS + 30)
        except Unreachable as error:
            now = time.monotonic()
            if gone_at is None:
                gone_at = now
                sys.stderr.write(f"sanic-app: {error}; trying again\n")
            if now - gone_at > GONE_SECONDS:
                raise
            time.sleep(0.5)
            continue
        gone_at = None
        if found["date_finished"] is not None:
            _show(given, found, _line(found))
            return 0 if found["state"] == "done" else EXIT_START


def _results(service: Service, after: int, limit: int | None) -> Iterator[Json]:
    left = math.inf if limit is None else limit
    while left > 0:
        size = int(min(left, PAGE))
        page = service.ask("GET", f"/api/v1/results?limit={size}&after={after}")["results"]
        yield from page
        left -= len(page)
        if len(page) < size:
            return
        after = page[-1]["history_num"]


def _read_tasks(file: str) -> Iterator[Json]:
    """Return the tasks of a file: a number and a timeout in each line."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise _Usage(f"cannot read {file}: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            num, timeout = words
            yield {"num": whole(num), "timeout": seconds(timeout)}
        except ValueError:
            raise _Usage(f"{file}, line {number}: must be a number and a timeout") from None


def _line(task: Json) -> str:
    state = task["state"]
    due = task.get("seconds_until_due")
    tail = "" if due is None else f", due in {due:.1f} s"
    return f"task {task['history_num']}: num {task['num']}, {task['timeout']} s, {state}{tail}"


def _show(given: argparse.Namespace, answer: Json, text: str) -> None:
    if given.json:
        _print_json(answer)
    else:
        print(text, flush=True)


def _print_json(answer: Json) -> None:
    print(json.dumps(answer), flush=True)


def _token(environ: Mapping[str, str]) -> str | None:
    """Return the token as the service's own settings name it."""
    token, file = environ.get("SANIC_APP_API_TOKEN"), environ.get("SANIC_APP_API_TOKEN_FILE")
    if token is None and file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise _Usage(f"cannot read {file}: {error.strerror}") from None
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token.strip()):
        raise _Usage("the token must be visible ASCII characters, not empty")
    return token and token.strip()


def _refuse(text: str, status: int) -> int:
    sys.stderr.write(f"sanic-app: {text}\n")
    return status


class _Usage(Exception):
    """The command was not given as it has to be."""


class _Parser(argparse.ArgumentParser):
    """One clear line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise _Usage(message)


def whole(text: str) -> int:
    """Return an integer as JSON writes it."""
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ValueError(f"not a whole number: {text}")
    return int(text)


def seconds(text: str) -> int | float:
    """Return a number of seconds; what fits is the service's to say."""
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", text) or math.isinf(
        float(text)
    ):
        raise ValueError(f"not a number of seconds: {text}")
    return int(text) if text.isdigit() else float(text)


def _parser(environ: Mapping[str, str]) -> _Parser:
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--url",
        default=environ.get("SANIC_APP_URL", URL),
        help="the service; else SANIC_APP_URL, else %(default)s",
    )
    shared.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser = _Parser(
        prog="sanic-app",
        description="Speak to a running service. The token, if it wants one, is taken from"
        " SANIC_APP_API_TOKEN or from the file that SANIC_APP_API_TOKEN_FILE names.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any) -> argparse.ArgumentParser:
        text = str(run.__doc__).partition("\n")[0]
        made = commands.add_parser(
            name, parents=[shared], help=text, description=text, allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    made = command("add", add)
    made.add_argument("num", metavar="NUM", type=whole, nargs="?", help="what to append")
    made.add_argument(
        "timeout", metavar="TIMEOUT", type=seconds, nargs="?", help="the wait before, in seconds"
    )
    made.add_argument("--file", help="add a batch: a number and a timeout in each line; - is stdin")
    made.add_argument("--key", help="an idempotency key: makes another try safe")
    made.add_argument("--wait", action="store_true", help="return when it is finished")
    made = command("task", task)
    made.add_argument("history_num", metavar="HISTORY_NUM", type=whole)
    made.add_argument("--wait", action="store_true", help="return when it is finished")
    made = command("queue", queue)
    made.add_argument("--limit", type=whole, default=10, help="so many tasks (%(default)s)")
    made = command("results", results)
    made.add_argument("--after", type=whole, default=0, help="behind this history number")
    made.add_argument("--limit", type=whole, help="so many results; else all")
    made = command("cancel", cancel)
    made.add_argument("first", metavar="HISTORY_NUM", type=whole)
    made.add_argument("last", metavar="LAST", type=whole, nargs="?", help="cancel a range")
    command("pause", pause)
    command("resume", resume)
    command("watch", _watch)
    return parser
