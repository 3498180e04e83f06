"""One connection: bytes out, bytes in, and as little as possible between."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence
from typing import Any, Self

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_END = b"\r\n\r\n"


def get(path: str, field: str = "") -> bytes:
    field = f"{field}\r\n" if field else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{field}\r\n".encode()


def add(timeout: float, num: int = 5) -> bytes:
    return post("/add_task", {"num": num, "timeout": timeout})


def post(path: str, content: object) -> bytes:
    body = json.dumps(content).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client:
    """A client that asks one thing after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """Return the body of the answer, which must be a success."""
        self.send(request)
        return self.receive()

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def receive(self) -> bytes:
        """Return the body of the next answer, which must be a success."""
        data = self._more()
        while (end := data.find(_END)) < 0:
            data += self._more()
        length = _LENGTH.search(data, 0, end)
        if data[9:10] != b"2" or length is None:
            raise RuntimeError(f"not a success: {data!r}")
        missing = end + len(_END) + int(length[1]) - len(data)
        while missing > 0:
            more = self._more()
            data += more
            missing -= len(more)
        return data[end + len(_END) :]

    def parsed(self, request: bytes) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.ask(request))
        return value

    def timed(self, requests: Sequence[bytes]) -> list[float]:
        """Return the seconds that each answer took."""
        taken = []
        for request in requests:
            begun = time.perf_counter()
            self.ask(request)
            taken.append(time.perf_counter() - begun)
        return taken

    def timed_for(self, seconds: float, request: bytes) -> list[float]:
        """Ask the same again and again; return the seconds that each answer took."""
        taken = []
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            self.ask(request)
            taken.append(time.perf_counter() - begun)
        return taken

    def _more(self) -> bytes:
        data = self._socket.recv(65_536)
        if not data:
            raise RuntimeError("the service closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
