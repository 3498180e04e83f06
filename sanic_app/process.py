"""The service as a whole process: signals, limits, the listening socket, exit statuses."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from typing import Final

from sanic_app import __version__
from sanic_app.app import create_app
from sanic_app.errors import StartError
from sanic_app.lifecycle import STOP_SECONDS, serving
from sanic_app.settings import Settings
from sanic_app.signals import SIGNALED, asks_again, stop_signals
from sanic_app.store.sqlite.lease import FileLease
from sanic_app.supervisor import Supervisor

DESCRIPTORS_MIN: Final = 64
"""The service itself has some 25 open, and each connection needs one."""

NOT_SENT_BYTES: Final = 65_536
"""How much of an answer the kernel holds back while the client does not read."""

SWITCH_SECONDS: Final = 0.0005
"""How long a busy event loop may hold the interpreter's lock while the writing thread waits for it.

Python's default of 5 ms is as long as many commits, and each statement of a commit has to get the
lock back.
"""

log = logging.getLogger(__name__)


async def serve(settings: Settings, lease: FileLease | None) -> None:
    """Run the service until a signal asks it to stop; a second one ends the process at once.

    Raises:
        StartError: the service cannot start.
    """
    stopped = _stop_signal()
    giving_up = asyncio.create_task(_give_up_the_start(stopped))
    supervisor = Supervisor(os.environ)
    feeding = asyncio.create_task(supervisor.feed_watchdog())
    sys.setswitchinterval(SWITCH_SECONDS)
    sock = bind(settings.host, settings.port)
    app = create_app(settings, lease)
    async with serving(app, sock, settings.stop_delay):
        giving_up.cancel()
        host, port = sock.getsockname()[:2]
        log.info(
            "serving on http://%s:%d",
            f"[{host}]" if ":" in host else host,
            port,
            extra={
                "port": port,
                "version": __version__,
                "store": app.ctx.service.queue.engine,
                "database": str(settings.database),
                "depth": app.ctx.service.queue.figures.depth,
            },
        )
        supervisor.ready()
        await stopped.wait()
        supervisor.stopping(settings.stop_delay)
        log.info("stopping")
    feeding.cancel()
    log.info("stopped")


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet.

    Raises:
        StartError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name such as localhost can have both kinds of addresses: prefer IPv4.
        family, kind, protocol, _, address = min(found, key=lambda info: info[0])
        sock = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _limit_unsent(sock)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not a host name"
        raise StartError(f"cannot listen on {host} port {port}: {cause}") from None
    sock.setblocking(False)
    return sock


def _stop_signal() -> asyncio.Event:
    """Return an event that the first of the stop signals sets."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = 0.0

    def stop(number: int) -> None:
        nonlocal first
        if not stopped.is_set():
            first = time.monotonic()
            stopped.set()
        elif asks_again(number, time.monotonic() - first):
            log.critical("a second signal: the process ends at once")
            os._exit(SIGNALED + number)

    for number in stop_signals():
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # pragma: no cover - Windows
            signal.signal(number, lambda given, _: loop.call_soon_threadsafe(stop, given))
    return stopped


async def _give_up_the_start(stopped: asyncio.Event) -> None:
    """End a start that goes on after a signal: it may wait for another node that migrates.

    Nothing is promised to anyone yet, so it ends as by a kill: what it did itself is undone.
    """
    await stopped.wait()
    await asyncio.sleep(STOP_SECONDS)
    log.info("stopped before the start was over")
    os._exit(0)


def _limit_unsent(sock: socket.socket) -> None:
    """Keep little of an answer in the kernel; accepted sockets inherit this.

    Otherwise the kernel would hold megabytes, and a client that reads slowly would look like one
    that does not read at all.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
        except OSError as error:
            log.warning("slow clients may be cut too early: TCP_NOTSENT_LOWAT: %s", error.strerror)


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system does, if it lets us.

    Raises:
        StartError: they are too few to serve.
    """
    if sys.platform == "win32":
        return
    import resource

    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError as error:
        # A sandbox that forbids prlimit64 to set it forbids glibc to read it, too.
        log.warning("the limit of open files cannot be read: %s", error)
        return
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            # A sandbox forbids it; macOS refuses its own hard limit when that is "unlimited".
            log.warning("the limit of open files stays at %d: %s", soft, error)
        else:
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS_MIN:
        raise StartError(
            f"the limit of open files is {soft}, and {DESCRIPTORS_MIN} are needed (ulimit -n)"
        )
