"""The single writer: collects writes that wait, and puts them into one commit.

So N concurrent adds cost one sync. Callers only await a future: a client that disconnects cannot
cancel SQL half-way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sanic_app.clock import Clock
from sanic_app.errors import (
    DiskFull,
    OutcomeUnknown,
    ServiceError,
    StoreBusy,
    StoreFailed,
    StoreUnavailable,
)
from sanic_app.metrics import Metrics
from sanic_app.queue.tries import Tries
from sanic_app.queue.waiting import WaitingWrite, WaitingWrites
from sanic_app.store import Commit, Figures, Lease, Store, Write

BUSY_PAUSE = 0.1
"""Seconds until a commit is tried again that met another program's lock."""
WATCH_SECONDS = 0.5
"""How often the store looks whether somebody else changed it."""
PRUNE_PAUSE = 60.0
"""Upper bound in seconds between retention checks, in case the clock jumps or a node is gone."""

log = logging.getLogger(__name__)


class Committed(NamedTuple):
    """A commit that is durable; its moments are seconds of the monotonic clock."""

    commit: Commit
    begun: float
    ended: float
    foreign: bool = False
    """Whether others made it; then its moments are when this process learned of it."""
    missing: bool = False
    """Whether others finished tasks that are not told, because retention has removed them."""
    finish_num: int | None = None
    """The finish number of the last task that it tells as finished; None: that of the figures."""


Listener = Callable[[Committed], None]
"""Called after each commit, before its callers are answered."""


