"""The commands: what each asks the service, and how its answer is shown."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from sanic_app.client.actions import Command, Printing
from sanic_app.client.arguments import parse, read_tasks, read_token, task_text
from sanic_app.client.cursor import Cursor, Position
from sanic_app.client.follower import Follower
from sanic_app.client.output import tell
from sanic_app.client.service import QUEUE, TASK, Failed, Json, Service
from sanic_app.client.stops import Stop, Stops
from sanic_app.client.watch import figures_line, follow, live, tasks_table
from sanic_app.errors import EXIT_START, Usage

WAIT_SECONDS = 25
"""How long one request waits. Proxies give up after 30 or 60 seconds."""
LOST_SECONDS = 60.0
"""How long to keep trying when the service does not answer."""
PAGE = 1_000
COLUMNS = 80
"""Every line fits into these; a narrower terminal breaks it. Cut, a number would be another one."""


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit status.

    Raises:
        Usage: its arguments are not valid.
        Failed: it failed.
    """
    given = parse(arguments, environ)
    try:
        service = Service(given.url, read_token(environ))
    except ValueError as error:
        raise Usage(str(error)) from None
    return RUN[given.command](service, given)


# One function for each of COMMANDS.


def _add(service: Service, given: argparse.Namespace) -> int:
    headers = {} if given.key is None else {"Idempotency-Key": given.key}
    if given.file is not None:
        if given.num is not None:
            raise Usage("give NUM and TIMEOUT, or --file")
        body = f'{{"tasks": [{", ".join(read_tasks(given.file))}]}}'
        shape = {"first": int, "last": int}
        batch = service.ask("POST", "/api/v1/tasks/batch", shape, body, headers, seconds=60)
        last = batch["last"]
        _show(given, batch, f"added tasks {batch['first']} to {last}")
    else:
        if given.timeout is None:
            raise Usage("NUM and TIMEOUT are required")
        body = task_text(given.num, given.timeout)
        task = service.ask("POST", "/api/v1/tasks", TASK, body, headers)
        last = task["history_num"]
        if not (given.wait and given.json):
            _show(given, task, f"added {_line(task)}")
    return _wait_until_finished(service, given, last) if given.wait else 0


def _task(service: Service, given: argparse.Namespace) -> int:
    if given.wait:
        return _wait_until_finished(service, given, given.history_num)
    found = service.ask("GET", f"/api/v1/tasks/{given.history_num}", TASK)
    _show(given, found, _line(found))
    return 0


def _queue(service: Service, given: argparse.Namespace) -> int:
    figures = service.ask("GET", "/api/v1/queue", QUEUE)
    tasks = service.queue_page(given.limit)
    if given.json:
        _print_json({**figures, "tasks": tasks})
        return 0
    console = Console(highlight=False, markup=False, width=COLUMNS)
    console.print(figures_line(figures))
    if tasks:
        console.print(tasks_table(tasks))
    if figures["depth"] > len(tasks):
        console.print(f"and {figures['depth'] - len(tasks)} more")
    return 0


def _results(service: Service, given: argparse.Namespace) -> int:
    found = list(_all_results(service, given.after, given.limit))
    if given.json:
        _print_json({"results": found})
        return 0
    table = Table("task", "num", "finished", box=None, pad_edge=False)
    for column in table.columns[:2]:
        column.justify = "right"
    for result in found:
        table.add_row(str(result["history_num"]), str(result["num"]), result["date_finished"])
    Console(highlight=False, markup=False, width=COLUMNS).print(table)
    return 0


def _cancel(service: Service, given: argparse.Namespace) -> int:
    if given.last is None:
        found = service.ask("DELETE", f"/api/v1/tasks/{given.first}", TASK)
        _show(given, found, f"cancelled {_line(found)}")
    else:
        span = urlencode({"from": given.first, "to": given.last})
        found = service.ask("DELETE", f"/api/v1/tasks?{span}", {"count": int}, seconds=600)
        _show(given, found, f"cancelled {found['count']} tasks")
    return 0


def _switch(service: Service, given: argparse.Namespace) -> int:
    figures = service.ask("POST", f"/api/v1/queue/{given.command}", QUEUE)
    _show(given, figures, f"{given.command}d")
    return 0


def _watch(service: Service, given: argparse.Namespace) -> int:
    if given.after is not None and not given.json:
        raise Usage("--after is for --json")
    # Ctrl+C is how the user ends it.
    with suppress(KeyboardInterrupt):
        if given.json:
            for event in follow(service, given.after or ""):
                _print_json({"event": event.kind, "id": event.id, **event.data})
        else:
            live(service)
    return 0


def _follow(service: Service, given: argparse.Namespace) -> int:
    if given.exec is not None and given.json:
        raise Usage("give --exec or --json")
    if given.exec is None and given.retry is not None:
        raise Usage("--retry is for --exec")
    stops = Stops()
    with suppress(Stop), Cursor(given.cursor, Position(given.after)) as cursor:
        action: Printing | Command = Printing(stops, as_json=given.json)
        if given.exec is not None:
            action = Command(stops, given.exec, given.retry, cursor.command_lock())
        try:
            Follower(service, cursor, action, from_reset=given.from_reset).run()
        finally:
            cursor.settle()
    return 0


RUN: Mapping[str, Callable[[Service, argparse.Namespace], int]] = {
    "add": _add,
    "task": _task,
    "queue": _queue,
    "results": _results,
    "cancel": _cancel,
    "pause": _switch,
    "resume": _switch,
    "watch": _watch,
    "follow": _follow,
}


# What they share.


def _wait_until_finished(service: Service, given: argparse.Namespace, number: int) -> int:
    """Wait until the task is finished; return 0 when it is done.

    A service that restarts, or has lost its database, is asked again for a minute.
    """
    lost_at: float | None = None
    path = f"/api/v1/tasks/{number}?wait={WAIT_SECONDS}"
    while True:
        try:
            found = service.ask("GET", path, TASK, seconds=WAIT_SECONDS + 30)
        except Failed as error:
            if not error.passes:
                raise
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                tell(f"{error}; trying again")
            if now - lost_at > LOST_SECONDS:
                raise
            time.sleep(0.5)
            continue
        lost_at = None
        if found["date_finished"] is not None:
            _show(given, found, _line(found))
            return 0 if found["state"] == "done" else EXIT_START


def _all_results(service: Service, after: int, limit: int | None) -> Iterator[Json]:
    left = math.inf if limit is None else limit
    while left > 0:
        size = int(min(left, PAGE))
        page = service.results(after, size)
        yield from page
        left -= len(page)
        if len(page) < size:
            return
        after = page[-1]["history_num"]


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
