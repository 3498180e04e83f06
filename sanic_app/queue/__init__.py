"""The queue: what handlers and the worker call.

Writes wait here until the single writer puts all that wait into one commit: concurrent adds
cost one sync. Handlers only await a future, so a client that disconnects cannot cancel SQL
half-way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sanic_app.clock import Clock
from sanic_app.errors import (
    DiskFull,
    OutcomeUnknown,
    QueueFull,
    ServiceError,
    StartError,
    Stopping,
    StoreBusy,
    StoreFailed,
)
from sanic_app.metrics import Metrics
from sanic_app.store import (
    CANCEL_MAX,
    RUN_MAX,
    Add,
    Added,
    Cancel,
    Cancelled,
    CancelRange,
    Commit,
    Done,
    Figures,
    Finish,
    Lease,
    Place,
    SetPaused,
    Store,
    Write,
)
from sanic_app.task import SECOND, Head, NewTask, Task, seconds_left

COMMIT_WEIGHT = 4_000
"""A commit takes writes until they weigh this much: some 20 ms of SQLite's time."""
KEY_WEIGHT = 10
"""What an idempotency key adds to the weight of its add."""
CANCEL_WEIGHT = 10
RANGE_WEIGHT = 2 * CANCEL_MAX
BUSY_PAUSE = 0.1
"""Seconds until a commit is tried again that met another program's lock."""
PRUNE_PAUSE = 60.0
"""After so many seconds at most retention looks again, should the wall clock have gone on."""

log = logging.getLogger(__name__)


