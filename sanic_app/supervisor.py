"""The service manager that started this process: systemd, or another that has sd_notify(3)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

STOP_MARGIN = 10.0
"""Seconds that a stop may take besides STOP_DELAY; it needs at most 5."""
SEND_SECONDS = 0.5


class Supervisor:
    """Tells the service manager how far the process is; without one it does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Take the environment, in which the service manager names its socket."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        watchdog = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        known = meant and re.fullmatch("[0-9]{1,18}", watchdog)
        self._patience = int(watchdog) / 1e6 if known else 0.0

    def ready(self) -> None:
        """Say that the service serves."""
        self._tell("READY=1")

    def stopping(self, delay: float) -> None:
        """Say that a stop has begun, and how long it may take."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round((delay + STOP_MARGIN) * 1e6)}")

    async def feed_watchdog(self) -> None:
        """Report that the event loop runs, as often as the service manager asks for."""
        while self._address and self._patience:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._patience / 3)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is in the kernel's abstract namespace.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_SECONDS)
                sock.sendto(state.encode(), address)
        except (OSError, AttributeError) as error:
            log.warning("the service manager cannot be told: %s", error)
            self._address = ""
