"""What a command prints, wherever that goes: a full disk, a closed pipe, an ASCII terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from sanic_app.errors import EXIT_START


def tell(text: str) -> None:
    """Tell the user something that is no output, in a line, even if what is quoted has several."""
    with suppress(OSError):
        # On a full disk the exit status still says it.
        sys.stderr.write(f"sanic-app: {' '.join(text.splitlines())}\n")


def refuse(text: str, status: int = EXIT_START) -> int:
    """Tell the user why a command fails; return its exit status."""
    tell(text)
    return status


def printing(run: Callable[[], int]) -> int:
    """Run a command and return its status: 1 also when its output could not be written."""
    try:
        try:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="replace")
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does, and has seen enough.
        reason = ""
    except OSError as error:
        reason = f"cannot write the output: {error.strerror}"
    # What is left of it goes nowhere, when Python closes the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if reason:
        tell(reason)
    return EXIT_START
