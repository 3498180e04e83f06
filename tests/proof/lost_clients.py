"""Clients that disconnect while their add is in flight: nothing is half-done."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import threading
import time
from pathlib import Path

from tests.proof.checker import check
from tests.proof.history import Add, History
from tests.proof.load import Client, Target
from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import DATABASE, drained, service
from tests.proof.tables import contradictions, snapshot

THREADS = 4
CONTROL_TURNS = 6
RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` that makes a close a reset."""


def lost_clients(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Let clients go in the middle of their adds; judge rows, figures and gauges."""
    clients = scale.pick(2_000, 10_000)
    stored, wrong = _run(seed, clients, folder)
    control: list[str] = []
    # Some client must go within the half millisecond of a commit that starts a head.
    for turn in range(CONTROL_TURNS):
        if not control:
            _, control = _run(seed + turn, 2_000, folder, ("handlers_commit",))
    return Outcome(
        promise="a client that goes leaves nothing half-done",
        fault="clients that disconnect, orderly or by a reset, while their add is in flight",
        tried=clients,
        lost=len(wrong),
        control=f"a service whose handlers commit for themselves: {'; '.join(control)[:120]}",
        broken=tuple(wrong),
        missed=() if control else ("nothing was half-done",),
        notes=f"{stored:,} of them were added, {clients - stored:,} were not",
    )


def _run(
    seed: int, clients: int, parent: Path, changes: tuple[str, ...] = ()
) -> tuple[int, list[str]]:
    history = History()
    wrong: list[str] = []
    with emptied(parent) as folder:
        running = service(folder, changes=changes)
        try:
            with history.fault():
                threads = [
                    threading.Thread(
                        target=_leave,
                        args=(running.port, history, random.Random(f"{seed} {thread}"),
                              range(thread, clients, THREADS)),
                    )
                    for thread in range(THREADS)
                ]  # fmt: skip
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(120)
                time.sleep(0.3)
            client = Client("stays", Target(running.port), history)
            for number in range(clients, clients + 100):
                client.add(number, 0)
            if not drained(running, 2 if changes else 20):
                wrong.append("the queue is not drained")
            client.read_results()
            client.read_queue()
            client.close()
            wrong += _gauges(running.request("GET", "/metrics")[1])
        finally:
            running.kill()
        verdict = check(history, snapshot(folder / DATABASE), finishes=100)
        if not verdict.holds:
            wrong += [verdict.summary, *(each.message for each in verdict.violations[:3])]
        wrong += contradictions(folder / DATABASE)
    return verdict.counts.done - 100, wrong


def _leave(port: int, history: History, chance: random.Random, numbers: range) -> None:
    for number in numbers:
        operation = history.invoke(f"lost {number}", Add(((number, 0.0),)))
        try:
            _send_and_go(port, number, chance)
        finally:
            history.unknown(operation)


def _send_and_go(port: int, number: int, chance: random.Random) -> None:
    body = json.dumps({"num": number, "timeout": 0}).encode()
    request = (
        b"POST /add_task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        if chance.random() < 0.8:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if chance.random() < 0.1:
            # Not even the whole request.
            request = request[: chance.randrange(len(request))]
        sock.sendall(request)
        time.sleep(chance.choice((0, 0.000_1, 0.000_2, 0.000_4, 0.001, 0.003)))


def _gauges(text: str) -> list[str]:
    """Return the gauges that say that something is still under way."""
    expected = {"queue_depth": 0, "writes_waiting": 0, "http_requests_in_flight": 1}
    wrong = []
    for name, value in expected.items():
        found = re.search(rf"^sanic_app_{name} (\S+)$", text, re.MULTILINE)
        if found is None or float(found[1]) != value:
            wrong.append(f"{name} is {found and found[1]}, not {value}")
    return wrong
