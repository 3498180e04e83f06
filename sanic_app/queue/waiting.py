"""The writes that wait for a commit, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from sanic_app.errors import OutcomeUnknown, ServiceError
from sanic_app.store import CANCEL_MAX, RUN_MAX, Add, CancelRange, Finish, Result, Write

COMMIT_WEIGHT = 4_000
"""A commit takes writes until they weigh this much: some 20 ms of SQLite's time."""
KEY_WEIGHT = 10
"""What an idempotency key adds to the weight of its add."""
CANCEL_WEIGHT = 10
RANGE_WEIGHT = 2 * CANCEL_MAX


class WaitingWrite(NamedTuple):
    """A write, and the future that its caller awaits."""

    write: Write
    future: asyncio.Future[Any]
    tasks: int
    """How many it adds."""

    @property
    def weight(self) -> int:
        """How much of a commit it takes."""
        match self.write:
            case Add(key=key):
                return self.tasks + (0 if key is None else KEY_WEIGHT)
            case Finish():
                return RUN_MAX
            case CancelRange():
                return RANGE_WEIGHT
            case _:
                return CANCEL_WEIGHT

    def answer(self, result: Result | ServiceError) -> None:
        """Let the caller go on, unless it has left."""
        if self.future.done():
            return
        if isinstance(result, ServiceError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class WaitingWrites:
    """Those that no commit has taken yet."""

    def __init__(self) -> None:
        """Begin with none."""
        self._writes: deque[WaitingWrite] = deque()
        self.arrived = asyncio.Event()
        """Set when a write arrives; whoever waits for it clears it first."""
        self.uncommitted = 0
        """The tasks of adds that were not answered yet, those of the commit under way included."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._writes)

    def put(self, write: Write) -> asyncio.Future[Any]:
        """Put a write behind the others; the future has its result."""
        tasks = len(write.tasks) if isinstance(write, Add) else 0
        future = asyncio.get_running_loop().create_future()
        self.uncommitted += tasks
        self._writes.append(WaitingWrite(write, future, tasks))
        self.arrived.set()
        return future

    def take(self) -> list[WaitingWrite]:
        """Take the first ones, as many as one commit holds."""
        weight = 0
        batch: list[WaitingWrite] = []
        while self._writes:
            weight += self._writes[0].weight
            if batch and weight > COMMIT_WEIGHT:
                break
            batch.append(self._writes.popleft())
        return batch

    def put_back(self, batch: list[WaitingWrite]) -> None:
        """Put what was taken before the others again."""
        self._writes.extendleft(reversed(batch))

    def answer(
        self, batch: Iterable[WaitingWrite], results: Iterable[Result | ServiceError]
    ) -> None:
        """Let the callers of what was taken go on, each with its result."""
        for waiting, result in zip(batch, results, strict=True):
            self.uncommitted -= waiting.tasks
            waiting.answer(result)

    def refuse(self, batch: Iterable[WaitingWrite], error: type[ServiceError]) -> None:
        """Refuse what was taken: an exception each, as it grows a traceback with every caller."""
        for waiting in batch:
            self.uncommitted -= waiting.tasks
            waiting.answer(error())

    def end(self, batch: Iterable[WaitingWrite]) -> None:
        """Answer what was taken and all others: it is not known whether they were committed."""
        for waiting in (*batch, *self._writes):
            waiting.answer(OutcomeUnknown())
        self._writes.clear()
