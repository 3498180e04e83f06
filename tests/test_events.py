"""The stream of events: each add and each finish once and in order, over every interruption."""

from __future__ import annotations

import asyncio
import json
import random
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sanic_app.http import feed, journal, listeners
from sanic_app.http.feed import EventFeed, Pace
from sanic_app.http.journal import BEGINNING, Cursor
from sanic_app.http.listeners import Listener, Listeners
from sanic_app.http.untold import Finishes, Untold
from sanic_app.queue.writer import Committed
from sanic_app.store import Commit, Done, Figures, Overview
from sanic_app.task import Retention, State, Task
from tests.serving import ON_UVLOOP, Service, held, problem, request, service

pytestmark = ON_UVLOOP

EVENTS = "/api/v1/events"


class Message(NamedTuple):
    """One server-sent event; a heartbeat has nothing, and an id alone has no kind."""

    id: str | None
    kind: str | None
    data: Any

    @property
    def at(self) -> str:
        """Return the id without the lineage."""
        return (self.id or "").partition(".")[2]

    @property
    def nums(self) -> list[int]:
        return [task["history_num"] for task in self.data["tasks"]]

    @property
    def span(self) -> tuple[int, int, int]:
        """Return first, last and how many, of a summary too."""
        if "tasks" in self.data:
            return self.nums[0], self.nums[-1], len(self.nums)
        return self.data["first"], self.data["last"], self.data["count"]


