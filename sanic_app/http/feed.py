"""The feed of events: what each commit made true, told to whoever listens.

A message's id is a cursor: the last history number and the last finish number that were told up to
it. So the tables themselves are the log of adds and finishes, and a listener that comes back goes
on where it was, whatever happened to the connection or the process between. What started and what
was paused stands in the figures, and is told live alone.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sanic_app.http.schemas import task_object
from sanic_app.store import Add, Added, Cancelled, Commit, Done, Figures, PauseState, Store, Write
from sanic_app.task import State, Task

RATE = 20
"""Messages a second to a listener; what is beyond waits and is summarised."""
TASKS_MAX = 1_000
"""A message with more tasks tells their number alone; a page of what was missed has so many."""
LAG_MAX = 100
"""A listener with so many messages to take is cut: it can resume."""
HEARTBEAT_SECONDS = 10.0
RETRY_MS = 1_000
"""After so many milliseconds a listener that lost its connection should come back."""


class Cursor(NamedTuple):
    """What a listener was told of: adds and finishes up to these numbers."""

    added: int
    finished: int

    def __str__(self) -> str:
        """Return it as a message's id."""
        return f"{self.added}.{self.finished}"


@dataclass(frozen=True, slots=True)
class _Part:
    """The tasks of one kind that are still to be told, of one commit or of several."""

    first: int
    last: int
    count: int
    tasks: Sequence[Task] | None
    """None: to be summarised."""

    def data(self) -> dict[str, Any]:
        if self.tasks is not None and len(self.tasks) <= TASKS_MAX:
            return {"tasks": [task_object(task) for task in self.tasks]}
        return {"first": self.first, "last": self.last, "count": self.count}


