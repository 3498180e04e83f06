"""Requests that are too large, endless or ambiguous: refused, and memory stays flat."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import drained, most_resident_bytes, resident_bytes, service
from tests.running import Running

MEBIBYTE = 2**20
GROWN_BYTES = 8 * MEBIBYTE
"""So much more memory may be left when all is over."""
PEAK_BYTES = 16 * MEBIBYTE
"""So much more may be in use meanwhile."""
SENT_BYTES = 64 * MEBIBYTE
"""So much an endless client sends if nobody stops it."""
DEAF = 60
"""So many listeners read nothing."""
LARGE_BYTES = 1_200_000
BATCH, BATCHES = 1_000, 60
"""So many tasks at once, and so often, are they told of: more than a listener may be behind."""
POST = b"POST /add_task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BATCH_HEAD = POST.replace(b"add_task", b"api/v1/tasks/batch") + b"Content-Length: %d\r\n\r\n"
BODY = b'{"num": 1, "timeout": 0}'
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def _deep(levels: int) -> bytes:
    """Return a batch of 1.2 MB whose tasks are objects in objects, each with a key twice."""
    key = b'"' + b"k" * 64 + b'"'
    item = (b"{%b:1,%b:" % (key, key)) * levels + b"1" + b"}" * levels
    body = b'{"tasks":[' + b",".join([item] * (LARGE_BYTES // len(item))) + b"]}"
    return BATCH_HEAD % len(body) + body


DEEP = _deep(880)
CASES: dict[str, tuple[bytes, list[int]]] = {
    "a valid request": (WHOLE, [200]),
    "two in one piece": (WHOLE + WHOLE, [200, 200]),
    "a valid chunked one": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        [200],
    ),
    "both lengths": (
        POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
        [400],
    ),
    "two lengths that differ": (
        POST + b"Content-Length: 24\r\nContent-Length: 5\r\n\r\n" + BODY, [400],
    ),
    "the same length twice": (
        POST + b"Content-Length: 24\r\nContent-Length: 24\r\n\r\n" + BODY, [400],
    ),
    "a length with a sign": (POST + b"Content-Length: +24\r\n\r\n" + BODY, [400]),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n" + BODY, [400]),
    "a length that is no number": (POST + b"Content-Length: x\r\n\r\n" + BODY, [400]),
    "a declared gigabyte": (POST + b"Content-Length: 1073741824\r\n\r\n", [413]),
    "a chunk of a gigabyte": (POST + b"Transfer-Encoding: chunked\r\n\r\n40000000\r\n", [413]),
    "a chunk that is no number": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", [400]),
    "a control character before a length": (POST + b"Content-Length: \x0b24\r\n\r\n" + BODY, [400]),
    "one before an encoding": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", [400]),
    "a blank of Unicode": (POST + b"Transfer-Encoding: \xc2\xa0chunked\r\n\r\n0\r\n\r\n", [400]),
    "a bare line feed in a value": (POST + b"X: y\nContent-Length: 24\r\n\r\n" + BODY, [400]),
    "a bare line feed in a chunk's line": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n18;\nx\r\n" + BODY + b"\r\n0\r\n\r\n", [400],
    ),
    "a blank before a chunk's size": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n 18\r\n" + BODY + b"\r\n0\r\n\r\n", [400],
    ),
    "no line end behind a chunk": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n18\r\n" + BODY + b"xx0\r\n\r\n", [400],
    ),
    "a repeated key, 880 levels deep": (DEEP, [400]),
    "not HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", [400]),
    "no host": (b"GET /api/v1/queue HTTP/1.1\r\n\r\n", [400, 403]),
}  # fmt: skip
ONE_OF = {"no host"}
"""Here the statuses are those that would do."""


def hostile_requests(seed: int, scale: Scale, folder: Path) -> Outcome:
    """Send each kind many times; look at statuses, memory and what was added."""
    rounds = scale.pick(3, 50)
    broken: list[str] = []
    with emptied(folder) as home, service(home) as running:
        # What ordinary work takes is no growth: bodies of the same size, and reading all results.
        _add_batches(running, b" " * LARGE_BYTES)
        running.result()
        _ask_all(running, {name: case for name, case in CASES.items() if 200 in case[1]})
        before = resident_bytes(running)
        for _ in range(rounds):
            broken += _ask_all(running, CASES)
        broken += _added(running, rounds)
        answers = _endless(running, rounds)
        if answers != {413}:
            broken.append(f"endless bodies: {answers}")
        _deaf_listeners(running)
        drained(running)
        time.sleep(1)
        grown = resident_bytes(running) - before
        peak = most_resident_bytes(running) - before
        if grown > GROWN_BYTES or peak > PEAK_BYTES:
            broken.append(f"memory grew by {grown / MEBIBYTE:.1f} MiB")
        if '"level": "ERROR"' in running.log:
            broken.append("an unhandled exception is in the log")
    large = {"SANIC_APP_BODY_MAX": str(2 * SENT_BYTES)}
    with emptied(folder) as home, service(home, environ=large) as running:
        before = resident_bytes(running)
        answers = _endless(running, 1)
        control = most_resident_bytes(running) - before
    hostile = sum(200 not in statuses for _, statuses in CASES.values())
    return Outcome(
        promise="oversize, endless and ambiguous requests are refused, memory stays flat",
        fault=f"{hostile} kinds of hostile requests, endless chunked bodies, {DEAF} listeners that"
        " read nothing",
        tried=rounds * (hostile + 1) + DEAF,
        lost=len(broken),
        control="a service with a limit of 128 MiB: memory grew by"
        f" {control / MEBIBYTE:.0f} MiB; valid requests by the same path were answered",
        broken=tuple(broken),
        missed=() if control > PEAK_BYTES and 413 not in answers else ("it stayed flat as well",),
        notes=f"memory grew by {max(grown, 0) / MEBIBYTE:.1f} MiB, and meanwhile by at most"
        f" {peak / MEBIBYTE:.1f} MiB",
    )


def _ask_all(running: Running, cases: Mapping[str, tuple[bytes, list[int]]]) -> list[str]:
    """Send each once; return which were not answered as they should be."""
    broken = []
    for name, (request, statuses) in cases.items():
        found = _statuses(running.port, request, 1 if name in ONE_OF else len(statuses))
        right = found == statuses
        if name in ONE_OF:
            right = len(found) == 1 and found[0] in statuses
        if not right:
            broken.append(f"{name}: {found}, not {statuses}")
    return broken


def _deaf_listeners(running: Running) -> None:
    """Let listeners that read nothing be told of many tasks."""
    with ExitStack() as stack:
        for _ in range(DEAF):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(("127.0.0.1", running.port))
            sock.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        _add_batches(running)


def _add_batches(running: Running, padding: bytes = b"") -> None:
    body = b'{"tasks":[' + b",".join([BODY] * BATCH) + b"]}" + padding
    for _ in range(BATCHES):
        _statuses(running.port, BATCH_HEAD % len(body) + body, 1)
        time.sleep(0.05)


def _added(running: Running, rounds: int) -> list[str]:
    """Return what is wrong with the number of tasks: only the valid ones have been added."""
    valid = sum(statuses.count(200) for _, statuses in CASES.values()) * (rounds + 1)
    valid += BATCH * BATCHES
    deadline = time.monotonic() + 20
    while (count := len(running.result())) < valid and time.monotonic() < deadline:
        time.sleep(0.02)
    return [] if count == valid else [f"{count} tasks, not {valid}"]


def _statuses(port: int, request: bytes, count: int) -> list[int]:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        with suppress(OSError):
            sock.sendall(request)
        sock.settimeout(5)
        return _read(sock, count)


def _read(sock: socket.socket, count: int = 1) -> list[int]:
    """Return the statuses of so many answers, and of what comes unasked right behind them."""
    data = b""
    with suppress(OSError):
        while piece := sock.recv(65_536):
            data += piece
            if data.count(b"HTTP/1.1 ") >= count:
                sock.settimeout(0.1)
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def _endless(running: Running, rounds: int) -> set[int]:
    """Send chunks until somebody stops it; return the statuses."""
    found: set[int] = set()
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    for _ in range(rounds):
        with socket.create_connection(("127.0.0.1", running.port), 5) as sock:
            sock.settimeout(2)
            with suppress(OSError):
                sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(SENT_BYTES // len(chunk)):
                    sock.sendall(chunk)
            found.update(_read(sock))
    return found
