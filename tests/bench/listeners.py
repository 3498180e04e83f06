"""``python -m tests.bench.listeners PORT COUNT ID``: so many clients that listen to the events.

They begin behind the event with this id, or now where it is empty. They say ``ready`` when all are
there, and take what comes until standard input ends.
"""

from __future__ import annotations

import selectors
import socket
import sys

from tests.bench.client import get


def main() -> None:
    port, count, after = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    request = get("/api/v1/events", f"Last-Event-ID: {after}" if after else "")
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(request)
        # The first message says where the stream begins.
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