class _Listener:
    """One client's messages that wait for it to take them."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self.messages: deque[bytes] = deque()
        self.arrived = asyncio.Event()
        self.cut = cut

    def put(self, message: bytes) -> None:
        self.messages.append(message)
        self.arrived.set()

    def take(self) -> bytes:
        taken = b"".join(self.messages)
        self.messages.clear()
        self.arrived.clear()
        return taken


class Pace:
    """So many messages at once, and so many a second."""

    def __init__(self, now: Callable[[], float], rate: int = RATE) -> None:
        """Take the clock, in seconds."""
        self._now = now
        self._rate = rate
        self._left = float(rate)
        self._at = now()

    def take(self) -> float:
        """Return 0 and count a message, or the seconds until one may go."""
        now = self._now()
        self._left = min(self._left + (now - self._at) * self._rate, self._rate)
        self._at = now
        if self._left < 1:
            # Not the very moment: timers may fire a little early.
            return (1 - self._left) / self._rate + 0.001
        self._left -= 1
        return 0.0


class EventFeed:
    """Tells the listeners of one queue what each commit made true."""

    def __init__(self, store: Store) -> None:
        """Take the store, for what a listener has missed."""
        self._store = store
        self._told = Cursor(0, 0)
        self._now_at = Cursor(0, 0)
        self._listeners: set[_Listener] = set()
        self._added: _Part | None = None
        self._finished: _Part | None = None
        self._started: _Part | None = None
        self._switched: PauseState | None = None
        self._pace: Pace | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._ending = asyncio.Event()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def start(self, figures: Figures) -> None:
        """Begin behind what the store holds."""
        loop = asyncio.get_running_loop()
        self._pace = Pace(loop.time)
        self._told = self._now_at = Cursor(figures.last_history_num, figures.last_finish_num)

    def stop(self) -> None:
        """Tell what waits, and end every stream. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._beat is not None:
            self._beat.cancel()
        self._tell()
        self._ending.set()
        for listener in self._listeners:
            listener.arrived.set()

    # What happens.

    def publish(self, writes: Sequence[Write], commit: Commit) -> None:
        """Take what a commit did with its writes; it is durable."""
        self._now_at = Cursor(commit.figures.last_history_num, commit.figures.last_finish_num)
        if not self._listeners:
            self._told = self._now_at
            self._added = self._finished = self._started = self._switched = None
            return
        added: list[Task] = []
        finished: list[Task] = []
        for write, result in zip(writes, commit.results, strict=True):
            match result:
                case Added(replayed=False) if isinstance(write, Add):
                    added += _tasks_of(write, result)
                case Done() | Cancelled():
                    finished += result.tasks
                case PauseState(changed=True):
                    self._switched = result
        self._added = _joined(self._added, added)
        self._finished = _joined(self._finished, finished)
        self._started = _joined(self._started, [commit.started] if commit.started else [])
        if self._timer is None:
            self._tell_when_due()

    def _tell_when_due(self) -> None:
        """Tell now what the pace lets through, and the rest as soon as it does."""
        self._timer = None
        while self._waits():
            assert self._pace is not None  # noqa: S101 - started
            if (seconds := self._pace.take()) > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(seconds, self._tell_when_due)
                return
            self._tell_one()
        self._told = self._now_at

    def _tell(self) -> None:
        while self._waits():
            self._tell_one()

    def _waits(self) -> bool:
        return any((self._added, self._finished, self._started, self._switched))

    def _tell_one(self) -> None:
        """Tell one kind: adds before finishes, so that the cursor says what was told."""
        if self._added is not None:
            part, self._added = self._added, None
            self._told = self._told._replace(added=part.last)
            self._send("added", part.data())
        elif self._finished is not None:
            part, self._finished = self._finished, None
            self._told = self._told._replace(finished=self._told.finished + part.count)
            self._send("finished", part.data())
        elif self._started is not None:
            part, self._started = self._started, None
            self._send("started", part.data())
        elif self._switched is not None:
            switched, self._switched = self._switched, None
            self._send("paused" if switched.paused else "resumed", {"tasks": []})

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        text = message(kind, data, self._told)
        for listener in list(self._listeners):
            if len(listener.messages) >= LAG_MAX:
                self._listeners.discard(listener)
                listener.cut()
            else:
                listener.put(text)

    # Who listens.

    async def listen(
        self, cursor: Cursor | None, cut: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        """Return what a listener is to be sent, from the cursor on or from now, until the stop.

        ``cut`` ends the connection of one that is too slow. Whatever is yielded is whole messages.
        """
        listener = _Listener(cut)
        if cursor is None:
            # Before the first message is on its way: nothing falls between that and the next.
            self._listeners.add(listener)
        try:
            yield f"retry: {RETRY_MS}\nid: {cursor or self._told}\n\n".encode()
            if cursor is not None:
                async for text in self._missed(cursor, listener):
                    yield text
            if self._beat is None:
                self._beat_later()
            while not self._ending.is_set():
                await listener.arrived.wait()
                yield listener.take()
            yield listener.take()
        finally:
            self._listeners.discard(listener)

    def _beat_later(self) -> None:
        """Let silent streams be heard of again and again, while there are any.

        One timer for all: one for each would cost them more than their messages.
        """
        for listener in self._listeners if self._beat is not None else ():
            if not listener.messages:
                listener.put(b":\n\n")
        loop = asyncio.get_running_loop()
        again = self._listeners and not self._ending.is_set()
        self._beat = loop.call_later(HEARTBEAT_SECONDS, self._beat_later) if again else None

    async def _missed(self, cursor: Cursor, listener: _Listener) -> AsyncGenerator[bytes, None]:
        """Return what the tables tell since the cursor, page by page; then let it listen."""
        pace = Pace(asyncio.get_running_loop().time)
        while cursor != self._told and not self._ending.is_set():
            until = self._told
            if cursor.added > until.added or cursor.finished > until.finished:
                # Of another database, or of an older copy of this one.
                break
            if (seconds := pace.take()) > 0:
                await asyncio.sleep(seconds)
                continue
            kind, page, cursor, wanted = await self._page(cursor, until)
            if len(page) < wanted:
                # Retention has removed some.
                break
            data = {"tasks": [task_object(task) for task in page]}
            yield message(kind, data, cursor)
        # No turn of the loop between the look and this: nothing is missed or told twice.
        self._listeners.add(listener)
        if cursor != self._told:
            figures = {"added": self._told.added, "finished": self._told.finished}
            yield message("reset", figures, self._told)

    async def _page(self, cursor: Cursor, until: Cursor) -> tuple[str, Sequence[Task], Cursor, int]:
        if cursor.added < until.added:
            wanted = min(until.added - cursor.added, TASKS_MAX)
            end = cursor.added + wanted
            return (
                *("added", await self._store.added(cursor.added, end)),
                *(cursor._replace(added=end), wanted),
            )
        wanted = min(until.finished - cursor.finished, TASKS_MAX)
        end = cursor.finished + wanted
        return (
            *("finished", await self._store.finished(cursor.finished, end)),
            *(cursor._replace(finished=end), wanted),
        )


def message(kind: str, data: dict[str, Any], cursor: Cursor) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(data, separators=(",", ":"))
    return f"id: {cursor}\nevent: {kind}\ndata: {text}\n\n".encode()


def _joined(before: _Part | None, tasks: Sequence[Task]) -> _Part | None:
    if not tasks:
        return before
    first, last = tasks[0].history_num, tasks[-1].history_num
    if before is None:
        return _Part(first, last, len(tasks), tasks)
    return _Part(before.first, last, before.count + len(tasks), None)


def _tasks_of(add: Add, added: Added) -> list[Task]:
    """Return the tasks of an add as its commit left them."""
    tasks = [
        Task(added.first + index, task.num, task.timeout, added.created_at, State.QUEUED)
        for index, task in enumerate(add.tasks)
    ]
    if added.started:
        tasks[0] = tasks[0]._replace(state=State.WAITING, started_at=added.created_at)
    return tasks
