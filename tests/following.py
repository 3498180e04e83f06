"""A real `sanic-app follow` for tests: started, read, killed; and a proxy before its service."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.warm import start

ROOT = Path(__file__).parents[1]


class Following:
    """One follower in a session of its own, its lines at hand.

    ``changes`` are those of `tests.proof.launch`.
    """

    def __init__(
        self,
        url: str,
        *arguments: str,
        folder: Path | None = None,
        changes: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SANIC_APP_")}
        env = {**clean, "PYTHONPATH": str(ROOT), "SANIC_APP_URL": url, **(environ or {})}
        self.process = start(
            ("follow", *arguments),
            env=env,
            cwd=folder,
            changes=changes,
            # Open and silent: whoever reads it waits for ever.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.said: list[str] = []
        self._arrived = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.said))
        ]
        for reader in self._readers:
            reader.start()

    def until(self, *lines: str, seconds: float = 20) -> None:
        """Return when these are all its lines."""
        self._wait(lambda: self.lines == list(lines) or len(self.lines) > len(lines), seconds)
        assert self.lines == list(lines), (self.lines, self.said)

    def until_count(self, count: int, seconds: float = 20) -> None:
        """Return when it has so many lines."""
        self._wait(lambda: len(self.lines) >= count, seconds)

    def until_says(self, text: str, seconds: float = 20) -> None:
        """Return when a line of its standard error has the text."""
        self._wait(lambda: any(text in line for line in self.said), seconds)

    def end(self, number: int = signal.SIGTERM, seconds: float = 10) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait(seconds)

    def kill(self) -> None:
        """End it as a power switch would; a command that it runs goes on."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 20) -> int:
        """Return its exit status once it has ended, and everything that it said is there."""
        status = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return status

    def _wait(self, held: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._arrived:
            while not held():
                left = deadline - time.monotonic()
                ended = not any(reader.is_alive() for reader in self._readers)
                assert held() or (left > 0 and not ended), (self.lines, self.said)
                self._arrived.wait(min(left, 0.2))

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._arrived:
                lines.append(line.rstrip("\n"))
                self._arrived.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def cursor_of(file: Path) -> Any:
    """Return what a cursor file holds."""
    return json.loads(file.read_text(encoding="ascii"))


class Proxy:
    """A proxy on the loopback that can refuse with a page of its own, and cut what runs."""

    def __init__(self, port: int) -> None:
        self.port_behind = port
        self.refusal: tuple[int, str] | None = None
        """Status and content type of what it answers instead of the service."""
        self.refused = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection."""
        pairs, self._pairs = self._pairs, []
        for sock in (sock for pair in pairs for sock in pair):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.refusal is not None:
                client.recv(65_536)
                status, kind = self.refusal
                body = b"<html>not now"
                head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
                client.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
                self.refused += 1
                return
            with socket.create_connection(("127.0.0.1", self.port_behind)) as service:
                self._pairs.append((client, service))
                back = threading.Thread(target=_pump, args=(service, client), daemon=True)
                back.start()
                _pump(client, service)
                back.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
