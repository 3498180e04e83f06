"""The lineage: which queue this is, for as long as it lives."""

from __future__ import annotations

import uuid

import pytest

from tests.fake_clock import FakeClock
from tests.parts import Engine, opened

pytestmark = pytest.mark.anyio


async def test_a_lineage_is_a_random_uuid_and_survives_a_restart(
    engine: Engine, clock: FakeClock
) -> None:
    async with opened(engine, clock) as store:
        before = store.store.lineage
        await store.add(1)
    found = uuid.UUID(before)
    assert (found.hex, found.version, found.variant) == (before, 4, uuid.RFC_4122)
    async with opened(engine, clock) as store:
        assert store.store.lineage == before
