"""A write that fails on its own account fails alone (ARCHITECTURE.md, rule 9)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from sanic_app.errors import DiskFull, Internal, ServiceError, StoreBusy
from sanic_app.store import Commit, Figures, Result, Write

log = logging.getLogger(__name__)


class WriteFailed(Exception):
    """One of the writes of a commit cannot be applied. Nothing of the commit was."""


async def commit_isolated(
    writes: Sequence[Write],
    commit: Callable[[Sequence[Write]], Awaitable[Commit]],
    figures: Callable[[], Awaitable[Figures]],
) -> Commit:
    """Commit all writes together or, when one of them fails, each by itself.

    ``commit`` raises ``WriteFailed`` when one of the given writes cannot be applied; ``figures``
    reads the state row.

    Raises:
        whatever else ``commit`` raises for all the writes together, or as a failed store.
    """
    try:
        return await commit(writes)
    except WriteFailed as error:
        if len(writes) == 1:
            log.exception("the store refused a write", exc_info=error.__cause__)
            return Commit([Internal()], await figures(), None)
    results: list[Result | ServiceError] = []
    started = prune_in = None
    for write in writes:
        try:
            done = await _commit_patiently(write, commit, figures)
        except DiskFull as refusal:
            results.append(refusal)
        else:
            results += done.results
            started = done.started or started
            prune_in = done.prune_in
    after = await figures()
    if started is not None and started.history_num != after.head:
        started = None
    return Commit(results, after, started, prune_in)


async def _commit_patiently(
    write: Write,
    commit: Callable[[Sequence[Write]], Awaitable[Commit]],
    figures: Callable[[], Awaitable[Figures]],
) -> Commit:
    while True:
        try:
            return await commit_isolated([write], commit, figures)
        except StoreBusy:
            # Each try has waited for the lock, and the rest of the batch waits too.
            log.warning("another program holds the database's lock: trying again")
