"""The first thing that runs: what must hold before anything slow is imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from sanic_app.client import COMMANDS, STORE_COMMANDS
from sanic_app.signals import SIGNALED, stop_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service, or a command for a running one; return the exit status (see README.md)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _open_closed_streams()
    _end_on_signals(serving=not {*COMMANDS, *STORE_COMMANDS}.intersection(given[:1]))
    from sanic_app.command_line import run

    return run(given)


def _open_closed_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file to be opened, perhaps the database, would get its number, and whatever
    is printed would be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # What a command prints into a closed standard output must fail, not vanish.
            os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_RDWR)
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays
            setattr(sys, name, stream)


def _end_on_signals(*, serving: bool) -> None:
    """End at once, as long as there is nothing to stop in order.

    The first process of a container has no default: a signal that it does not handle is lost.
    """

    def end(number: int, _: FrameType | None) -> None:
        os._exit(0 if serving else SIGNALED + number)

    for number in stop_signals():
        signal.signal(number, end)


if __name__ == "__main__":
    sys.exit(main())
