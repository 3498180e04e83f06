"""What keeps the tables: a small protocol in domain verbs.

Nothing above knows which engine is below, and nothing in here is one engine's alone. The store
stamps times itself; no caller compares absolute times.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Protocol

from sanic_app.errors import ServiceError, StoreFailed
from sanic_app.task import NewTask, Task, seconds_left

RUN_MAX = 1_000
"""How many tasks of timeout zero may finish in one commit (ARCHITECTURE.md, rule 7)."""
CANCEL_MAX = 1_000
"""How many tasks of a range are cancelled in one commit (ARCHITECTURE.md, rule 9)."""
WAIT_SUM_MODULUS = 2**63
"""The running sum of all timeouts is kept modulo this."""
PRUNE_MAX = 1_000
"""How many tasks retention removes in one commit."""


class Add(NamedTuple):
    """Put these tasks at the end of the queue, contiguously, all or none."""

    tasks: Sequence[NewTask]
    key: str | None = None
    request: str = ""
    """With a key: the request after parsing, equal exactly when the requests are."""


class Added(NamedTuple):
    """What an add did, or what the first add with the same key did."""

    first: int
    last: int
    created_at: int
    started: bool
    """Whether this add's own commit started its first task (at ``created_at``)."""
    replayed: bool = False


class Finish(NamedTuple):
    """Finish the started head, and with it the run of zero timeouts that it begins.

    A pause ends the run at the head: no further task starts.
    """

    history_num: int
    started_at: int | None = None
    """The start that is meant: with another one the finish is refused. None: whichever it is."""


class Done(NamedTuple):
    """The tasks that this finish took out of the queue, in order."""

    tasks: Sequence[Task]


class Cancel(NamedTuple):
    """Take one task out of the queue without its number; the next starts if it was the head."""

    history_num: int


class CancelRange(NamedTuple):
    """Cancel the last ``CANCEL_MAX`` tasks of the queue with numbers from ``first`` to ``last``.

    Whoever wants all of them asks again, up to the first that was cancelled: from the end on,
    so that no task starts only to be cancelled by the next slice.
    """

    first: int
    last: int


class Cancelled(NamedTuple):
    """The tasks that this cancel took out of the queue, in order."""

    tasks: Sequence[Task]


class SetPaused(NamedTuple):
    """Pause the queue, or resume it: the head's wait goes on, but no task starts in a pause."""

    paused: bool


class PauseState(NamedTuple):
    """Whether the queue is paused now, and whether this changed it."""

    paused: bool
    changed: bool


Write = Add | Finish | Cancel | CancelRange | SetPaused
Result = Added | Done | Cancelled | PauseState


class Figures(NamedTuple):
    """The state row: what must never be counted. Times are stamps, durations microseconds."""

    last_history_num: int
    last_finish_num: int
    last_stamp: int
    wait_sum: int
    depth: int
    backlog: int
    oldest_created_at: int | None
    paused: int
    head: int | None
    head_started_at: int | None
    pruned: int

    def stamp(self, wall: int) -> int:
        """Return the store's own time when its clock shows ``wall``: stamps never go back."""
        return max(wall, self.last_stamp)


class Commit(NamedTuple):
    """One durable transaction: a result or a refusal for each write, and the figures after it."""

    results: Sequence[Result | ServiceError]
    figures: Figures
    started: Task | None = None
    """The task that this commit made the head, if it still is."""
    prune_in: float | None = None
    """Seconds until retention wants a commit, be it an empty one; None: the next finish does."""
    lock_wait: float | None = None
    """Seconds that it waited for the lock of all nodes; None where there is none."""


class Overview(NamedTuple):
    """The state row and the head as of one moment."""

    figures: Figures
    head: Task | None
    now: int
    """The store's own time."""

    @property
    def seconds_left(self) -> float | None:
        """What is left of the head's wait by the store's own time; None without a head."""
        head = self.head
        return head and seconds_left(head.started_at or 0, head.timeout, self.now)


class Change(NamedTuple):
    """What others have committed since the last one."""

    overview: Overview
    finished: Sequence[Task]
    """Tasks that were finished, in order, not all of them when they are many."""
    missing: bool = False
    """Whether retention has removed some of them before they could be read."""
    finish_num: int | None = None
    """The finish number of the last of them; None: that of the figures."""


class Place(NamedTuple):
    """Where a task of the queue stands, as of one moment; durations are microseconds."""

    figures: Figures
    now: int
    """The store's own time."""
    position: int
    """The tasks before it."""
    wait: int
    """The timeouts of those before it and its own, each whole."""
    first_timeout: int
    """The timeout of the first task of the queue."""


class Slice(NamedTuple):
    """A part of a whole list as JSON text: comma-separated, without brackets."""

    text: str
    last: int | None
    """The history number to go on after; None when this was the last slice."""


class Sizes(NamedTuple):
    """Bytes on disk."""

    database: int
    wal: int
    free: float
    """What its disk has left for this user; NaN when that is not known."""


