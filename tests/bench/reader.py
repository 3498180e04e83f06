"""Reads a whole list again and again: ``python -m tests.bench.reader PORT PATH TIMES``.

A process of its own, so that it takes nothing from the client whose answers are timed. Says
``ready``, begins with the first line it is given, and prints a JSON list of the seconds and the
bytes of each. Without a number of times it goes on until its input is closed.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from collections.abc import Iterator


def read(port: int, path: str) -> tuple[float, int]:
    """Return the seconds and the bytes of one whole list."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begun = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    size, last = 0, b""
    while chunk := answer.read1(2**20):
        size += len(chunk)
        last = chunk
    connection.close()
    if answer.status != 200 or not last.endswith(b"]}"):
        raise RuntimeError(f"{path} was cut after {size} bytes")
    return time.perf_counter() - begun, size


def again(times: int) -> Iterator[None]:
    """Yield so many times; with 0 until the input is closed."""
    count = 0
    while count < times if times else not select.select([sys.stdin], [], [], 0)[0]:
        yield
        count += 1


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    found = [read(int(sys.argv[1]), sys.argv[2]) for _ in again(int(sys.argv[3]))]
    sys.stdout.write(json.dumps(found))
