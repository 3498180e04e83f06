"""One peer, measured in its own interpreter: ``python -m tests.bench.peer NAME FOLDER SECONDS``.

A peer on PostgreSQL may be given the URL of an empty database behind that; else it has a server of
its own. Prints what was measured as one line of JSON. The libraries are no dependencies of the
project, so they are imported by name, when asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

CLIENTS = 64
BODY = b'{"num": 5, "timeout": 0}'
BEANSTALKD = Path(__file__).parents[2] / ".venv-bench" / "beanstalkd" / "usr" / "bin"
POSTGRES_USER = "postgres"
"""PostgreSQL refuses to run as root."""
NOT_HERE = 69
"""The exit status of a peer that is not installed (sysexits.h, EX_UNAVAILABLE)."""


class Measured(NamedTuple):
    """Rates a second: put one after the other, by 64 clients, and taken out for good."""

    version: str
    put: float
    put_by_many: float | None
    take: float


class Missing(Exception):
    """This peer is not installed."""


def _rate(seconds: float, action: Callable[[], object]) -> tuple[float, int]:
    """Return the rate at which the action can be done, and how often it was."""
    begun = time.perf_counter()
    done = 0
    while (taken := time.perf_counter() - begun) < seconds:
        action()
        done += 1
    return done / taken, done


def _rate_of(count: int, action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        action()
    return count / (time.perf_counter() - begun)


async def _rate_by_many(seconds: float, actions: list[Callable[[], Awaitable[object]]]) -> float:
    end = time.perf_counter() + seconds

    async def client(action: Callable[[], Awaitable[object]]) -> int:
        done = 0
        while time.perf_counter() < end:
            await action()
            done += 1
        return done

    return sum(await asyncio.gather(*map(client, actions))) / seconds


# beanstalkd


@contextmanager
def _beanstalkd(folder: Path, *flags: str) -> Iterator[int]:
    program = shutil.which("beanstalkd") or shutil.which("beanstalkd", path=str(BEANSTALKD))
    if program is None:
        raise Missing
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    command = [program, "-l", "127.0.0.1", "-p", str(port), "-b", str(folder), *flags]
    with subprocess.Popen(command) as process:
        try:
            yield port
        finally:
            process.kill()


def beanstalkd(folder: Path, seconds: float, *flags: str) -> Measured:
    with _beanstalkd(folder, *flags) as port:
        client = _connected(port)

        def ask(request: bytes, beginning: bytes) -> bytes:
            client.sendall(request)
            answer = client.recv(4096)
            assert answer.startswith(beginning), answer
            return answer

        def take() -> None:
            answer = ask(b"reserve\r\n", b"RESERVED")
            ask(b"delete " + answer.split(maxsplit=2)[1] + b"\r\n", b"DELETED")

        put = b"put 0 0 60 %d\r\n%b\r\n" % (len(BODY), BODY)
        rate, count = _rate(seconds, lambda: ask(put, b"INSERTED"))
        return Measured(
            _beanstalkd_version(),
            rate,
            asyncio.run(_beanstalkd_by_many(port, put, seconds)),
            _rate_of(min(count, 2_000), take),
        )


def _connected(port: int) -> socket.socket:
    for _ in range(100):
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        time.sleep(0.02)
    raise Missing


async def _beanstalkd_by_many(port: int, put: bytes, seconds: float) -> float:
    async def client() -> Callable[[], Awaitable[object]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def action() -> None:
            writer.write(put)
            await reader.readline()

        return action

    return await _rate_by_many(seconds, [await client() for _ in range(CLIENTS)])


def _beanstalkd_version() -> str:
    program = shutil.which("beanstalkd") or str(BEANSTALKD / "beanstalkd")
    return subprocess.run(
        [program, "-v"], capture_output=True, text=True, check=True
    ).stdout.strip()


# In-process queues on SQLite


def huey(folder: Path, seconds: float) -> Measured:
    library = _library("huey")
    queue = library.SqliteHuey(filename=str(folder / "huey.db"), fsync=True, strict_fifo=True)
    numbers: list[int] = []

    @queue.task()  # type: ignore[untyped-decorator]
    def append(num: int) -> None:
        numbers.append(num)

    put, count = _rate(seconds, lambda: append(5))
    take = _rate_of(min(count, 2_000), lambda: queue.execute(queue.dequeue()))
    assert numbers
    return Measured(f"huey {version('huey')}", put, None, take)


def persist_queue(folder: Path, seconds: float) -> Measured:
    library = _library("persistqueue")
    queue = library.SQLiteAckQueue(str(folder), auto_commit=True)
    put, count = _rate(seconds, lambda: queue.put({"num": 5}))
    take = _rate_of(min(count, 2_000), lambda: queue.ack(queue.get()))
    return Measured(f"persist-queue {version('persist-queue')}", put, None, take)


# procrastinate on PostgreSQL


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    programs = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which("initdb") or shutil.which("initdb", path=":".join(map(str, programs)))
    if found is None:
        raise Missing
    user = POSTGRES_USER if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    initdb = [found, "--auth=trust", f"--username={POSTGRES_USER}", str(data)]
    subprocess.run(initdb, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    postgres = [str(Path(found).with_name("postgres")), "-D", str(data), "-k", str(folder)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*postgres, "-c", "listen_addresses="], user=user, cwd=folder, stderr=log
        ) as process,
    ):
        try:
            yield f"host={folder} user={POSTGRES_USER} dbname=postgres"
        finally:
            process.terminate()


def procrastinate(folder: Path, seconds: float, url: str | None = None) -> Measured:
    library = _library("procrastinate")
    with _postgres(folder) if url is None else nullcontext(url) as conninfo:
        return asyncio.run(_procrastinate(library, conninfo, seconds))


async def _procrastinate(library: Any, conninfo: str, seconds: float) -> Measured:
    app = library.App(
        connector=library.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=16)
    )
    numbers: list[int] = []

    @app.task(lock="one")  # type: ignore[untyped-decorator]
    async def append(num: int) -> None:
        numbers.append(num)

    await _until_it_answers(conninfo)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        one = await _rate_by_many(seconds, [lambda: append.defer_async(num=5)])
        count = round(one * seconds)
        begun = time.perf_counter()
        await app.run_worker_async(wait=False, concurrency=1, listen_notify=False)
        take = len(numbers) / (time.perf_counter() - begun)
        assert len(numbers) >= count - 1
        many = await _rate_by_many(seconds, [lambda: append.defer_async(num=5)] * CLIENTS)
    return Measured(f"procrastinate {version('procrastinate')}", one, many, take)


async def _until_it_answers(conninfo: str) -> None:
    psycopg = _library("psycopg")
    for _ in range(200):
        with suppress(psycopg.OperationalError):
            psycopg.connect(conninfo).close()
            return
        await asyncio.sleep(0.05)
    raise Missing


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise Missing from None


PEERS: dict[str, Callable[[Path, float], Measured]] = {
    "beanstalkd -f 0": lambda folder, seconds: beanstalkd(folder, seconds, "-f", "0"),
    "beanstalkd": beanstalkd,
    "huey": huey,
    "persist-queue": persist_queue,
    "procrastinate": procrastinate,
}


def main(name: str, folder: str, seconds: str, url: str | None = None) -> int:
    try:
        if url is not None:
            measured = procrastinate(Path(folder), float(seconds), url)
        else:
            measured = PEERS[name](Path(folder), float(seconds))
    except Missing:
        return NOT_HERE
    sys.stdout.write(json.dumps(measured._asdict()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