class TaskQueue:
    """The durable queue of one store, and its single writer."""

    figures: Figures
    """The state row as of the last commit."""

    head: Head | None = None
    """The started task and its deadline."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        queue_max: int,
        on_failure: Callable[[], None],
        *,
        on_commit: Callable[[Sequence[Write], Commit], None] = lambda _, __: None,
    ) -> None:
        """Take the store, not open yet.

        ``on_failure`` is called once when it failed for good, ``on_commit`` after each commit.
        """
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._queue_max = queue_max
        self._on_failure = on_failure
        self._on_commit = on_commit
        self._lease: Lease | None = None
        self._waiting: deque[tuple[Write, asyncio.Future[Any]]] = deque()
        self._uncommitted = 0
        self._last_batch = 0
        # Those who wait for a task to be finished, by its number.
        self._watched: dict[int, set[asyncio.Event]] = {}
        # Seconds until retention wants a commit; None: it does not.
        self._prune_in: float | None = 0.0 if store.prunes else None
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._accepting = False
        self._ending = False
        self.disk_full = False
        self.failed = False

    async def start(self) -> None:
        """Own and open the store, find the head, and start the writer.

        Raises:
            StartError: see the store.
        """
        if self._writer is not None:
            return
        self._lease = await self._store.own()
        try:
            await self._store.open(self._lease)
        except StartError:
            self._lease.release()
            self._lease = None
            raise
        overview = await self._store.overview()
        self.figures = overview.figures
        if overview.head is not None:
            left = overview.seconds_left or 0.0
            self.head = Head(overview.head, self._clock.monotonic() + left)
        self._metrics.queue_limit.set(self._queue_max)
        self._show()
        self._metrics.oldest_task_age.set_function(self.oldest_task_age)
        self._metrics.backlog.set_function(self.backlog)
        self._metrics.head_overdue.set_function(self.head_overdue)
        self._metrics.writes_waiting.set_function(lambda: len(self._waiting))
        self._accepting = True
        self._ending = False
        self._writer = asyncio.create_task(self._write(self._lease), name="writer")

    def refuse_writes(self) -> None:
        """Refuse what clients ask for from now on, and let none wait: the service is stopping."""
        self._accepting = False
        self._wake_all_watchers()

    async def stop(self) -> None:
        """Commit what waits and answer its callers; may be called twice."""
        self.refuse_writes()
        self._ending = True
        self._arrived.set()
        if self._writer is not None:
            await self._writer
            self._writer = None

    async def close(self) -> None:
        """Close the store, unless it failed: an orderly close would write. May be called twice."""
        if self._lease is not None and not self.failed:
            try:
                await self._store.close()
            except StoreFailed as failure:
                self._fail(failure, [])
                return
            self._lease.release()
            self._lease = None

    # Writing.

    def add(
        self, tasks: Sequence[NewTask], key: str | None = None, request: str = ""
    ) -> asyncio.Future[Added]:
        """Put tasks at the end of the queue; the future is done when they are on the disk.

        ``request`` goes with a key: the parsed request in a form that is equal when it is.

        Raises:
            Stopping, QueueFull: at once; nothing is added.
            DiskFull, KeyReused, OutcomeUnknown: through the future.
        """
        if not self._accepting:
            raise Stopping
        count = len(tasks)
        if key is None and self.figures.depth + self._uncommitted + count > self._queue_max:
            # With a key the store decides: it may be the retry of an add that found room.
            raise QueueFull
        self._uncommitted += count
        return self._put(Add(tasks, key, request))

    async def cancel(self, history_num: int) -> Task:
        """Take one task out of the queue without its number, and return it as it is then.

        Raises:
            NotFound, Gone, AlreadyFinished: it is not in the queue (any more).
            Stopping, DiskFull: nothing is cancelled.
            OutcomeUnknown: the store failed.
        """
        cancelled: Cancelled = await self._ask(Cancel(history_num))
        return cancelled.tasks[0]

    async def cancel_range(self, first: int, last: int) -> int:
        """Cancel the tasks of the queue with these numbers, as of now; return how many.

        In slices, from the last on, with other writes between them.

        Raises:
            Stopping, DiskFull, OutcomeUnknown: some may be cancelled already.
        """
        last = min(last, self.figures.last_history_num)
        count = 0
        while first <= last:
            cancelled: Cancelled = await self._ask(CancelRange(first, last))
            count += len(cancelled.tasks)
            if len(cancelled.tasks) < CANCEL_MAX:
                break
            last = cancelled.tasks[0].history_num - 1
        return count

    async def switch(self, *, paused: bool) -> None:
        """Pause the queue or resume it; both may be asked for again.

        Raises:
            Stopping, DiskFull: nothing is changed.
            OutcomeUnknown: the store failed.
        """
        await self._ask(SetPaused(paused))

    async def finish(self, history_num: int) -> None:
        """Finish the head, and with it the run of zero timeouts that it begins.

        Raises:
            NotHead: it is not the head any more.
            DiskFull: nothing is finished; try again later.
            OutcomeUnknown: the store failed.
        """
        await self._put(Finish(history_num))

    async def changed(self, seconds: float | None) -> None:
        """Return when the head may have changed, or the seconds (None: no limit) are over."""
        await self._clock.wait(self._changed, seconds, exact=True)
        self._changed.clear()

    def wake(self) -> None:
        """Wake whoever waits for a change, to look again."""
        self._changed.set()

    async def task(self, history_num: int, wait: float = 0.0) -> tuple[Task, Place | None] | None:
        """Look at a task: now, or once it is finished or the seconds are over.

        See the store; nobody waits while the service stops.
        """
        if not wait:
            return await self._store.task(history_num)
        finished = asyncio.Event()
        # Before the look, so that no finish falls between the two.
        watchers = self._watched.setdefault(history_num, set())
        watchers.add(finished)
        try:
            found = await self._store.task(history_num)
            if found is None or found[1] is None or not self._accepting:
                return found
            await self._clock.wait(finished, wait)
        finally:
            watchers.discard(finished)
            if not watchers and self._watched.get(history_num) is watchers:
                del self._watched[history_num]
        return await self._store.task(history_num)

    # Figures, in seconds.

    def oldest_task_age(self) -> float:
        """Return the age of the first task, 0 when the queue is empty."""
        return age(self.figures, self.figures.stamp(self._store.wall()))

    def backlog(self) -> float:
        """Return the sum of the waits still ahead, the rest of the head's included."""
        return backlog(self.figures, self.head, self._clock.monotonic())

    @property
    def full(self) -> bool:
        """Whether no further task can be added."""
        return self.figures.depth + self._uncommitted >= self._queue_max

    def measure(self, figures: Figures, head: Task | None, now: int) -> tuple[float, float]:
        """Return age of the first task and backlog, in seconds, for figures just read."""
        oldest = age(figures, now)
        if head is None:
            return oldest, figures.backlog / SECOND
        left = self._rest(head.history_num, head.started_at or 0, head.timeout, now)
        return oldest, (figures.backlog - head.timeout) / SECOND + left

    def seconds_until_due(self, task: Task, place: Place) -> float | None:
        """Return the seconds until the task can be done at the earliest.

        None while a pause keeps it, or the one before it, from starting.
        """
        figures = place.figures
        if figures.head is None or (figures.paused and task.history_num != figures.head):
            return None
        return (place.wait - place.first_timeout) / SECOND + self._rest(
            figures.head, figures.head_started_at or 0, place.first_timeout, place.now
        )

    def _rest(self, history_num: int, started_at: int, timeout: int, now: int) -> float:
        """Return what is left of the wait of a head just read from the store."""
        mine = self.head
        if mine is not None and mine.task.history_num == history_num:
            return max(mine.deadline - self._clock.monotonic(), 0.0)
        return seconds_left(started_at, timeout, now)

    def head_overdue(self) -> float:
        """Return how far the head is past its deadline, else 0."""
        return max(self._clock.monotonic() - self.head.deadline, 0.0) if self.head else 0.0

    # The writer.

    def _ask(self, write: Write) -> asyncio.Future[Any]:
        if not self._accepting:
            raise Stopping
        return self._put(write)

    def _put(self, write: Write) -> asyncio.Future[Any]:
        if self.failed:
            raise OutcomeUnknown
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((write, future))
        self._arrived.set()
        return future

    async def _write(self, lease: Lease) -> None:
        while not (self._ending and not self._waiting):
            if not self._waiting and not await self._idle():
                continue
            await self._gather()
            batch = self._take()
            self._last_batch = len(batch)
            try:
                await self._commit(lease, batch)
            except StoreFailed as failure:
                self._fail(failure, batch)
                return
            except BaseException as error:
                self._fail(StoreFailed("other", repr(error)), batch)
                raise

    async def _idle(self) -> bool:
        """Wait for a write; return whether retention wants a commit without any."""
        self._arrived.clear()
        if self._prune_in is None:
            await self._arrived.wait()
            return False
        if self._prune_in > 0.0:
            await self._clock.wait(self._arrived, min(self._prune_in, PRUNE_PAUSE))
        return not self._arrived.is_set()

    async def _gather(self) -> None:
        """Let the loop turn while each turn brings another write, up to the last batch's number.

        Taken at once, the answers to one commit and their clients' next writes would fall into
        two halves that alternate, each with a sync of its own. A lone client never waits.
        """
        before = 0
        while before < len(self._waiting) < self._last_batch:
            before = len(self._waiting)
            await asyncio.sleep(0)

    def _take(self) -> list[tuple[Write, asyncio.Future[Any]]]:
        weight = 0
        batch: list[tuple[Write, asyncio.Future[Any]]] = []
        while self._waiting:
            weight += _weight(self._waiting[0][0])
            if batch and weight > COMMIT_WEIGHT:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _commit(self, lease: Lease, batch: list[tuple[Write, asyncio.Future[Any]]]) -> None:
        begun = self._clock.monotonic()
        try:
            writes = [write for write, _ in batch]
            commit = await self._store.commit(lease, writes)
        except DiskFull:
            self.disk_full = True
            self._prune_in = None if self._prune_in is None else PRUNE_PAUSE
            self._metrics.store_errors["full"].inc()
            self._uncommitted -= sum(map(_tasks, batch))
            for _, future in batch:
                # One each: an exception grows a traceback with every caller that it reaches.
                _refuse(future, DiskFull())
            return
        except StoreBusy:
            self._metrics.store_errors["busy"].inc()
            log.warning("another program holds the database's lock: trying again")
            self._waiting.extendleft(reversed(batch))
            await asyncio.sleep(BUSY_PAUSE)
            return
        now = self._clock.monotonic()
        self.disk_full = False
        self._uncommitted -= sum(map(_tasks, batch))
        lateness = now - self.head.deadline if self.head else 0.0
        self._follow(commit, now)
        if batch:
            self._observe(commit, now - begun, lateness)
        for (_, future), result in zip(batch, commit.results, strict=True):
            if isinstance(result, ServiceError):
                _refuse(future, result)
            elif not future.done():
                future.set_result(result)
        self._wake_watchers(commit)
        self._on_commit(writes, commit)
        await self._maintain(lease)

    async def _maintain(self, lease: Lease) -> None:
        try:
            await self._store.maintain(lease)
        except DiskFull:
            self.disk_full = True
            self._metrics.store_errors["full"].inc()
        except StoreBusy:
            self._metrics.store_errors["busy"].inc()

    def _follow(self, commit: Commit, now: float) -> None:
        """Take over what the commit made true; a started task's wait runs from this moment."""
        self.figures = commit.figures
        self._prune_in = commit.prune_in
        self._show()
        if commit.started is not None:
            self.head = Head(commit.started, now + commit.started.timeout / SECOND)
            self._changed.set()
        elif commit.figures.head is None and self.head is not None:
            self.head = None
            self._changed.set()

    def _show(self) -> None:
        self._metrics.queue_depth.set(self.figures.depth)
        self._metrics.queue_paused.set(self.figures.paused)

    def _observe(self, commit: Commit, seconds: float, lateness: float) -> None:
        metrics = self._metrics
        metrics.commit_seconds.observe(seconds)
        metrics.commit_writes.observe(len(commit.results))
        added = 0
        for result in commit.results:
            if isinstance(result, Added):
                added += 0 if result.replayed else result.last - result.first + 1
            elif isinstance(result, Done):
                self._observe_done(result.tasks, commit.now, lateness)
            elif isinstance(result, Cancelled):
                metrics.tasks_finished["cancelled"].inc(len(result.tasks))
        if added:
            metrics.tasks_added.inc(added)

    def _observe_done(self, tasks: Sequence[Task], now: int, lateness: float) -> None:
        metrics = self._metrics
        metrics.tasks_finished["done"].inc(len(tasks))
        for task in tasks:
            metrics.task_latency.observe((now - task.created_at) / SECOND)
            metrics.task_queue.observe(((task.started_at or 0) - task.created_at) / SECOND)
            metrics.task_lateness.observe(max(lateness, 0.0))
            # Those behind the first of a run start and end in this commit.
            lateness = 0.0

    def _wake_watchers(self, commit: Commit) -> None:
        if not self._watched:
            return
        for result in commit.results:
            if isinstance(result, Done | Cancelled):
                for task in result.tasks:
                    for finished in self._watched.pop(task.history_num, ()):
                        finished.set()

    def _wake_all_watchers(self) -> None:
        for watchers in self._watched.values():
            for finished in watchers:
                finished.set()

    def _fail(self, failure: StoreFailed, batch: list[tuple[Write, asyncio.Future[Any]]]) -> None:
        """Answer all that wait, and have the process ended: what the disk holds is unknown."""
        self.failed = True
        self._accepting = False
        self._metrics.store_errors[failure.kind].inc()
        log.critical("the store failed: %s", failure.detail, exc_info=failure.__cause__)
        for _, future in (*batch, *self._waiting):
            _refuse(future, OutcomeUnknown())
        self._waiting.clear()
        self._wake_all_watchers()
        self._changed.set()
        self._on_failure()


def age(figures: Figures, now: int) -> float:
    """Return the seconds since the first task was created, by the store's own time."""
    if figures.oldest_created_at is None:
        return 0.0
    return (now - figures.oldest_created_at) / SECOND


def backlog(figures: Figures, head: Head | None, now: float) -> float:
    """Return the seconds of waits still ahead at ``now`` on the monotonic clock."""
    if head is None:
        return figures.backlog / SECOND
    rest = max(head.deadline - now, 0.0)
    return (figures.backlog - head.task.timeout) / SECOND + rest


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


def _tasks(item: tuple[Write, asyncio.Future[Any]]) -> int:
    return len(item[0].tasks) if isinstance(item[0], Add) else 0


def _refuse(future: asyncio.Future[Any], error: ServiceError) -> None:
    if not future.done():
        future.set_exception(error)
