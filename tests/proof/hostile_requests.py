"""Requests that are too large, endless or ambiguous: refused, and memory stays flat."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from pathlib import Path

from tests.proof.machine import emptied
from tests.proof.outcome import Outcome, Scale
from tests.proof.service import resident_bytes, service
from tests.running import Running

MEBIBYTE = 2**20
FLAT_BYTES = 16 * MEBIBYTE
SENT_BYTES = 64 * MEBIBYTE
"""So much an endless client sends if nobody stops it."""
POST = b"POST /add_task HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"num": 1, "timeout": 0}'
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY

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
        for _ in range(rounds):
            for name, (request, statuses) in CASES.items():
                found = _statuses(running.port, request, 1 if name in ONE_OF else len(statuses))
                right = found == statuses
                if name in ONE_OF:
                    right = len(found) == 1 and found[0] in statuses
                if not right:
                    broken.append(f"{name}: {found}, not {statuses}")
        broken += _added(running, rounds)
        grown, answers = _endless(running, rounds)
        if answers != {413}:
            broken.append(f"endless bodies: {answers}")
        if grown > FLAT_BYTES:
            broken.append(f"memory grew by {grown / MEBIBYTE:.0f} MiB")
        if '"level": "ERROR"' in running.log:
            broken.append("an unhandled exception is in the log")
    large = {"SANIC_APP_BODY_MAX": str(2 * SENT_BYTES)}
    with emptied(folder) as home, service(home, environ=large) as running:
        control, answers = _endless(running, 1)
    return Outcome(
        promise="oversize, endless and ambiguous requests are refused, memory stays flat",
        fault=f"{len(CASES) - 3} kinds of hostile requests and endless chunked bodies",
        tried=rounds * (len(CASES) - 3 + 1),
        lost=len(broken),
        control="a service with a limit of 128 MiB: memory grew by"
        f" {control / MEBIBYTE:.0f} MiB; valid requests by the same path were answered",
        broken=tuple(broken),
        missed=() if control > FLAT_BYTES and 413 not in answers else ("it stayed flat as well",),
        notes=f"memory grew by {max(grown, 0) / MEBIBYTE:.1f} MiB",
    )


def _added(running: Running, rounds: int) -> list[str]:
    """Only the valid ones have been added: four in each round."""
    valid = sum(statuses.count(200) for _, statuses in CASES.values())
    deadline = time.monotonic() + 5
    while (count := len(running.result())) < valid * rounds and time.monotonic() < deadline:
        time.sleep(0.02)
    return [] if count == valid * rounds else [f"{count} tasks, not {valid * rounds}"]


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


def _endless(running: Running, rounds: int) -> tuple[int, set[int]]:
    """Send chunks until somebody stops it; return how memory grew, and the statuses."""
    before = most = resident_bytes(running)
    found: set[int] = set()
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    for _ in range(rounds):
        with socket.create_connection(("127.0.0.1", running.port), 5) as sock:
            sock.settimeout(2)
            with suppress(OSError):
                sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(SENT_BYTES // len(chunk)):
                    sock.sendall(chunk)
                    most = max(most, resident_bytes(running))
            found.update(_read(sock))
        most = max(most, resident_bytes(running))
    return most - before, found
