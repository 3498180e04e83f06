"""A commit whose tables contradict each other fails the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sanic_app.errors import StoreFailed
from sanic_app.store import Cancel, Finish, Write
from sanic_app.store.sqlite.rows import SqliteRows
from tests.fake_clock import FakeClock
from tests.parts import SqliteEngine, opened

OTHER = [(2, 0, 0, 0), (3, 0, 0, 0)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("verb", "found", "write", "detail"),
    [
        ("queued", [], Finish(1), "the head is not in the queue"),
        ("queued", OTHER, Finish(1), "the head is not in the queue"),
        ("remove", 0, Finish(1), "the queue does not hold what was read"),
        ("remove", 2, Cancel(2), "the queue does not hold what was read"),
    ],
)
async def test_tables_that_contradict_each_other_are_damage(
    *,
    verb: str,
    found: Any,
    write: Write,
    detail: str,
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(SqliteEngine(tmp_path), clock) as store:
        await store.add(1, 1)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteRows, verb, lambda *_: found)
            with pytest.raises(StoreFailed) as failed:
                await store.commit(write)
        assert (failed.value.kind, failed.value.detail) == ("corrupt", detail)
