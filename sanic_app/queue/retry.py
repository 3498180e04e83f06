"""The retry of an add with a key, when the queue cannot add."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sanic_app.errors import DiskFull, ServiceError, Stopping, StoreUnavailable
from sanic_app.store import Add, Added, Store

MAYBE = "It is not known whether an earlier request with this key was applied."


async def or_replay(
    add: Add, written: asyncio.Future[Added], store: Store, uncommitted: Callable[[], int]
) -> Added:
    """Return what an add with a key did, or what the first add with this key did.

    The first one may have found room in the queue and on the disk. So a refusal may say that
    nothing was added only after the key was looked up. ``uncommitted`` tells how many tasks wait
    for their commit, those of the first add perhaps among them.
    """
    try:
        return await written
    except (DiskFull, StoreUnavailable, Stopping) as refusal:
        try:
            before = await store.replay(add)
        except StoreUnavailable:
            refusal.concede(MAYBE)
            raise refusal from None
        if before is not None:
            return before
        if store.shared or uncommitted():
            # Another node may have the first add, and commit it later.
            refusal.concede(MAYBE)
        raise


def refused(error: ServiceError) -> asyncio.Future[Any]:
    """Return a future that is refused already."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
