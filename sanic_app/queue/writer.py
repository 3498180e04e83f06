"""The single writer: collects writes that wait, and puts them into one commit.

So N concurrent adds cost one sync. Callers only await a future: a client that disconnects cannot
cancel SQL half-way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
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
from sanic_app.store import (
    CANCEL_MAX,
    RUN_MAX,
    Add,
    CancelRange,
    Commit,
    Figures,
    Finish,
    Lease,
    Store,
    Write,
)

COMMIT_WEIGHT = 4_000
"""A commit takes writes until they weigh this much: some 20 ms of SQLite's time."""
KEY_WEIGHT = 10
"""What an idempotency key adds to the weight of its add."""
CANCEL_WEIGHT = 10
RANGE_WEIGHT = 2 * CANCEL_MAX
BUSY_PAUSE = 0.1
"""Seconds until a commit is tried again that met another program's lock."""
STUCK_SECONDS = 10.0
"""After so long without a commit that returns, the queue counts as stuck."""
WATCH_SECONDS = 0.5
"""How often the store looks whether somebody else changed it."""
PRUNE_PAUSE = 60.0
"""Upper bound in seconds between retention checks, in case the wall clock jumps."""

log = logging.getLogger(__name__)


class Committed(NamedTuple):
    """A commit that is durable; its moments are seconds of the monotonic clock."""

    commit: Commit
    begun: float
    ended: float
    foreign: bool = False
    """Whether others made it; then its moments are when this process learned of it."""


Listener = Callable[[Committed], None]
"""Called after each commit, before its callers are answered."""


class _Waiting(NamedTuple):
    write: Write
    future: asyncio.Future[Any]

    @property
    def tasks(self) -> int:
        """How many tasks it adds."""
        return len(self.write.tasks) if isinstance(self.write, Add) else 0


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
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._last_batch = 0
        # When retention wants a commit, on the monotonic clock; None: it does not.
        self._prune_at: float | None = clock.monotonic() if store.prunes else None
        self._watch_due = False
        self._watch_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        # The moment from which on a commit has been tried without success, on the monotonic clock.
        self._trying_since: float | None = None
        self.uncommitted = 0
        """Tasks of adds that wait for a commit."""
        self.disk_full = False
        self.failed = False

    @property
    def waiting(self) -> int:
        """How many writes wait for a commit."""
        return len(self._waiting)

    @property
    def stuck(self) -> bool:
        """Whether no commit has returned for a while, although there is something to commit."""
        since = self._trying_since
        return since is not None and self._clock.monotonic() - since > STUCK_SECONDS

    def start(self, lease: Lease, figures: Figures) -> None:
        """Begin with the state row as it is."""
        self.figures = figures
        self._ending = False
        self._task = asyncio.create_task(self._loop(lease), name="writer")
        self._watch_timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._ask_to_watch)

    async def stop(self) -> None:
        """Commit what waits and answer its callers; may be called twice."""
        self._ending = True
        self._arrived.set()
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
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        self.uncommitted += waiting.tasks
        self._waiting.append(waiting)
        self._arrived.set()
        return waiting.future

    def learn(self, committed: Committed) -> None:
        """Tell the listeners what others have committed."""
        self.figures = committed.commit.figures
        for listener in self._listeners:
            listener(committed)

    def fail(self, failure: StoreFailed, batch: Sequence[_Waiting] = ()) -> None:
        """Answer all that wait, and have the process ended: what the disk holds is unknown."""
        for waiting in (*batch, *self._waiting):
            _refuse(waiting.future, OutcomeUnknown())
        self._waiting.clear()
        if self.failed:
            return
        self.failed = True
        self._arrived.set()
        self._store_errors[failure.kind].inc()
        log.critical("the store failed: %s", failure.detail, exc_info=failure.__cause__)
        self._on_failure()

    async def _loop(self, lease: Lease) -> None:
        while not self.failed and not (self._ending and not self._waiting):
            batch: list[_Waiting] = []
            try:
                if self._watch_due:
                    self._watch_due = False
                    await self._store.watch(lease)
                if not self._waiting and not await self._idle():
                    continue
                await self._gather()
                batch = self._take()
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
        self._arrived.clear()
        if self._prune_at is None:
            await self._arrived.wait()
            return False
        if (seconds := self._prune_at - self._clock.monotonic()) > 0.0:
            await self._clock.wait(self._arrived, seconds)
        return not self._arrived.is_set()

    def _ask_to_watch(self) -> None:
        self._watch_due = True
        self._arrived.set()
        self._watch_timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._ask_to_watch)

    def _prune_in(self, seconds: float | None) -> None:
        now = self._clock.monotonic()
        self._prune_at = None if seconds is None else now + min(seconds, PRUNE_PAUSE)

    async def _gather(self) -> None:
        """Let the loop turn while each turn brings another write, up to the last batch's number.

        Taken at once, the answers to one commit and their clients' next writes would fall into
        two halves that alternate, each with a sync of its own. A lone client never waits.
        """
        before = 0
        while before < len(self._waiting) < self._last_batch:
            before = len(self._waiting)
            await asyncio.sleep(0)

    def _take(self) -> list[_Waiting]:
        weight = 0
        batch: list[_Waiting] = []
        while self._waiting:
            weight += _weight(self._waiting[0].write)
            if batch and weight > COMMIT_WEIGHT:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _commit(self, lease: Lease, batch: list[_Waiting]) -> None:
        begun = self._clock.monotonic()
        if self._trying_since is None:
            self._trying_since = begun
        try:
            commit = await self._store.commit(lease, [waiting.write for waiting in batch])
        except DiskFull:
            self._note_full()
            self._refuse_all(batch, DiskFull)
            return
        except (StoreUnavailable, OutcomeUnknown) as error:
            # Another time it may be there again: the store knows what it must resolve first.
            self._store_errors["unavailable"].inc()
            self._refuse_all(batch, type(error))
            return
        except StoreBusy:
            self._store_errors["busy"].inc()
            log.warning("another program holds the database's lock: trying again")
            self._waiting.extendleft(reversed(batch))
            await asyncio.sleep(BUSY_PAUSE)
            return
        self.disk_full = False
        self.uncommitted -= sum(waiting.tasks for waiting in batch)
        self.figures = commit.figures
        self._prune_in(commit.prune_in)
        committed = Committed(commit, begun, self._clock.monotonic())
        # First, so that a listener that fails makes no durable commit unknown. The callers go on
        # when this turn of the loop is over, after the listeners.
        for waiting, result in zip(batch, commit.results, strict=True):
            if isinstance(result, ServiceError):
                _refuse(waiting.future, result)
            elif not waiting.future.done():
                waiting.future.set_result(result)
        for listener in self._listeners:
            listener(committed)
        await self._maintain(lease)
        self._trying_since = None

    def _refuse_all(self, batch: Sequence[_Waiting], error: type[ServiceError]) -> None:
        self._prune_in(None if self._prune_at is None else PRUNE_PAUSE)
        self.uncommitted -= sum(waiting.tasks for waiting in batch)
        for waiting in batch:
            # One each: an exception grows a traceback with every caller that it reaches.
            _refuse(waiting.future, error())
        self._trying_since = None

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


def _weight(write: Write) -> int:
    match write:
        case Add():
            return len(write.tasks) + (KEY_WEIGHT if write.key is not None else 0)
        case Finish():
            return RUN_MAX
        case CancelRange():
            return RANGE_WEIGHT
        case _:
            return CANCEL_WEIGHT


def _refuse(future: asyncio.Future[Any], error: ServiceError) -> None:
    if not future.done():
        future.set_exception(error)
