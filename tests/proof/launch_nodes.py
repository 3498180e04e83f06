"""What can be changed in nodes for a control: see launch.py."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from sanic_app.clock import SystemClock
from sanic_app.errors import NotHead, StoreFailed
from sanic_app.queue import head
from sanic_app.queue.view import QueueView
from sanic_app.store import Done, Finish
from sanic_app.store.migrations import Migration, migrations
from sanic_app.store.postgres import (
    changes,
    committer,
    failures,
    opening,
    reads,
    schema,
    servers,
)
from sanic_app.store.postgres.committer import Committer
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.messages import Messages
from sanic_app.store.postgres.servers import Server, Servers
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Transition
from sanic_app.task import SECOND


def put(owner: object, name: str, value: object) -> None:
    """Put something in the place of what the service has."""
    getattr(owner, name)
    setattr(owner, name, value)


def any_start(_: str) -> None:
    """Finish whatever the head is now: a finish that names no start."""
    finish = Transition._finish

    def blindly(self: Transition, _: Finish) -> Done:
        if self._head is None:
            raise NotHead
        return finish(self, Finish(self._head))

    async def is_head(*_: object) -> bool:
        return True

    put(Transition, "_finish", blindly)
    put(QueueView, "is_head", is_head)


def repeats(_: str) -> None:
    """Commit again whenever the answer is missing, without a look."""

    async def absent(self: Committer) -> bool | None:
        found, self._unanswered = self._unanswered, None
        return None if found is None else False

    put(Committer, "_resolve", absent)


def no_takeover(_: str) -> None:
    """Leave each head to its keeper for ever."""
    put(head, "TAKEOVER_SECONDS", 1_000_000)


def asynchronous(_: str) -> None:
    """Answer before PostgreSQL has synced its WAL."""
    send = Messages.send

    def lazily(self: Messages, *statements: str) -> Any:
        return send(self, *(each.replace("commit = on", "commit = off") for each in statements))

    put(Messages, "send", lazily)


def no_deadlines(_: str) -> None:
    """Wait for the server as long as it takes."""
    put(changes, "DEADLINE_SECONDS", 86_400)
    put(committer, "COMMIT_SECONDS", 86_400)
    put(reads, "READ_SECONDS", 86_400)
    put(servers, "CONNECT_SECONDS", 86_400)


def first_host(_: str) -> None:
    """Take the first host that can be written, whatever the others are."""

    def first(self: Servers) -> Any:
        for host in self._hosts:
            with suppress(Lost, StoreFailed):
                self.floor = self.timeline = 0
                return self._try(host)
        raise Lost("no host")

    put(Servers, "find", first)
    put(Server, "timeline", 0)


def server_clock(_: str) -> None:
    """Wait by the clock of the server: when that is another one, a head is early or stuck."""
    follow_server = Stamps.follow_server
    skew = 0.0

    def told(self: Stamps, shown: int, stamp: int, asked: int) -> int:
        nonlocal skew
        skew = shown / SECOND - time.time()
        return follow_server(self, shown, stamp, asked)

    put(Stamps, "follow_server", told)

    async def wait(
        self: SystemClock, event: asyncio.Event, seconds: float | None, *, exact: bool = False
    ) -> None:
        due = math.inf if seconds is None else self.monotonic() + seconds
        # As often as an event loop on that clock would look.
        while not event.is_set() and self.monotonic() < due:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    put(SystemClock, "monotonic", lambda _: time.time() + skew)
    put(SystemClock, "wait", wait)


def still_stamps(_: str) -> None:
    """Let time stand still while the last stamp is ahead of the clock."""
    put(Stamps, "follow", lambda *_: 0)


def strict_server(_: str) -> None:
    """Take a full disk of the server for a failure."""

    def harsh() -> StoreFailed:
        return StoreFailed("full", "the disk of the server is full")

    put(failures, "DiskFull", harsh)


def torn_migration(_: str) -> None:
    """Commit each statement of a migration by itself, slowly; with the first one the lock ends."""

    def torn(engine: str) -> list[Migration]:
        ended = ";\nCOMMIT; SELECT pg_sleep(0.05); BEGIN;\n"
        return [each._replace(sql=each.sql.replace(";\n", ended)) for each in migrations(engine)]

    put(schema, "migrations", torn)


def any_schema(_: str) -> None:
    """Go on whatever a newer release has made of the schema."""
    for module in (changes, opening):
        put(module, "migrations", lambda _: range(1_000))


def no_warnings(_: str) -> None:
    """Take a commit for durable whatever the server says beside it."""
    put(committer, "warned", lambda _: nullcontext([]))


NODE_CHANGES: dict[str, Callable[[str], None]] = {
    change.__name__: change
    for change in (
        *(any_start, repeats, no_takeover, asynchronous, no_deadlines, first_host),
        *(no_warnings, server_clock, still_stamps, strict_server, torn_migration, any_schema),
    )
}
