"""What is a commit's own: no further one is wanted, and tables that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sanic_app.errors import StoreFailed
from sanic_app.store import Add, Cancel, Finish, Write
from sanic_app.store.postgres.rows import PostgresRows
from sanic_app.store.sqlite.rows import SqliteRows
from sanic_app.store.transition import QueuedRow
from tests.fake_clock import FakeClock
from tests.parts import Engine, PostgresEngine, SqliteEngine, new, opened


@pytest.mark.anyio
async def test_without_retention_no_commit_is_wanted(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        assert (await store.commit(Add(new(1)))).prune_in is None
        assert (await store.commit()).prune_in is None


OTHER = [(2, 0, 0, 0), (3, 0, 0, 0)]


@pytest.mark.anyio
@pytest.mark.parametrize("found", [[], OTHER], ids=["nothing", "others"])
async def test_a_head_that_is_not_in_the_queue_is_damage(
    found: list[QueuedRow], tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(SqliteEngine(tmp_path), clock) as store:
        await store.add(1, 1)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteRows, "queued", lambda *_: found)
            with pytest.raises(StoreFailed) as failed:
                await store.commit(Finish(1))
        assert (failed.value.kind, failed.value.detail) == (
            "corrupt",
            "the head is not in the queue",
        )


@pytest.mark.anyio
@pytest.mark.parametrize("write", [Finish(1), Cancel(2)], ids=["finish", "cancel"])
@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("rows", [SqliteRows, PostgresRows], ids=["sqlite", "postgres"])
async def test_a_queue_that_does_not_hold_what_was_read_is_damage(
    *,
    rows: type[SqliteRows | PostgresRows],
    more: int,
    write: Write,
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = SqliteEngine if rows is SqliteRows else PostgresEngine
    async with opened(engine(tmp_path), clock) as store:
        await store.add(1, 1)
        remove: Any = rows.remove

        with monkeypatch.context() as broken:
            broken.setattr(
                rows,
                "remove",
                lambda self, first, last, count: remove(self, first, last, count + more),
            )
            with pytest.raises(StoreFailed) as failed:
                await store.commit(write)
        assert failed.value.kind == "corrupt"
        assert failed.value.detail.endswith("not hold what was read")
        assert len(await store.queue()) == 2
