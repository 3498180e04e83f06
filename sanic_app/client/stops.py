"""Signals that ask a follower to stop, held back while it must not be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sanic_app.signals import SIGNALED, asks_again, stop_signals


class Stop(BaseException):
    """A signal asked for the end, and nothing is half done."""


class Stops:
    """The first signal ends the process in order, the second at once, with the command it runs."""

    def __init__(self) -> None:
        """Install the handlers."""
        self._asked = False
        self._asked_at = 0.0
        self._holding = False
        self._command: subprocess.Popen[bytes] | None = None
        for number in stop_signals():
            signal.signal(number, self._signaled)
        if sys.platform != "win32":
            # Whoever started this may ignore it. Then the kernel tells nobody how a command ended,
            # and Python takes each for a success.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no signal interrupt the context.

        Raises:
            Stop: at its end; there was one.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._asked:
            raise Stop

    def wait(self, command: subprocess.Popen[bytes]) -> int:
        """Return the status of a command once it has ended; a second signal kills it."""
        self._command = command
        try:
            return command.wait()
        finally:
            self._command = None

    def _signaled(self, number: int, _: FrameType | None) -> None:
        if self._asked:
            if not asks_again(number, time.monotonic() - self._asked_at):
                return
            self._kill()
            os._exit(SIGNALED + number)
        self._asked, self._asked_at = True, time.monotonic()
        if not self._holding:
            raise Stop

    def _kill(self) -> None:
        if self._command is None:
            return
        with suppress(OSError):
            if os.name == "posix":
                # Its process group: what the shell has started belongs to it.
                os.killpg(self._command.pid, signal.SIGKILL)
            else:
                self._command.kill()
