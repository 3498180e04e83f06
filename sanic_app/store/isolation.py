"""A write that fails on its own account fails alone (ARCHITECTURE.md, rule 9)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from sanic_app.errors import (
    DiskFull,
    Internal,
    OutcomeUnknown,
    ServiceError,
    StoreBusy,
    StoreUnavailable,
)
from sanic_app.store import Commit, Overview, Result, Write

log = logging.getLogger(__name__)


class WriteFailed(Exception):
    """One of the writes of a commit cannot be applied. Nothing of the commit was."""


async def commit_isolated(
    writes: Sequence[Write],
    commit: Callable[[Sequence[Write]], Awaitable[Commit]],
    overview: Callable[[], Awaitable[Overview]],
) -> Commit:
    """Commit all writes together or, when one of them fails, each by itself.

    ``commit`` raises ``WriteFailed`` when one of the given writes cannot be applied; ``overview``
    reads the state row.

    Raises:
        whatever else ``commit`` raises for all the writes together, or as a failed store.
    """
    try:
        return await commit(writes)
    except WriteFailed as error:
        if len(writes) == 1:
            log.exception("the store refused a write", exc_info=error.__cause__)
            before = await overview()
            # An empty commit finds out what retention wants.
            return Commit([Internal()], before.figures, prune_in=0.0)
    results: list[Result | ServiceError] = []
    started = last = None
    for write in writes:
        try:
            last = await _commit_patiently(write, commit, overview)
        except (DiskFull, OutcomeUnknown, StoreUnavailable) as refusal:
            # Of this write alone: those before it may be applied.
            results.append(refusal)
        else:
            results += last.results
            started = last.started or started
    if last is None:
        last = Commit([], (await overview()).figures)
    if started is not None and started.history_num != last.figures.head:
        started = None
    return Commit(results, last.figures, started, last.prune_in)


async def _commit_patiently(
    write: Write,
    commit: Callable[[Sequence[Write]], Awaitable[Commit]],
    overview: Callable[[], Awaitable[Overview]],
) -> Commit:
    while True:
        try:
            return await commit_isolated([write], commit, overview)
        except StoreBusy:
            # Each try has waited for the lock, and the rest of the batch waits too.
            log.warning("another program holds the database's lock: trying again")
