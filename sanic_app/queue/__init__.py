"""The durable queue: what handlers and the worker call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sanic_app.clock import Clock
from sanic_app.errors import (
    QueueFull,
    ServiceError,
    StartError,
    Stopping,
    StoreFailed,
    StoreUnavailable,
)
from sanic_app.metrics import Metrics
from sanic_app.queue.condition import Condition
from sanic_app.queue.follower import Follower
from sanic_app.queue.head import HeadTimer
from sanic_app.queue.observer import Observer
from sanic_app.queue.retry import or_replay, refused
from sanic_app.queue.view import QueueView
from sanic_app.queue.writer import Listener, Writer
from sanic_app.store import (
    CANCEL_MAX,
    Add,
    Added,
    Cancel,
    Cancelled,
    CancelRange,
    Figures,
    Finish,
    Lease,
    SetPaused,
    Store,
    Write,
)
from sanic_app.task import NewTask, Task


class TaskQueue:
    """The durable queue of one store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        queue_max: int,
        on_failure: Callable[[], None],
        *,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Take the store, not open yet.

        ``on_failure`` is called once when it failed for good, ``listeners`` after each commit.
        """
        self.timer = HeadTimer(clock, shared=store.shared)
        """The head and the end of its wait."""
        self.view = QueueView(store, clock, self.timer)
        """What is read of the queue."""
        self._store = store
        self._on_failure = on_failure
        self._observer = Observer(metrics, store, self.timer)
        # The observer goes first: it needs the head that the commit finished.
        followers = [self._observer.follow, self.timer.follow, self.view.follow, *listeners]
        self._writer = Writer(store, clock, metrics, followers, self._store_failed)
        self.condition = Condition(store, self._writer, queue_max)
        """What keeps it from its work."""
        self._follower = Follower(store, clock, self.timer, self._writer)
        self._metrics = metrics
        self._lease: Lease | None = None
        self._accepting = False
        metrics.queue_limit.set(queue_max)
        metrics.writes_waiting.set_function(lambda: self._writer.waiting)

    async def start(self) -> None:
        """Own and open the store, find the head, and start the writer; may be called twice.

        Raises:
            StartError: see the store.
        """
        if self._lease is not None:
            return
        lease = await self._store.own()
        try:
            await self._store.open(lease)
            overview = await self._store.overview()
        except StoreFailed as failure:
            # The store stays open, and so the lease stays taken: an orderly close would write.
            raise StartError(f"the queue cannot be read: {failure.detail}") from None
        except StoreUnavailable as lost:
            lease.release()
            raise StartError(f"the store was lost during the start: {lost.__cause__}") from None
        except BaseException:
            lease.release()
            raise
        self._lease = lease
        self._store.on_failure = self._writer.fail
        self.timer.begin(overview)
        self.view.begin(overview)
        self._observer.begin(overview)
        self._writer.start(lease, overview.figures)
        self._follower.start()
        self._accepting = True

    def refuse_writes(self) -> None:
        """Refuse what clients ask for from now on, and let none wait: the service is stopping."""
        self._accepting = False
        self._store.end_patience()
        self.view.end_waits()

    async def stop(self) -> None:
        """Commit what waits and answer its callers; may be called twice."""
        self.refuse_writes()
        await self._writer.stop()
        await self._follower.stop()

    async def close(self) -> None:
        """Close the store, unless it failed: an orderly close would write. May be called twice."""
        if self._lease is not None and not self.failed:
            try:
                await self._store.close()
            except StoreFailed as failure:
                self._writer.fail(failure)
                return
            self._lease.release()
            self._lease = None

    # What clients write.

    def add(
        self, tasks: Sequence[NewTask], key: str | None = None, request: str = ""
    ) -> asyncio.Future[Added]:
        """Put tasks at the end of the queue; the future is done when they are on the disk.

        ``request`` goes with a key: the parsed request in a form that is equal when it is.

        Raises:
            Stopping, QueueFull: without a key at once; nothing is added.
            Stopping, QueueFull, DiskFull, KeyReused, OutcomeUnknown: through the future.
        """
        add = Add(tasks, key, request)
        if key is not None:
            written = self._writer.put(add) if self._accepting else refused(Stopping())
            return asyncio.create_task(
                or_replay(add, written, self._store, lambda: self._writer.uncommitted)
            )
        if self._accepting and not self.condition.has_room(len(tasks)):
            raise QueueFull
        return self._write(add)

    async def cancel(self, history_num: int) -> Task:
        """Take one task out of the queue without its number, and return it as it is then.

        Raises:
            NotFound, Gone, AlreadyFinished: it is not in the queue (any more).
            Stopping, DiskFull: nothing is cancelled.
            OutcomeUnknown: the store failed.
        """
        cancelled: Cancelled = await self._write(Cancel(history_num))
        return cancelled.tasks[0]

    async def cancel_range(self, first: int, last: int) -> int:
        """Cancel the tasks of the queue with these numbers, as of the first commit of it.

        In slices, from the last on, with other writes between them. Returns how many there were.

        Raises:
            Stopping, DiskFull, OutcomeUnknown: some may be cancelled already.
        """
        count = 0
        while first <= last:
            try:
                cancelled: Cancelled = await self._write(CancelRange(first, last))
            except ServiceError as refusal:
                if count:
                    refusal.concede("A part of the range is cancelled: cancel it again.")
                raise
            count += len(cancelled.tasks)
            if len(cancelled.tasks) < CANCEL_MAX:
                break
            last = cancelled.tasks[0].history_num - 1
        return count

    async def set_paused(self, *, paused: bool) -> None:
        """Pause the queue or resume it; both may be asked for again.

        Raises:
            Stopping, DiskFull: nothing is changed.
            OutcomeUnknown: the store failed.
        """
        await self._write(SetPaused(paused))

    # What the worker writes.

    async def finish(
        self, history_num: int, started_at: int | None = None, *, takeover: bool = False
    ) -> None:
        """Finish the head, as it was started, and with it the run of zero timeouts it begins.

        Raises:
            NotHead: it is not the head any more.
            DiskFull, StoreUnavailable: nothing is finished; try again later.
            OutcomeUnknown: the store failed.
        """
        await self._writer.put(Finish(history_num, started_at))
        if takeover:
            self._metrics.takeovers.inc()

    @property
    def engine(self) -> str:
        """The store's engine with its version."""
        return self._store.engine

    @property
    def shared(self) -> bool:
        """Whether other nodes commit too."""
        return self._store.shared

    # How it is, without asking the store.

    @property
    def figures(self) -> Figures:
        """The state row as of the last commit."""
        return self._writer.figures

    @property
    def failed(self) -> bool:
        """Whether the store failed: nothing is written any more."""
        return self._writer.failed

    def _write(self, write: Write) -> asyncio.Future[Any]:
        if not self._accepting:
            raise Stopping
        return self._writer.put(write)

    def _store_failed(self) -> None:
        self.refuse_writes()
        self.timer.wake()
        self._on_failure()
