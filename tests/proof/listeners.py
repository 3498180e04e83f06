"""Listeners: over kills and lost connections each add and each finish is told once, in order."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

from tests.proof.history import History, Row
from tests.proof.load import Target, load, next_port
from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import snapshot

SECONDS = 20.0


def listeners(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Kill a loaded service under listeners that come back; compare what they heard."""
    rounds = scale.pick(4, 200)
    wrong, told = _run(seed, rounds, folder)
    control, _ = _run(seed, 2, folder, ("lazy_commit",))
    return Outcome(
        promise="a listener is told of each add and finish once, and of nothing that is lost",
        fault="SIGKILL under load; a listener that also leaves of its own accord",
        tried=rounds,
        lost=len(wrong),
        control=f"a service that tells before its commit: {'; '.join(control)[:160]}",
        broken=tuple(wrong),
        missed=() if control else ("what was told and lost was not noticed",),
        notes=f"{told:,} adds and finishes told",
    )


class Listener:
    """A client that listens, goes, and comes back behind the last message that it heard."""

    def __init__(self, target: Target, chance: random.Random) -> None:
        self._target = target
        self._chance = chance
        self.last = "0.0"
        self.added = 0
        self.finished: list[Any] = []
        """A task for each finish; None where a summary told the number alone."""
        self.wrong: list[str] = []

    def listen(self) -> None:
        """Listen until the target is over."""
        while self._target.up.wait() and not self._target.over.is_set():
            try:
                self._once(self._chance.randrange(1, 60))
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.005)

    def catch_up(self, numbers: str) -> None:
        """Listen until the last message is at the given numbers."""
        end = time.monotonic() + SECONDS
        while numbers_of(self.last) != numbers and time.monotonic() < end and not self.wrong:
            self._once(1)
        if numbers_of(self.last) != numbers:
            self.wrong.append(f"told up to {self.last} and not to {numbers}")

    def _once(self, messages: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=1)
        try:
            connection.request("GET", "/api/v1/events", headers={"Last-Event-ID": self.last})
            answer = connection.getresponse()
            fields: dict[str, str] = {}
            while messages and (line := answer.readline()):
                name, _, value = line.decode().strip().partition(": ")
                if name:
                    fields[name] = value
                elif "event" in fields:
                    self._hear(fields["event"], json.loads(fields["data"]), fields["id"])
                    fields, messages = {}, messages - 1
        finally:
            connection.close()

    def _hear(self, kind: str, data: Any, cursor: str) -> None:
        tasks = data.get("tasks")
        if kind == "added":
            first = tasks[0]["history_num"] if tasks else data["first"]
            count = len(tasks) if tasks else data["count"]
            if first != self.added + 1:
                self.wrong.append(f"{first} was told behind {self.added}")
            self.added = first + count - 1
        elif kind == "finished":
            self.finished += tasks or [None] * data["count"]
        elif kind == "reset":
            self.wrong.append(f"a reset at {cursor}, behind {self.last}")
        self.last = cursor
        told = f"{self.added}.{len(self.finished)}"
        if kind in ("added", "finished") and numbers_of(cursor) != told:
            self.wrong.append(f"{cursor} stands where {told} was told")


def numbers_of(cursor: str) -> str:
    """Return an event's id without the lineage."""
    return ".".join(cursor.split(".")[-2:])


def _run(
    seed: int, rounds: int, parent: Path, changes: tuple[str, ...] = ()
) -> tuple[list[str], int]:
    chance = random.Random(seed)
    history, target = History(), Target()
    listener = Listener(target, random.Random(f"{seed} listener"))
    thread = threading.Thread(target=listener.listen)
    finished: tuple[Row, ...] = ()
    with emptied(parent) as folder:
        running = service(folder, changes=changes)
        try:
            with load(target, history, seed, steered=True):
                thread.start()
                for _ in range(rounds):
                    next_port(target, running.port)
                    time.sleep(chance.uniform(0.05, 0.3))
                    target.up.clear()
                    running.kill()
                    running = service(folder, changes=changes)
                next_port(target, running.port)
                time.sleep(0.3)
            thread.join(SECONDS)
            if not drained(running, 1 if changes else SECONDS):
                listener.wrong.append("the queue is not drained")
            rows = snapshot(folder / DATABASE)
            finished = rows.history
            last = max([row.history_num for row in (*finished, *rows.queue)], default=0)
            listener.catch_up(f"{last}.{len(finished)}")
        except OSError as error:
            listener.wrong.append(str(error))
        finally:
            target.over.set()
            target.up.set()
            running.kill()
    listener.wrong += _differences(listener, finished)
    return listener.wrong, listener.added + len(listener.finished)


def _differences(listener: Listener, history: tuple[Row, ...]) -> list[str]:
    finished = sorted(history, key=lambda row: row.finish_num or 0)
    return [
        f"finish {row.finish_num} is {row.history_num}, and {task['history_num']} was told"
        for task, row in zip(listener.finished, finished, strict=False)
        if task is not None
        and (task["history_num"], task["num"], task["state"])
        != (row.history_num, row.num, row.outcome)
    ]
