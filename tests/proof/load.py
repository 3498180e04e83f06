"""Clients that add, steer and read, and record what they asked and what they were told."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from tests.proof.history import (
    Add,
    Added,
    Cancel,
    History,
    Operation,
    Pause,
    ReadQueue,
    ReadResults,
    ReadTask,
    Request,
    Results,
    Resume,
    Seen,
)

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
PAGE = 200
SECONDS = 10.0
"""A client's own time limit."""


class Target:
    """Where the service is now, and whether clients may ask at all."""

    def __init__(self, port: int = 0) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.up = threading.Event()
        self.over = threading.Event()


class Client:
    """One client over one connection; an operation after the other."""

    def __init__(self, name: str, target: Target, history: History) -> None:
        self._name = name
        self._target = target
        self.history = history
        self._connection: http.client.HTTPConnection | None = None
        self._port = 0
        self.added: list[Added] = []
        self.said: tuple[int, Any] = (0, None)
        """Status and body of the last answer."""

    def add(self, num: int, timeout: float, key: str | None = None) -> Operation:
        """Add a task."""
        operation = self.history.invoke(self._name, Add(((num, timeout),), key))
        headers = {"Idempotency-Key": key} if key else {}
        body = {"num": num, "timeout": timeout}
        status, task = self._ask(operation, "POST", "/add_task", body, headers)
        if status == 200:
            number = task["history_num"]
            added = Added(number, number, stamp(task["date_created"]))
            self.history.ok(operation, added)
            self.added.append(added)
        return operation

    def add_batch(self, tasks: Sequence[tuple[int, float]], key: str | None = None) -> Operation:
        """Add tasks, all or none."""
        operation = self.history.invoke(self._name, Add(tuple(tasks), key))
        headers = {"Idempotency-Key": key} if key else {}
        body = {"tasks": [{"num": num, "timeout": timeout} for num, timeout in tasks]}
        status, batch = self._ask(operation, "POST", "/api/v1/tasks/batch", body, headers)
        if status == 201:
            added = Added(batch["first"], batch["last"], stamp(batch["date_created"]))
            self.history.ok(operation, added)
            self.added.append(added)
        return operation

    def cancel(self, first: int, last: int) -> Operation:
        """Cancel one task (``first == last``), or a range."""
        operation = self.history.invoke(self._name, Cancel(first, last))
        one = first == last
        path = f"/{first}" if one else f"?from={first}&to={last}"
        status, answer = self._ask(operation, "DELETE", f"/api/v1/tasks{path}")
        if status == 200:
            self.history.ok(operation, 1 if one else answer["count"])
        elif status == 404:
            self.history.refused(operation)
        return operation

    def switch(self, *, paused: bool) -> Operation:
        """Pause the queue, or resume it."""
        operation = self.history.invoke(self._name, Pause() if paused else Resume())
        path = f"/api/v1/queue/{'pause' if paused else 'resume'}"
        if self._ask(operation, "POST", path)[0] == 200:
            self.history.ok(operation)
        return operation

    def read_results(self, after: int = 0) -> Operation:
        """Read a page of the result list."""
        operation = self.history.invoke(self._name, ReadResults(after, PAGE))
        path = f"/api/v1/results?limit={PAGE}&after={after}"
        status, page = self._ask(operation, "GET", path)
        if status == 200:
            results = page["results"]
            value = Results(
                tuple(result["num"] for result in results),
                tuple(result["history_num"] for result in results),
                tuple(stamp(result["date_finished"]) for result in results),
            )
            self.history.ok(operation, value)
        return operation

    def read_queue(self) -> Operation:
        """Read the whole queue."""
        operation = self.history.invoke(self._name, ReadQueue())
        status, whole = self._ask(operation, "GET", "/get_queue_work")
        if status == 200:
            tasks = whole["tasks"]
            listed = tuple((task["history_num"], task["num"], task["timeout"]) for task in tasks)
            self.history.ok(operation, listed)
        return operation

    def read_task(self, history_num: int) -> Operation:
        """Read one task."""
        operation = self.history.invoke(self._name, ReadTask(history_num))
        status, task = self._ask(operation, "GET", f"/api/v1/tasks/{history_num}")
        if status == 200:
            seen = Seen(
                task["state"],
                task["num"],
                task["timeout"],
                task["date_started"] and stamp(task["date_started"]),
                task["date_finished"] and stamp(task["date_finished"]),
            )
            self.history.ok(operation, seen)
        elif status == 404:
            self.history.ok(operation, None)
        return operation

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(
        self,
        operation: Operation,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Return status and body; record what is no success."""
        try:
            connection = self._connected()
        except OSError:
            self.history.refused(operation)
            return 0, None
        try:
            content = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/json"} if content else {}
            connection.request(method, path, content, {**kind, **(headers or {})})
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.history.unknown(operation)
            self.close()
            return 0, None
        self.said = answer.status, document
        if answer.status >= 400 and answer.status != 404:
            if document.get("applied", False) is False:
                self.history.refused(operation)
            else:
                self.history.unknown(operation)
        return answer.status, document

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None or self._port != self._target.port:
            self.close()
            self._port = self._target.port
            connection = http.client.HTTPConnection(self._target.host, self._port, timeout=SECONDS)
            connection.connect()
            self._connection = connection
        return self._connection


def stamp(date: str) -> int:
    """Return a published time as microseconds since 1970."""
    return (datetime.fromisoformat(date) - EPOCH) // timedelta(microseconds=1)


WAITS: Sequence[float] = (*(0.0,) * 40, 0.000_5, 0.003)


@contextmanager
def load(
    target: Target,
    history: History,
    seed: int,
    *,
    others: Sequence[Target] = (),
    adders: int = 3,
    waits: Sequence[float] = WAITS,
    pause: float = 0.0,
    keyed: float = 0.1,
    steered: bool = False,
) -> Iterator[list[Client]]:
    """Let clients add, and one read, while the context lasts and the target is up.

    With ``others``, further nodes, each client speaks to one of them all, and the reader to each
    in turn.
    ``keyed``: the share of adds with a key; those alone are tried again when the answer is lost.
    ``steered``: another adds batches, cancels, pauses and resumes; in the end the queue runs, for
    which the service has to be there.
    """
    targets = (target, *others)
    spread = [targets[number % len(targets)] for number in range(adders)]
    clients = [Client(f"adder {number}", each, history) for number, each in enumerate(spread)]
    readers = [Client("reader", each, history) for each in targets]
    numbers = count(seed % 1_000 * 1_000_000 + 1)
    threads = [
        threading.Thread(
            target=_add,
            args=(spread[i], client, random.Random(f"{seed} {i}")),
            kwargs={"numbers": numbers, "waits": waits, "pause": pause, "keyed": keyed},
        )
        for i, client in enumerate(clients)
    ]
    reading = random.Random(seed)
    threads.append(threading.Thread(target=_read, args=(targets, readers, reading)))
    if steered:
        steward = Client("steward", targets[-1], history)
        clients.append(steward)
        threads.append(
            threading.Thread(
                target=_steer, args=(targets[-1], steward, random.Random(f"{seed} s"), numbers)
            )
        )
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        for each in targets:
            each.over.set()
            each.up.set()
        for thread in threads:
            thread.join(SECONDS * 2)
        for client in (*clients, *readers):
            client.close()


def _add(
    target: Target,
    client: Client,
    chance: random.Random,
    *,
    numbers: Iterator[int],
    waits: Sequence[float],
    pause: float,
    keyed: float,
) -> None:
    while target.up.wait() and not target.over.is_set():
        number = next(numbers)
        key = f"key-{number}" if chance.random() < keyed else None
        wait = chance.choice(waits)
        operation = client.add(number, wait, key)
        if operation.answer != "ok":
            target.up.wait()
            time.sleep(0.005)
            if key and not target.over.is_set():
                client.add(number, wait, key)
        elif pause:
            time.sleep(pause)


def _steer(target: Target, client: Client, chance: random.Random, numbers: Iterator[int]) -> None:
    while target.up.wait() and not target.over.is_set():
        paused = chance.random() < 0.5
        if paused:
            client.switch(paused=True)
        tasks = [(next(numbers), chance.choice(WAITS)) for _ in range(chance.randrange(1, 60))]
        key = f"batch-{tasks[0][0]}"
        if client.add_batch(tasks, key).answer == "unknown" and target.up.wait():
            client.add_batch(tasks, key)
        if client.added:
            batch = client.added[-1]
            one = chance.randint(batch.first, batch.last)
            client.cancel(one, one)
            client.cancel(chance.randint(batch.first, batch.last), batch.last)
        if paused:
            _resume(target, client)
        time.sleep(chance.random() * 0.02)
    _resume(target, client)


def _resume(target: Target, client: Client) -> None:
    deadline = time.monotonic() + SECONDS
    while client.switch(paused=False).answer != "ok" and time.monotonic() < deadline:
        target.up.wait(SECONDS)
        time.sleep(0.01)


def _read(targets: Sequence[Target], clients: Sequence[Client], chance: random.Random) -> None:
    after = 0
    for turn in count():
        target, client = targets[turn % len(targets)], clients[turn % len(targets)]
        if len(targets) == 1:
            target.up.wait()
        if target.over.is_set():
            return
        if not target.up.is_set():
            continue
        # The queue first and then the results: what was added is in one of them.
        if chance.random() < 0.3:
            client.read_queue()
        operation = client.read_results(after)
        if isinstance(operation.value, Results) and operation.value.history_nums:
            numbers = operation.value.history_nums
            after = numbers[-1]
            client.read_task(max(1, after + chance.randrange(-20, 20)))
        elif operation.answer != "ok":
            time.sleep(0.005)
        time.sleep(chance.random() * 0.01)


def next_port(target: Target, port: int) -> None:
    """Let the clients go on, with the service at this port."""
    target.port = port
    target.up.set()


def requests_of(history: History, kind: type[Request]) -> list[Operation]:
    """Return the operations of one kind."""
    return [operation for operation in history.operations if isinstance(operation.request, kind)]
