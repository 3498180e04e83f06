"""A live view in the terminal: the running wait, the queue and its end, the latest results.

A thread listens to the events. After an event, the view asks the service for the figures again, at
most four times a second. Between two answers it counts the seconds down by itself.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sanic_app.client.output import tell
from sanic_app.client.service import QUEUE, TASK, Event, Failed, Json, Refused, Service

TASKS = 10
RESULTS = 5
FRAMES = 8
"""Updates of the screen in a second."""
LOOK_SECONDS = 0.25
"""The shortest time between two requests for the figures."""
RETRY_SECONDS = 1.0


def live(service: Service) -> None:
    """Show the queue until Ctrl+C.

    Raises:
        Failed: the service refuses, or did not answer at the start.
    """
    view = _View(service)
    view.look()
    threading.Thread(target=view.listen, name="events", daemon=True).start()
    # A terminal that is closed is none any more. Rich would then show nothing, for ever.
    console = Console(markup=False, force_terminal=sys.stdout.isatty() or None)
    with Live(view.picture(), console=console, auto_refresh=False) as screen:
        while True:
            if view.moved.wait(1 / FRAMES):
                view.look_again()
            screen.update(view.picture(), refresh=True)


def follow(service: Service, after: str) -> Iterator[Event]:
    """Return the events after a message, or from now on, even if the service restarts.

    Raises:
        Failed: the service refuses, or was not there from the beginning.
    """
    connected = lost = False
    while True:
        try:
            for event in service.events(after):
                connected, lost = True, False
                after = event.id or after
                if event.kind:
                    yield event
        except Failed as error:
            if not (connected and error.passes):
                raise
            if not lost:
                tell(f"{error}; trying again")
            lost = True
        time.sleep(RETRY_SECONDS)


class _View:
    """What the screen shows, and when it was asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._figures: Json = {}
        self._tasks: Sequence[Json] = ()
        self._until_due: float | None = None
        self._looked_at = 0.0
        self._results: deque[Json] = deque(maxlen=RESULTS)
        self._lost = ""
        self._refused: Failed | None = None
        self.moved = threading.Event()

    def listen(self) -> None:
        """Follow the events for ever; runs in its own thread."""
        after = ""
        while True:
            try:
                for event in self._service.events(after):
                    after = event.id or after
                    if event.kind == "finished":
                        tasks = event.data.get("tasks", ())
                        self._results.extend(task for task in tasks if task["state"] == "done")
                    if event.kind or self._lost:
                        self._lost = ""
                        self.moved.set()
            except Failed as error:
                if not error.passes:
                    self._refused = error
                    self.moved.set()
                    return
                self._lost = str(error)
            time.sleep(RETRY_SECONDS)

    def look(self) -> None:
        """Ask the service for what the screen shows."""
        ask = self._service.ask
        self._figures = ask("GET", "/api/v1/queue", QUEUE)
        self._tasks = self._service.queue_page(TASKS)
        self._until_due = None
        if (head := self._figures["head"]) is not None:
            path = f"/api/v1/tasks/{head['history_num']}"
            try:
                self._until_due = ask("GET", path, TASK).get("seconds_until_due")
            except Refused as error:
                # It was finished since, and retention has removed it already.
                if error.status != HTTPStatus.GONE:
                    raise
        self._looked_at = time.monotonic()

    def look_again(self) -> None:
        """Ask again, unless the last answer is too recent."""
        if self._refused is not None:
            raise self._refused
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            time.sleep(1 / FRAMES)
            return
        self.moved.clear()
        try:
            self.look()
        except Failed as error:
            if not error.passes:
                raise
            self._lost = str(error)

    def picture(self) -> RenderableType:
        """Return the current content of the screen."""
        parts: list[RenderableType] = []
        if self._lost:
            parts.append(Text(f"disconnected: {self._lost}", style="bold red"))
        passed = time.monotonic() - self._looked_at
        parts.append(figures_line(self._figures, passed))
        parts.append(self._wait(passed))
        if self._tasks:
            parts.append(tasks_table(self._tasks))
        parts += [
            Text(f"done: {result['num']} (task {result['history_num']})", style="green")
            for result in list(self._results)
        ]
        # An address of IPv6 would be markup.
        title = Text(f"sanic-app · {self._service.url}")
        return Panel(Group(*parts), title=title, title_align="left")

    def _wait(self, passed: float) -> RenderableType:
        head = self._figures["head"]
        if head is None or self._until_due is None:
            return Text("nothing is waiting", style="dim")
        left = max(self._until_due - passed, 0.0)
        total = max(head["timeout"], 1e-6)
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column()
        row.add_column(ratio=1)
        row.add_column(justify="right")
        row.add_row(
            f"task {head['history_num']}: num {head['num']}",
            ProgressBar(total=total, completed=total - left),
            f"{left:.1f} s left",
        )
        return row


def figures_line(figures: Json, passed: float = 0.0) -> Text:
    """Return the queue in one line; ``passed`` is the age of the figures in seconds."""
    backlog = figures["backlog_seconds"]
    if figures["head"] is not None:
        backlog = max(backlog - passed, 0.0)
    text = Text(f"{figures['depth']} tasks, {backlog:.1f} s of waits")
    if figures["paused"]:
        text.append(" · ")
        text.append("PAUSED", style="bold yellow")
    elif figures["depth"]:
        text.append(f" · ends {_when(backlog)}")
    return text


def tasks_table(tasks: Sequence[Json]) -> Table:
    """Return tasks of the queue as a table."""
    table = Table("task", "num", "timeout", "state", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.justify = "right"
    for task in tasks:
        table.add_row(
            str(task["history_num"]), str(task["num"]), f"{task['timeout']} s", task["state"]
        )
    return table


def _when(seconds: float) -> str:
    try:
        end = datetime.now().astimezone() + timedelta(seconds=seconds)
    except OverflowError:
        return "beyond the year 9999"
    return f"{end:%Y-%m-%d %H:%M:%S}"