class Stream:
    """One client's stream of messages."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.last = ""

    @property
    def at(self) -> str:
        """Return the last id without the lineage."""
        return self.last.partition(".")[2]

    async def next(self, *, beats: bool = False) -> Message:
        """Return the next message that tells something, or with beats the next block."""
        async with asyncio.timeout(10):
            while True:
                fields = await self._block()
                self.last = fields.get("id", self.last)
                if "event" in fields or beats:
                    data = json.loads(fields["data"]) if "data" in fields else None
                    return Message(fields.get("id"), fields.get("event"), data)

    async def _block(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        raise EOFError

    async def ended(self) -> list[Message]:
        """Return what comes until the service ends the stream."""
        rest = []
        try:
            while True:
                rest.append(await self.next())
        except EOFError:
            return rest


@asynccontextmanager
async def listening(served: Service, after: str | None = None) -> AsyncIterator[Stream]:
    headers = {} if after is None else {"Last-Event-ID": after}
    async with served.client.stream("GET", EVENTS, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        stream = Stream(answer.aiter_lines())
        hello = await stream.next(beats=True)
        assert hello.kind is None
        assert hello.id is not None
        yield stream


async def batch(served: Service, *timeouts: float) -> None:
    tasks = [{"num": index, "timeout": timeout} for index, timeout in enumerate(timeouts)]
    answer = await served.client.post("/api/v1/tasks/batch", json={"tasks": tasks})
    assert answer.status_code == 201, answer.text


async def test_a_task_is_told_when_it_is_added_started_and_finished(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        task = await served.add(5, 0.5)
        added = await stream.next()
        assert (added.at, added.kind, added.data) == ("1.0", "added", {"tasks": [task]})
        started = await stream.next()
        assert (started.at, started.kind, started.data) == ("1.0", "started", {"tasks": [task]})
        finished = await stream.next()
        assert (finished.at, finished.kind) == ("1.1", "finished")
        expected = await served.get("/api/v1/tasks/1")
        (told,) = finished.data["tasks"]
        assert told == {name: expected[name] for name in task}
        assert told["state"] == "done"


async def test_one_commit_is_one_message_of_each_kind(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        await batch(served, 60, 0, 1)
        added, started = await stream.next(), await stream.next()
        assert (added.kind, added.nums) == ("added", [1, 2, 3])
        assert [task["state"] for task in added.data["tasks"]] == ["waiting", "queued", "queued"]
        assert (started.kind, started.nums) == ("started", [1])


async def test_pause_resume_and_cancel_are_told(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await batch(served, 60, 60)
        async with listening(served) as stream:
            for verb, kind in (("pause", "paused"), ("pause", None), ("resume", "resumed")):
                assert (await served.client.post(f"/api/v1/queue/{verb}")).status_code == 200
                if kind is not None:
                    told = await stream.next()
                    assert (told.at, told.kind, told.data) == ("2.0", kind, {"tasks": []})
            await served.client.delete("/api/v1/tasks/1")
            finished, started = await stream.next(), await stream.next()
            assert (finished.at, finished.kind, finished.nums) == ("2.1", "finished", [1])
            assert finished.data["tasks"][0]["state"] == "cancelled"
            assert (started.kind, started.nums) == ("started", [2])


async def test_a_replay_and_a_refusal_are_not_told(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        key = {"Idempotency-Key": "k"}
        await served.add(1, 60, **key)
        await served.add(1, 60, **key)
        assert (await served.client.delete("/api/v1/tasks/9")).status_code == 404
        await served.add(2, 60)
        kinds = [(message.kind, message.nums) for message in [await stream.next() for _ in "123"]]
        assert kinds == [("added", [1]), ("started", [1]), ("added", [2])]


async def test_a_listener_resumes_without_gaps_or_doubles_in_pages(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        async with listening(served) as stream:
            await batch(served, 0, 0, 0)
            while stream.at != "3.3":
                await stream.next()
        await batch(served, *[0] * 2_500)
        await served.until_empty()
        await served.add(0, 60)
        async with listening(served, stream.last) as again:
            told = [await again.next() for _ in range(6)]
            assert [message.kind for message in told] == ["added"] * 3 + ["finished"] * 3
            assert [n for message in told[:3] for n in message.nums] == list(range(4, 2_505))
            assert [n for message in told[3:] for n in message.nums] == list(range(4, 2_504))
            assert max(len(message.nums) for message in told) == 1_000
            assert [message.at for message in told[2:4]] == ["2504.3", "2504.1003"]
            await served.client.delete("/api/v1/tasks/2504")
            live = await again.next()
            assert (live.at, live.kind, live.nums) == ("2504.2504", "finished", [2_504])


async def test_a_listener_resumes_over_a_restart(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 60)
        async with listening(served) as stream:
            assert stream.at == "1.0"
        await served.add(2, 60)
    async with service(tmp_path) as served, listening(served, stream.last) as stream:
        told = await stream.next()
        assert (told.at, told.kind, told.nums) == ("2.0", "added", [2])


@pytest.mark.parametrize(
    ("after", "reason"), [("99.3", "another"), ("9.10", "another"), ("3.3", "removed")]
)
async def test_what_cannot_be_resumed_is_reset(tmp_path: Path, after: str, reason: str) -> None:
    async with service(tmp_path, history_keep=Retention(tasks=2)) as served:
        await batch(served, *[0] * 9)
        await served.until_empty()
        async with listening(served, f"{served.store.lineage}.{after}") as stream:
            told = await stream.next()
            assert (told.at, told.kind) == ("9.9", "reset")
            assert told.data == {"added": 9, "finished": 9, "reason": reason}
        async with listening(served, f"{served.store.lineage}.9.7") as stream:
            told = await stream.next()
            assert (told.kind, told.nums) == ("finished", [8, 9])


async def test_an_id_of_another_queue_is_reset_though_the_numbers_fit(tmp_path: Path) -> None:
    """Such as that of the queue before a backup was restored, which has other tasks since."""
    (tmp_path / "other").mkdir()
    last = []
    for folder in (tmp_path, tmp_path / "other"):
        async with service(folder) as served:
            await batch(served, 60, 60)
            async with listening(served) as stream:
                last.append(stream.last)
            await served.add(0, 60)
    assert [cursor.partition(".")[2] for cursor in last] == ["2.0", "2.0"]
    async with service(tmp_path) as served:
        # An id of a service that had no lineage yet does not say which queue it is of.
        for after in (last[1], "2.0"):
            async with listening(served, after) as stream:
                told = await stream.next()
                assert (told.at, told.kind) == ("3.0", "reset")
        async with listening(served, last[0]) as stream:
            assert (await stream.next()).kind == "added"


async def test_an_id_without_a_lineage_comes_back_as_it_is(tmp_path: Path) -> None:
    """A connection that is lost behind the first message would else be refused for ever."""
    async with service(tmp_path) as served:
        async with listening(served, "2.0") as stream:
            assert stream.last == "2.0"
        async with listening(served, stream.last) as stream:
            assert (await stream.next()).kind == "reset"


@pytest.mark.parametrize(
    "after",
    [
        "x",
        "1",
        "1.2.3",
        "-1.0",
        "1.99999999999999999999",
        "9223372036854775808.0",
        f"{'g' * 32}.1.0",
    ],
)
async def test_an_id_that_was_none_is_refused(tmp_path: Path, after: str) -> None:
    async with service(tmp_path) as served:
        answer = await served.client.get(EVENTS, headers={"Last-Event-ID": after})
        assert problem(answer, "invalid", 400)["errors"][0]["pointer"] == ""
        problem(await served.client.get(f"{EVENTS}?x=1"), "invalid", 400)


async def test_a_listener_needs_the_token(tmp_path: Path) -> None:
    async with service(tmp_path, api_token=b"secret") as served:
        problem(await served.client.get(EVENTS), "unauthorized", 401)


async def test_more_than_twenty_messages_a_second_are_summarised(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        await served.add(0, 60)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        number = 1
        while loop.time() < begun + 1.5 or number < 150:
            await served.add(0, 60)
            number += 1
        told: list[Message] = []
        while not told or told[-1].span[1] < number:
            message = await stream.next()
            if message.kind == "added":
                told.append(message)
        assert 20 <= len(told) <= 20 + 20 * (loop.time() - begun) + 1
        assert any("tasks" not in message.data for message in told)
        assert without_gaps(told) == number
        for message in told:
            assert message.at == f"{message.span[1]}.0"


async def test_a_large_batch_is_summarised(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        await batch(served, *[60] * 1_001)
        assert (await stream.next()).data == {"first": 1, "last": 1_001, "count": 1_001}


def without_gaps(told: list[Message]) -> int:
    """Return the last number told, after checking that each stands behind the one before."""
    last = 0
    for message in told:
        first, end, count = message.span
        assert (first, end) == (last + 1, last + count)
        last = end
    return last


async def test_whoever_comes_and_goes_is_told_of_each_add_and_finish_once(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with service(tmp_path) as served:
        total = 0

        async def write() -> None:
            nonlocal total
            loop = asyncio.get_running_loop()
            begun = loop.time()
            while loop.time() < begun + 4 or total <= 100:
                tasks = chance.choice([1, 1, 1, 40])
                await batch(served, *[0] * tasks)
                total += tasks
                await asyncio.sleep(chance.choice([0, 0.001, 0.02]))

        writing = asyncio.create_task(write())
        told: dict[str, list[Message]] = {"added": [], "finished": []}
        after, done = "0.0", False
        while not done:
            async with listening(served, after) as stream:
                for _ in range(chance.randrange(1, 30)):
                    message = await stream.next()
                    if message.kind in told:
                        told[message.kind].append(message)
                    assert message.kind != "reset"
                    after = stream.last
                    done = writing.done() and stream.at == f"{total}.{total}"
                    if done:
                        break
        await writing
        # All are done in order, so that finishes are contiguous as adds are.
        assert without_gaps(told["added"]) == without_gaps(told["finished"]) == total


async def test_a_listener_that_takes_nothing_is_cut_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LAG_BYTES", 200_000)
    async with (
        service(tmp_path) as served,
        served.wire(narrow=True) as slow,
        listening(served) as stream,
    ):
        await slow.send(request(EVENTS, method="GET"))
        assert (await slow.head())[0] == 200
        while served.metric("event_listeners") < 2:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
        number = 0
        while served.metric("event_listeners") == 2:
            await batch(served, *[60] * 1_000)
            number += 1_000
            while (await stream.next()).at != f"{number}.0":
                pass
            assert number < 100_000
        assert served.metric("event_listeners") == 1
        await slow.ended()
        await served.add(0, 60)
        assert (await stream.next()).at == f"{number + 1}.0"


async def test_no_more_listen_than_may_and_a_place_is_free_again(tmp_path: Path) -> None:
    async with service(tmp_path, listeners_max=2) as served:
        await served.add(1, 60)
        async with listening(served), listening(served, after="0.0"):
            refused = await served.client.get(EVENTS)
            problem(refused, "too-busy", 503)
            assert int(refused.headers["retry-after"]) > 0
            # Everything else goes on.
            await served.add(2, 60)
        async with asyncio.timeout(10):
            while True:
                async with served.client.stream("GET", EVENTS) as answer:
                    if answer.status_code == 200:
                        break
                await asyncio.sleep(0.01)


async def test_all_who_catch_up_share_one_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (journal, feed):
        monkeypatch.setattr(module, "TASKS_MAX", 1)
    async with service(tmp_path) as served:
        await batch(served, *[60] * 25)
        begun = time.monotonic()
        async with listening(served, "0.0") as one, listening(served, "0.0") as other:
            for stream in (one, other):
                assert without_gaps([await stream.next() for _ in range(25)]) == 25
        # Some twenty pages at once, and then twenty a second, of both together.
        assert time.monotonic() - begun > (50 - 20 - 2 * feed.TURN_PAGES) / 20 - 0.1


async def test_all_who_catch_up_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(tmp_path) as served, AsyncExitStack() as streams:
        await batch(served, *[60] * 5)
        events, reading, gate = served.parts.feed, 0, asyncio.Event()
        read = events._journal.page

        async def page(cursor: Cursor, until: Cursor, pruned: int) -> Any:
            nonlocal reading
            reading += 1
            await gate.wait()
            return await read(cursor, until, pruned)

        monkeypatch.setattr(events._journal, "page", page)
        waiting = []
        for _ in range(5):
            stream = await streams.enter_async_context(
                aclosing(events.listen(BEGINNING, lambda: None))
            )
            assert b"retry: " in await anext(stream)
            waiting.append(asyncio.ensure_future(anext(stream)))
        for _ in range(20):
            await asyncio.sleep(0)
        # However many have come, one reads the tables.
        assert reading == 1
        gate.set()
        async with asyncio.timeout(5):
            assert all(b"event: added\n" in text for text in await asyncio.gather(*waiting))
        assert reading == 5


async def test_all_catch_up_while_tasks_are_added(tmp_path: Path) -> None:
    async with service(tmp_path) as served, AsyncExitStack() as streams:
        await batch(served, *[0] * 50)
        await served.until_empty()
        for _ in range(20):
            await streams.enter_async_context(listening(served, "0.0"))
        async with asyncio.timeout(10):
            while served.metric("event_listeners") < 20:
                await served.add(1, 0)


async def test_a_stop_sends_nobody_ahead_who_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (journal, feed):
        monkeypatch.setattr(module, "TASKS_MAX", 1)
    async with service(tmp_path) as served:
        await batch(served, *[60] * 200)
        async with listening(served, "0.0") as stream:
            first = await stream.next()
            await served.stop()
            told = [first, *await stream.ended()]
            assert {message.kind for message in told} == {"added"}
            assert 1 <= without_gaps(told) < 200


async def test_many_adds_keep_neither_finishes_nor_a_pause_from_being_told(
    tmp_path: Path,
) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        told: list[Message] = []
        paused_at = 0

        async def add() -> None:
            while not stopped.is_set():
                await served.add(1, 0)

        stopped = asyncio.Event()
        adding = asyncio.create_task(add())
        while len(told) < 60:
            told.append(await stream.next())
            if len(told) == 30:
                paused_at = served.parts.queue.figures.last_history_num
                assert (await served.client.post("/api/v1/queue/pause")).status_code == 200
        stopped.set()
        await adding
        kinds = [message.kind for message in told]
        assert kinds[:30].count("finished") >= 8
        assert "paused" in kinds[30:45], (kinds, paused_at)


async def test_a_start_is_told_once_and_before_its_finish(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        for number in range(1, 6):
            await served.add(number, 0)
            await served.until_empty()
            told = [await stream.next() for _ in range(3)]
            assert [message.kind for message in told] == ["added", "started", "finished"]
            assert [message.nums for message in told] == [[number]] * 3


async def test_what_retention_removed_at_once_is_summarised_for_who_follows_live(
    tmp_path: Path,
) -> None:
    async with (
        service(tmp_path, history_keep=Retention(tasks=1)) as served,
        listening(served) as stream,
    ):
        await batch(served, *[0] * 5)
        told = {message.kind: message for message in [await stream.next() for _ in range(3)]}
        assert told["finished"].span == (1, 5, 5)
        assert told["finished"].at == "5.5"


async def test_a_summary_tells_no_finishes_of_another_round() -> None:
    """A node that learns of finishes by pages is told as many as the figures say, but earlier ones.

    So it was with another node that finished a thousand tasks in each of many commits.
    """
    untold = Untold()
    untold.note(figures_of(30), finishes(range(11, 21), 40, told=20))
    untold.note(figures_of(40), finishes(range(21, 31), 50, told=30))
    assert untold.summary(30, 50) is None
    assert untold.summary(10, 30) == Finishes(10, 20, 11, 30)
    untold.note(figures_of(50), finishes(range(31, 33), 50, told=32))
    assert untold.summary(10, 32) == Finishes(10, 22, 11, 32)
    # An own commit, which a look has told already.
    untold.note(figures_of(50), finishes(range(31, 33), 50))
    assert untold.summary(10, 34) is None
    assert Untold().summary(0, 1) is None


def figures_of(finish_num: int) -> Figures:
    """Return a state row after so many finishes."""
    return Figures(100, finish_num, 0, 0, 0, 0, None, 0, None, None, 0)


def finishes(numbers: range, last: int, told: int | None = None) -> Committed:
    """Return a commit that finished these tasks; ``last`` is the last finish of its figures."""
    tasks = [Task(number, 0, 0, 0, State.DONE, 0, 0) for number in numbers]
    return Committed(Commit([Done(tasks)], figures_of(last)), 0, 0, finish_num=told)


async def test_a_listener_that_is_told_of_much_shares_the_bytes_with_all_others() -> None:
    cut: list[int] = []
    crowd = Listeners(limit=100)
    members = [Listener(partial(cut.append, number)) for number in range(60)]
    for member in members:
        crowd.add(member)
    text = bytes(300_000)
    for _ in range(3):
        await crowd.send(text)
    fast = members[0]
    assert all(each is text for each in fast.take())
    for _ in range(2):
        await crowd.send(text)
    # A megabyte waits for all but the one that takes its messages.
    assert sorted(cut) == list(range(1, 60))
    assert len(crowd) == 1
    assert sum(map(len, fast.take())) == 600_000
    crowd.end()


@pytest.mark.on_sqlite
async def test_a_large_message_is_in_memory_once_however_many_do_not_take_it(
    tmp_path: Path,
) -> None:
    async with service(tmp_path) as served, AsyncExitStack() as wires:
        for _ in range(20):
            wire = await wires.enter_async_context(served.wire(narrow=True))
            await wire.send(request(EVENTS, method="GET"))
            await wire.reader.readuntil(b"retry: ")
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await batch(served, 600)
        # Told together with the next, both would be a summary.
        while served.parts.feed._cursor.added < 1:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
        tracemalloc.start()
        try:
            async with listening(served) as stream:
                await batch(served, *[600] * 1_000)
                told = await stream.next()
                size = len(json.dumps(told.data))
                assert size > 150_000
                assert tracemalloc.get_traced_memory()[0] < 10 * size
        finally:
            tracemalloc.stop()


async def test_a_silent_stream_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "HEARTBEAT_SECONDS", 0.05)
    async with service(tmp_path) as served, listening(served) as stream:
        for _ in range(3):
            assert await stream.next(beats=True) == Message(None, None, None)
        await served.add(0, 60)
        assert (await stream.next()).kind == "added"


async def test_nothing_falls_between_the_first_message_and_the_next(tmp_path: Path) -> None:
    async with (
        service(tmp_path) as served,
        aclosing(served.parts.feed.listen(None, lambda: None)) as stream,
    ):
        assert b".0.0\n" in await anext(stream)
        # The client has not taken it yet.
        await served.add(0, 60)
        async with asyncio.timeout(5):
            assert b"event: added\n" in await anext(stream)


async def test_whoever_comes_next_is_told_nothing_of_what_waited_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served:
        events, gate = served.parts.feed, asyncio.Event()
        async with listening(served):
            hold_the_pace(events, monkeypatch, gate)
            for _ in range(3):
                # The first one waits for the pace, the others for their round.
                await served.add(1, 600)
        while events.listeners:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.002)
        await served.add(1, 600)
        async with listening(served) as stream:
            await batch(served, 60, 60)
            gate.set()
            told = await stream.next()
            # Two tasks of one commit are not summarised.
            assert (told.at, told.kind, told.nums) == ("6.0", "added", [5, 6])
            await served.client.delete("/api/v1/tasks/1")
            assert [(await stream.next()).kind for _ in range(2)] == ["finished", "started"]


async def test_a_stop_before_anybody_listened_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
    assert caplog.messages == []


@pytest.mark.on_sqlite
async def test_a_round_for_those_who_left_tells_nothing_to_who_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asking the store for a head that another node had started."""
    async with service(tmp_path) as served:
        await served.add(1, 600)
        feed, asked, gate = served.parts.feed, asyncio.Event(), asyncio.Event()
        source = feed._source
        now = await source.overview()
        assert now.head is not None
        head = now.head._replace(started_at=1)
        earlier = now._replace(figures=now.figures._replace(head_started_at=1), head=head)

        async def overview() -> Overview:
            asked.set()
            await gate.wait()
            return earlier

        async with listening(served):
            monkeypatch.setattr(source, "overview", overview)
            feed.follow(Committed(Commit([], earlier.figures), 0, 0, foreign=True))
            await asked.wait()
        while feed.listeners:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.002)
        feed.follow(Committed(Commit([], now.figures), 0, 0, foreign=True))
        async with listening(served) as stream:
            monkeypatch.undo()
            gate.set()
            for num in (2, 3):
                await served.add(num, 600)
                told = await stream.next()
                assert (told.kind, told.nums) == ("added", [num])


