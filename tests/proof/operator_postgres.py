"""What operators do with a queue in PostgreSQL: backup, restore, a move there and back.

Each copy is killed first, again and again at random moments: the target is whole, or not there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from sanic_app.store import Figures
from sanic_app.task import SECOND
from tests.postgres import Cluster
from tests.proof.copies import File, Moment, Place, Rows, Schema, after, copy, found, killed, seen
from tests.proof.service import DATABASE, service
from tests.running import Running

KILL_SECONDS = (0.2, 1.2)
"""When a copy is killed; the program takes about half a second to begin."""
HEAD_SECONDS = (1, 4)
"""The wait that goes on in the copy, or ends while nothing runs."""
HEAD = -1
"""The number of such a task."""
LATE_SECONDS = 1.0
"""What a start, a look and a busy machine may add to it."""
BATCH = 2_000
TASK = {"num": 7, "timeout": 3_600}
KEY = "moved"


class PostgresWalks:
    """The walks that need a server, which all of them share."""

    def __init__(self, server: Cluster, kills: int) -> None:
        """Take the server, and how many copies are killed before one is let through."""
        self._server = server
        self._kills = kills
        self._names = map("walk_{}".format, count(1))
        self.walks = (self.backed_up_and_restored_with_postgres, self.moved_there_and_back)

    def backed_up_and_restored_with_postgres(self, home: Path, chance: random.Random) -> list[str]:
        """README.md, "In production": a backup of nodes under load, and its restore."""
        place, backup = self._schema(), File(home / "backup.db")
        with _serving(home, place) as node, _serving(home, place) as other:
            _fill(node, chance)
            _steer(other, chance)
            with _adding(other):
                before = _last(node)
                wrong = self._copied(home, place, backup, chance)
            node.kill()
        rows, _ = found(place)
        wrong += _is_part(found(backup)[0], rows, before)
        moved_away = place._replace(name=f"{place.name}_before")
        self._server.execute(f"ALTER SCHEMA {place.name} RENAME TO {moved_away.name}")
        wrong += self._copied(home, backup, place, chance) + _same(backup, place)
        return wrong + _goes_on(home, place)

    def moved_there_and_back(self, home: Path, chance: random.Random) -> list[str]:
        """The same section: from a file to PostgreSQL and to another file, with no loss."""
        wrong: list[str] = []
        places: list[Place] = [File(home / DATABASE), self._schema(), File(home / "back.db")]
        with _serving(home, places[0]) as running:
            _fill(running, chance)
            _steer(running, chance)
            chance.choice((running.kill, running.stop))()
        for source, target in pairwise(places):
            wrong += self._copied(home, source, target, chance) + _same(source, target)
            wrong += _goes_on(home, target)
        return wrong

    def control(self, home: Path) -> list[str]:
        """Return what is wrong with a copy that is seen while it is made."""
        source, target = File(home / DATABASE), self._schema()
        with _serving(home, source) as running:
            _fill(running, random.Random(0))
        before = _known(source)
        killed(home, source, target, seen(target), ("piecemeal",))
        return _whole(target, before) if target.exists() else []

    def _copied(self, home: Path, source: Place, target: Place, chance: random.Random) -> list[str]:
        """Copy, after copies that were killed; return what is wrong with what any has left."""
        before = _known(source)
        for _ in range(self._kills):
            moment: Moment = seen(target)
            if chance.random() < 0.75:
                moment = after(chance.uniform(*KILL_SECONDS))
            killed(home, source, target, moment)
            if target.exists():
                # It was published first.
                return _whole(target, before)
        try:
            copy(home, source.text, target.text)
        except RuntimeError:
            # It was refused, because the server went on with the commit of one that was killed.
            if not target.exists():
                raise
        return _whole(target, before)

    def _schema(self) -> Schema:
        return Schema(self._server, next(self._names))


@contextmanager
def _serving(home: Path, place: Place) -> Iterator[Running]:
    running = service(home, "--database", place.text)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


def _fill(running: Running, chance: random.Random) -> None:
    """Make a history, a key, and a queue whose head waits, with cancelled tasks in it."""
    heads = [{"num": HEAD, "timeout": chance.uniform(*HEAD_SECONDS)} for _ in range(2)]
    for before, timeout in (([], 0), ([], 0), (heads, 3_600)):
        tasks = [*before, *({"num": num, "timeout": timeout} for num in range(BATCH))]
        _ask(running, "POST", "/api/v1/tasks/batch", {"tasks": tasks})
    first = _ask(running, "POST", "/api/v1/tasks", TASK, key=KEY)["history_num"]
    for number in chance.sample(range(first - BATCH + 1, first), 5):
        _ask(running, "DELETE", f"/api/v1/tasks/{number}")


def _steer(running: Running, chance: random.Random) -> None:
    if chance.random() < 0.5:
        _ask(running, "POST", "/api/v1/queue/pause")


def _ask(
    running: Running, method: str, path: str, body: object = None, key: str | None = None
) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    status, answer = running.request(method, path, body, headers)
    if status not in (200, 201):
        raise RuntimeError(f"{method} {path}: {status} {answer}")
    return answer


def _last(running: Running) -> int:
    """Return a history number that was acknowledged."""
    return int(_ask(running, "POST", "/add_task", TASK)["history_num"])


@contextmanager
def _adding(running: Running) -> Iterator[None]:
    """Add meanwhile, one task after the other."""
    over = threading.Event()

    def add() -> None:
        # What is lost at the end of the walk was not asked for.
        with suppress(OSError):
            while not over.is_set():
                running.request("POST", "/add_task", TASK)

    adding = threading.Thread(target=add)
    adding.start()
    try:
        yield
    finally:
        over.set()
        adding.join()


def _known(place: Place) -> int:
    """Return the last history number."""
    with place.snapshot() as tables:
        ((last,),) = tables.select("SELECT last_history_num FROM state")
        return int(last)


def _whole(target: Place, before: int) -> list[str]:
    """Look at a copy that can be seen, of a queue that had so many tasks before."""
    rows, faults = found(target)
    lines = [f"{target.text} is not whole: {line}" for line in faults]
    if (last := Figures(*rows["state"][0]).last_history_num) < before:
        lines.append(f"{target.text} is not whole: it has {last} tasks of {before}")
    return lines


def _same(source: Place, target: Place) -> list[str]:
    """Compare all rows: numbers, order, keys, pause, and the head with its start."""
    one, other = found(source)[0], found(target)[0]
    return [
        f"{name} of {target.text} is not that of {source.text}"
        for name in one
        if one[name] != other[name]
    ]


def _is_part(copied: Rows, rows: Rows, before: int) -> list[str]:
    """Compare a backup with the queue as it was later: it has everything from before."""
    lines = []
    tasks, later = (
        {row[:4] for name in ("queue", "history") for row in each[name]} for each in (copied, rows)
    )
    if not tasks <= later:
        lines.append("the backup has tasks that were never added")
    if not {row[0] for row in tasks} >= set(range(1, before + 1)):
        lines.append(f"the backup lacks tasks of {before} that were acknowledged before")
    if not set(copied["history"]) <= set(rows["history"]):
        lines.append("the backup has another history")
    if copied["idempotency"] != rows["idempotency"]:
        lines.append("the backup has other keys")
    return lines


def _goes_on(home: Path, place: Place) -> list[str]:
    """Serve a copy: its key is known, its pause holds, and its head is done in time."""
    rows, _ = found(place)
    state = Figures(*rows["state"][0])
    ((_, _, first, *_),) = rows["idempotency"]
    timeouts = {number: timeout for number, _, timeout, *_ in rows["queue"]}
    lines: list[str] = []
    with _serving(home, place) as running:
        begun = time.time()
        again = _ask(running, "POST", "/api/v1/tasks", TASK, key=KEY)["history_num"]
        if again != first:
            lines.append(f"the key of {first} is not known in {place.text}: it added {again}")
        if state.head is not None and timeouts[state.head] < TASK["timeout"] * SECOND:
            lines += _is_done_in_time(running, state, timeouts[state.head], begun)
        queue = _ask(running, "GET", "/api/v1/queue")
        if queue["paused"] != bool(state.paused):
            lines.append(f"{place.text} says paused: {queue['paused']}")
        if queue["paused"]:
            _ask(running, "POST", "/api/v1/queue/resume")
        running.stop()
    return lines


def _is_done_in_time(running: Running, state: Figures, timeout: int, begun: float) -> list[str]:
    """Wait for the head; it is done at its deadline, or when the service begins."""
    number = state.head
    task = _ask(running, "GET", f"/api/v1/tasks/{number}?wait={HEAD_SECONDS[1] + 1}")
    if task["state"] != "done":
        return [f"the head {number} is {task['state']}"]
    started, finished = (micros(task[name]) for name in ("date_started", "date_finished"))
    deadline = started + timeout
    late = (finished - max(deadline, round(begun * SECOND))) / SECOND
    if started != state.head_started_at or finished < deadline or late > LATE_SECONDS:
        return [f"the head {number} was done {late:.3f} s after its deadline: {task}"]
    return []


def micros(date: str) -> int:
    return round(datetime.fromisoformat(date).timestamp() * SECOND)
