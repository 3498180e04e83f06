"""``python -m tests.bench.listeners PORT COUNT``: so many clients that listen to the events.

They say ``ready`` when all are there, and take what comes until standard input ends.
"""

from __future__ import annotations

import selectors
import socket
import sys

from tests.bench.client import get


def main() -> None:
    port, count = map(int, sys.argv[1:])
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(get("/api/v1/events"))
        # The first message says where the stream begins: from then on it is live.
        while b"id: " not in connection.recv(65_536):
            pass
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            assert isinstance(key.fileobj, socket.socket)
            if not key.fileobj.recv(2**20):
                sys.exit("the service ended a stream")


if __name__ == "__main__":
    main()