class Lease(Protocol):
    """The right to write, which one process has."""

    def release(self) -> None:
        """Give it back."""


class Store(Protocol):
    """One queue, its history and its state row, on some engine."""

    on_failure: Callable[[StoreFailed], None]
    """Called when a read meets damage or an I/O error, which it raises too."""

    notice: Callable[[str], None]
    """Called with ``reconnect``, and with ``applied``, ``repeated`` or ``absent`` when it has found
    out what became of a commit whose answer was missing."""

    @property
    def shared(self) -> bool:
        """Whether other processes commit too."""

    @property
    def up(self) -> bool:
        """Whether it can be reached."""

    @property
    def unknown(self) -> bool:
        """Whether it is not known yet if a commit was applied. Until then there is no other."""

    @property
    def opened_full(self) -> bool:
        """Whether it was opened on a full disk, and can only be read so far."""

    @property
    def engine(self) -> str:
        """The engine with its version, such as ``sqlite 3.46.1``."""

    @property
    def lineage(self) -> str:
        """Which queue this is: a UUID as 32 hexadecimal digits, another one in each copy.

        Known once the store is open.
        """

    @property
    def prunes(self) -> bool:
        """Whether there is a retention: then it wants a commit at the start, an empty one too."""

    def wall(self) -> int:
        """Return the clock that stamps are taken from, without asking the store.

        Microseconds since 1970; ``Figures.stamp`` makes the store's own time of it.
        """

    def ahead(self, stamp: int) -> int:
        """Return by how many microseconds the store's own time is ahead of its clock, else 0.

        ``stamp`` is the last one. The clock is this machine's, or that of the server.
        """

    async def own(self) -> Lease:
        """Become the only writer.

        Raises:
            NotOwner: another process is.
            StartError: the place of the store cannot be used.
        """

    async def open(self, lease: Lease) -> None:
        """Check, migrate and open the store, and recover what an earlier process left.

        Raises:
            StartError: the store is damaged, of a newer version, or cannot be opened; nothing
                was changed.
        """

    async def commit(self, lease: Lease, writes: Sequence[Write]) -> Commit:
        """Apply the writes in order, in one durable transaction; return when it is on disk.

        A write that cannot be applied on its own account has its refusal as its result, and
        the others stand. Each commit, one without writes too, removes some of what retention
        does not keep.

        Raises:
            DiskFull, StoreBusy, StoreUnavailable: none of them is applied; it can be tried again.
            OutcomeUnknown: whether they are applied is not known; other writes may follow.
            StoreFailed: what was applied is unknown, and nothing may be written any more.
        """

    def end_patience(self) -> None:
        """Let writes wait hardly any longer for a store that cannot be reached: a stop begins."""

    async def maintain(self, lease: Lease) -> None:
        """Do what the engine needs done between commits; return at once when it is nothing.

        Raises:
            as ``commit``.
        """

    async def watch(self, lease: Lease) -> None:
        """Look whether somebody else changed what only this process may change.

        Where a commit has no answer yet, try to find out what became of it.

        Raises:
            StoreFailed: it was changed; nothing may be written any more.
        """

    def changes(self) -> AsyncGenerator[Change, None]:
        """Yield what others have committed, as soon as it is known; never, where nobody else does.

        Raises:
            StoreFailed: nothing may be written any more.
        """

    def look(self) -> None:
        """Have ``changes`` look at once."""

    async def figures(self) -> Figures:
        """Return the state row.

        Raises:
            StoreUnavailable: it cannot be reached now; so does each of the reads below.
        """

    async def overview(self) -> Overview:
        """Return the state row and the head as of one moment."""

    async def task(self, history_num: int) -> tuple[Task, Place | None] | None:
        """Return the task, with its place while it is in the queue.

        None when the tables do not hold it. The cost grows neither with the depth nor with the
        number of cancelled tasks.
        """

    async def replay(self, add: Add) -> Added | None:
        """Return what the first add with the same key did, as far as it is committed, else None.

        Raises:
            KeyReused: the first add with this key was another request.
        """

    async def queue_page(self, after: int, limit: int) -> list[Task]:
        """Return tasks of the queue with a greater history number, in order."""

    async def results_page(self, after: int, limit: int) -> list[Task]:
        """Return done tasks with a greater history number, in order."""

    async def added(self, after: int, until: int) -> list[Task]:
        """Return the tasks after one history number, up to another, in order, as they are now.

        Those that retention has removed are missing.
        """

    async def finished(self, after: int, until: int) -> list[Task]:
        """Return the tasks after one finish number, up to another, in the order of finishing."""

    async def queue_slice(self, after: int, until: int) -> Slice:
        """Return a part of the queue: history_num, date_created, num and timeout of each."""

    async def results_slice(self, after: int, until: int) -> Slice:
        """Return a part of the result list: the numbers."""

    def sizes(self) -> Sizes:
        """Return what the store takes on the disk."""

    async def close(self) -> None:
        """Close what is open; may be called twice.

        Raises:
            StoreFailed: what can only be known at the end; the store stays open.
        """