class Writer:
    """The one coroutine that commits."""

    figures: Figures
    """The state row as of the last commit."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        listeners: Sequence[Listener],
        on_failure: Callable[[], None],
    ) -> None:
        """Take the store, and who is told of each commit and of the store's failure."""
        self._store = store
        self._clock = clock
        self._store_errors = metrics.store_errors
        self._listeners = listeners
        self._on_failure = on_failure
        self._waiting = WaitingWrites()
        self._last_batch = 0
        # When retention wants a commit, on the monotonic clock; None: it does not.
        self._prune_at: float | None = clock.monotonic() if store.prunes else None
        self._watch_due = False
        self._watch_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self.tries = Tries(clock)
        """The commit that is tried now, if there is one."""
        self.disk_full = False
        self.failed = False

    @property
    def waiting(self) -> int:
        """How many writes wait for a commit."""
        return len(self._waiting)

    @property
    def uncommitted(self) -> int:
        """How many tasks of adds were not answered yet."""
        return self._waiting.uncommitted

    def start(self, lease: Lease, figures: Figures) -> None:
        """Begin with the state row as it is."""
        self.figures = figures
        self._ending = False
        if self._store.opened_full:
            self._note_full()
        self._task = asyncio.create_task(self._loop(lease), name="writer")
        self._watch_timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._ask_to_watch)

    async def stop(self) -> None:
        """Commit what waits and answer its callers; may be called twice."""
        self._ending = True
        self._waiting.arrived.set()
        if self._task is not None:
            await self._task
            self._task = None
        if self._watch_timer is not None:
            self._watch_timer.cancel()

    def put(self, write: Write) -> asyncio.Future[Any]:
        """Put a write beside those that wait; the future has its result.

        Raises:
            OutcomeUnknown: the store failed; nothing is written any more.
        """
        if self.failed:
            raise OutcomeUnknown
        return self._waiting.put(write)

    def learn(self, committed: Committed) -> None:
        """Tell the listeners what others have committed: the server has room for that."""
        self.disk_full = False
        self.figures = committed.commit.figures
        for listener in self._listeners:
            listener(committed)

    def fail(self, failure: StoreFailed, batch: Sequence[WaitingWrite] = ()) -> None:
        """Answer all that wait, and have the process ended: what the disk holds is unknown."""
        self._waiting.end(batch)
        if self.failed:
            return
        self.failed = True
        self._waiting.arrived.set()
        self._store_errors[failure.kind].inc()
        log.critical("the store failed: %s", failure.detail, exc_info=failure.__cause__)
        self._on_failure()

    async def _loop(self, lease: Lease) -> None:
        while not self.failed and not (self._ending and not self._waiting):
            batch: list[WaitingWrite] = []
            try:
                if self._watch_due:
                    self._watch_due = False
                    await self._store.watch(lease)
                if not self._waiting and not await self._idle():
                    continue
                await self._gather()
                batch = self._waiting.take()
                self._last_batch = len(batch)
                await self._commit(lease, batch)
            except StoreFailed as failure:
                self.fail(failure, batch)
                return
            except BaseException as error:
                self.fail(StoreFailed("other", repr(error)), batch)
                raise

    async def _idle(self) -> bool:
        """Wait for a write or a watch; return whether retention wants a commit without any."""
        self._waiting.arrived.clear()
        if self._prune_at is None:
            await self._waiting.arrived.wait()
            return False
        if (seconds := self._prune_at - self._clock.monotonic()) > 0.0:
            await self._clock.wait(self._waiting.arrived, seconds)
        return not self._waiting.arrived.is_set()

    def _ask_to_watch(self) -> None:
        self._watch_due = True
        self._waiting.arrived.set()
        self._watch_timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._ask_to_watch)

    def _prune_in(self, seconds: float | None) -> None:
        if seconds is None and self._store.shared and self._store.prunes:
            # What another node finishes may get too old when that one is gone.
            seconds = PRUNE_PAUSE
        self._prune_at = (
            None if seconds is None else self._clock.monotonic() + min(seconds, PRUNE_PAUSE)
        )

    async def _gather(self) -> None:
        """Let the loop turn while each turn brings another write, up to the last batch's number.

        Taken at once, the answers to one commit and their clients' next writes would fall into
        two halves that alternate, each with a sync of its own. A lone client never waits.
        """
        before = 0
        while before < len(self._waiting) < self._last_batch:
            before = len(self._waiting)
            await asyncio.sleep(0)

    async def _commit(self, lease: Lease, batch: list[WaitingWrite]) -> None:
        begun = self.tries.begin()
        try:
            commit = await self._store.commit(lease, [waiting.write for waiting in batch])
        except DiskFull:
            self._note_full()
            self.tries.end()
            self._refuse(batch, DiskFull)
            return
        except (StoreUnavailable, OutcomeUnknown) as error:
            # Another time it may be there again: the store knows what it must resolve first.
            self._store_errors["unavailable"].inc()
            self.tries.give_up()
            self._refuse(batch, type(error))
            # The others have waited for the same server, and would wait as long again.
            while others := self._waiting.take():
                self._refuse(others, StoreUnavailable)
            return
        except StoreBusy:
            self._store_errors["busy"].inc()
            log.warning("another program holds the database's lock: trying again")
            self._waiting.put_back(batch)
            await asyncio.sleep(BUSY_PAUSE)
            return
        if commit.figures != self.figures:
            # One that changes nothing needs no room.
            self.disk_full = False
        self.figures = commit.figures
        self._prune_in(commit.prune_in)
        committed = Committed(commit, begun, self._clock.monotonic())
        # First, so that a listener that fails makes no durable commit unknown. The callers go on
        # when this turn of the loop is over, after the listeners.
        self._waiting.answer(batch, commit.results)
        for listener in self._listeners:
            listener(committed)
        await self._maintain(lease)
        self.tries.end()

    def _refuse(self, batch: Sequence[WaitingWrite], error: type[ServiceError]) -> None:
        self._prune_in(None if self._prune_at is None else PRUNE_PAUSE)
        self._waiting.refuse(batch, error)

    async def _maintain(self, lease: Lease) -> None:
        try:
            await self._store.maintain(lease)
        except DiskFull:
            self._note_full()
        except StoreBusy:
            self._store_errors["busy"].inc()

    def _note_full(self) -> None:
        self.disk_full = True
        self._store_errors["full"].inc()
