"""``python -m tests.bench.instructions``: the instructions of an add, however busy the machine is.

Callgrind (Debian package valgrind) counts those of all threads outside the kernel. The difference
between few adds and many is shown, so that the start of the process counts for nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.client import Client, add
from tests.bench.servers import Server

COMMANDS = {
    "bare handler": ("-m", "tests.bench.bare"),
    "this service": ("-m", "sanic_app", "--port", "0", "--database", "queue.db"),
}
ROUNDS = {64: (20, 80), 1: (200, 800)}
"""By the number of connections: how often all of them add, in the short run and in the long one."""
WAIT = 3_600
"""Seconds, so that no task is finished meanwhile."""


def total(command: Sequence[str], connections: int, rounds: int) -> int:
    """Return the instructions of a process from its start to its end, with so many adds."""
    with TemporaryDirectory(prefix="instructions-") as name:
        folder = Path(name)
        log = folder / "callgrind"
        valgrind = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
        with Server(folder, [*valgrind, f"--log-file={log}", sys.executable, *command]) as server:
            with ExitStack() as stack:
                clients = [stack.enter_context(Client(server.port)) for _ in range(connections)]
                for _ in range(rounds):
                    for client in clients:
                        client.send(add(WAIT))
                    for client in clients:
                        client.receive()
            server.stop()
        found = re.search(r"Collected : (\d+)", log.read_text(encoding="ascii"))
    assert found is not None
    return int(found[1])


def of_an_add(command: Sequence[str], connections: int) -> float:
    """Return the instructions of one add."""
    few, many = ROUNDS[connections]
    with ThreadPoolExecutor(2) as pool:
        totals = pool.map(lambda rounds: total(command, connections, rounds), (few, many))
        least, most = totals
    return (most - least) / (many - few) / connections


def main() -> int:
    if shutil.which("valgrind") is None:
        sys.stderr.write("valgrind is not installed (Debian package valgrind)\n")
        return 1
    # Sets and dictionaries of texts are otherwise laid out anew in each process.
    os.environ["PYTHONHASHSEED"] = "1"
    for connections in ROUNDS:
        for name, command in COMMANDS.items():
            found = of_an_add(command, connections)
            sys.stdout.write(f"{name}, {connections} connections: {found:,.0f} an add\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
