"""The signals that ask a process to stop."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Final

SIGNALED: Final = 128
"""Shells report a process that a signal ended with this plus the signal's number."""
HANG_UP: Final = getattr(signal, "SIGHUP", None)
"""When a terminal is closed, both the kernel and the shell send one."""
ECHO_SECONDS: Final = 0.05
"""`timeout` sends its signal to the process, and at once to its whole group as well."""


def raise_on_signals() -> None:
    """Let each end a command by an exception, so that it leaves everything as it should."""
    for number in stop_signals():
        signal.signal(number, raise_signal)


def raise_signal(number: int, _: FrameType | None) -> None:
    """Raise what stands for a signal: KeyboardInterrupt, or SystemExit."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(SIGNALED + number)


def stop_signals() -> list[signal.Signals]:
    """Return these signals; under nohup, SIGHUP is not one of them."""
    asked = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    return asked


def asks_again(number: int, seconds: float) -> bool:
    """Return whether a signal, so long after the first one, is more than the same request again."""
    return number != HANG_UP and seconds > ECHO_SECONDS
