"""What is a commit's own: no further one is wanted, and tables that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sanic_app.errors import ServiceError, StoreFailed
from sanic_app.store import Add, Cancel, CancelRange, Commit, Finish, Write
from sanic_app.store.postgres.rows import PostgresRows
from sanic_app.store.sqlite.committer import Committer
from sanic_app.store.sqlite.rows import SqliteRows
from sanic_app.store.transition import QueuedRow
from tests.fake_clock import FakeClock
from tests.parts import Engine, PostgresEngine, SqliteEngine, new, opened


@pytest.mark.anyio
async def test_without_retention_no_commit_is_wanted(engine: Engine, clock: FakeClock) -> None:
    async with opened(engine, clock) as store:
        assert (await store.commit(Add(new(1)))).prune_in is None
        assert (await store.commit()).prune_in is None


@pytest.mark.anyio
async def test_writes_share_one_transaction_whatever_had_to_read_the_queue_between(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(SqliteEngine(tmp_path), clock) as store:
        apply, transactions = Committer._apply, 0

        def count(*arguments: Any) -> Commit:
            nonlocal transactions
            transactions += 1
            return apply(*arguments)

        monkeypatch.setattr(Committer, "_apply", count)
        add = Add(new(1))
        commit = await store.commit(add, Finish(1), add, Cancel(2), add, CancelRange(3, 3), add)
        assert not [each for each in commit.results if isinstance(each, ServiceError)]
        assert commit.figures.head == 4
        assert transactions == 1


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
@pytest.mark.parametrize("kind", [SqliteRows, PostgresRows], ids=["sqlite", "postgres"])
async def test_a_queue_that_does_not_hold_what_was_read_is_damage(
    *,
    kind: type[SqliteRows | PostgresRows],
    more: int,
    write: Write,
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = SqliteEngine if kind is SqliteRows else PostgresEngine
    async with opened(engine(tmp_path), clock) as store:
        await store.add(1, 1)
        remove: Any = kind.remove

        with monkeypatch.context() as broken:
            broken.setattr(
                kind,
                "remove",
                lambda self, first, last, count: remove(self, first, last, count + more),
            )
            with pytest.raises(StoreFailed) as failed:
                await store.commit(write)
        assert failed.value.kind == "corrupt"
        assert failed.value.detail.endswith("not hold what was read")
        assert len(await store.queue()) == 2
