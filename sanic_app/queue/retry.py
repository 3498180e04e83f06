"""The retry of an add with a key, when the queue cannot add."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from sanic_app.errors import DiskFull, ServiceError, Stopping, StoreUnavailable
from sanic_app.store import Add, Added, Store


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
            _concede(refusal)
            raise refusal from None
        if before is not None:
            return before
        if store.shared or uncommitted():
            # Another node may have the first add, and commit it later.
            _concede(refusal)
        raise


def _concede(refusal: ServiceError) -> None:
    # Of what the refusal says, the reason stays. That nothing was changed may be wrong.
    reason = re.split("[.:;]", refusal.detail)[0]
    refusal.concede(
        f"{reason}; it is not known whether an earlier request with this key was applied."
    )


def refused(error: ServiceError) -> asyncio.Future[Any]:
    """Return a future that is refused already."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
