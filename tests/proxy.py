"""A TCP proxy on loopback that cuts, delays and freezes: between a node and its PostgreSQL."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

COMMIT = b"COMMIT\0"
"""How the message ends that commits."""


class Proxy:
    """Passes everything on until it is told otherwise.

    ``on_commit`` says what happens to the next message that commits, once: ``before`` cuts the
    connection instead of passing it on, ``in`` right behind it, ``after`` when the answer comes,
    which is passed on by neither; ``freeze`` passes it on and then nothing more, in no direction,
    until ``thaw``.
    """

    def __init__(self, port: int) -> None:
        """Take the port of the server."""
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.on_commit = ""
        self.delay = 0.0
        """Seconds for which each message to the server is held back."""
        self.commits = 0
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Return the URL of the server as it is reached through the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _close(pair)

    def freeze(self) -> None:
        """Pass nothing on until ``thaw``; connections are accepted, as by a stopped process."""
        self._open.clear()

    def thaw(self) -> None:
        """Pass everything on again."""
        self._open.set()

    def close(self) -> None:
        """Cut everything, and accept nothing more."""
        self.on_commit = ""
        self._open.set()
        # A thread that waits in accept() would keep the port.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._server), timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        for sock in pair:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.add(pair)
        dropped = threading.Event()
        threading.Thread(target=self._answers, args=(pair, dropped), daemon=True).start()
        with suppress(OSError):
            while data := client.recv(65_536):
                if self.delay:
                    time.sleep(self.delay)
                self._open.wait()
                if not data.endswith(COMMIT):
                    server.sendall(data)
                    continue
                self.commits += 1
                fault, self.on_commit = self.on_commit, ""
                if fault == "before":
                    break
                if fault in ("in", "after"):
                    dropped.set()
                elif fault == "freeze":
                    self._open.clear()
                server.sendall(data)
                if fault == "in":
                    break
        self._end(pair)

    def _answers(self, pair: tuple[socket.socket, socket.socket], dropped: threading.Event) -> None:
        client, server = pair
        with suppress(OSError):
            while data := server.recv(65_536):
                self._open.wait()
                if dropped.is_set():
                    break
                client.sendall(data)
        self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        _close(pair)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for sock in pair:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