async def test_nothing_falls_between_catching_up_and_following(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, listening(served) as live:
        events, gate = served.parts.feed, asyncio.Event()
        await served.add(1, 600)
        assert [(await live.next()).kind for _ in range(2)] == ["added", "started"]
        hold_the_pace(events, monkeypatch, gate)
        await served.add(2, 600)
        read = events._journal.page

        async def page(cursor: Cursor, until: Cursor, pruned: int) -> Any:
            found = await read(cursor, until, pruned)
            # The next message goes as soon as the loop turns.
            gate.set()
            return found

        monkeypatch.setattr(events._journal, "page", page)
        async with listening(served, "0.0") as stream:
            await served.add(3, 600)
            assert [(await stream.next()).nums for _ in range(3)] == [[1], [2], [3]]


def hold_the_pace(events: EventFeed, monkeypatch: pytest.MonkeyPatch, gate: asyncio.Event) -> None:
    """Let those who follow live be told nothing more before the gate is opened."""

    async def wait(pace: Pace, _: float) -> None:
        if pace is not events._catch_up_pace:
            await gate.wait()

    monkeypatch.setattr(events, "_wait", wait)


async def test_listeners_are_counted(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        async with listening(served), listening(served):
            assert served.metric("event_listeners") == 2
        async with asyncio.timeout(5):
            while served.metric("event_listeners"):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)


async def test_a_stop_tells_what_waits_and_ends_the_stream(tmp_path: Path) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        for number in range(60):
            await served.add(number, 60)
        await served.stop()
        rest = [message for message in await stream.ended() if message.kind == "added"]
        assert without_gaps(rest) == 60
        assert served.exits == []


async def test_a_stop_tells_what_the_last_commit_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as served, listening(served) as stream:
        async with held(served, monkeypatch) as gate:
            add = asyncio.create_task(served.add(1, 600))
            await gate.entered.wait()
            stop = asyncio.create_task(served.stop())
            await served.parts.stopping.wait()
            await asyncio.sleep(0.01)
        await add
        await stop
        assert [message.kind for message in await stream.ended()] == ["added", "started"]


async def test_the_pace_lets_a_burst_through_and_then_so_many_a_second() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    taken = 0
    for _ in range(10_000):
        taken += pace.take() == 0.0
        now += 0.001
    assert 20 + 198 <= taken <= 20 + 200
