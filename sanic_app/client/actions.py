"""What a follower does with each result: print it, or run a command."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count

from sanic_app.client.cursor import Lock, Result
from sanic_app.client.output import tell
from sanic_app.client.service import Failed
from sanic_app.client.stops import Stops

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""Seconds before another try; each pause is twice as long as the one before."""

Done = Callable[[], None]
"""Remembers that the result was dealt with."""


class Printing:
    """Prints each result in a line."""

    def __init__(self, stops: Stops, *, as_json: bool) -> None:
        self._stops = stops
        self._json = as_json

    def deal_with(self, result: Result, done: Done) -> None:
        """Print it; a line and its place in the cursor belong together."""
        line = json.dumps(result) if self._json else str(result["num"])
        # A reader that takes nothing must not keep a signal waiting.
        _poll(sys.stdout.fileno(), None)
        with self._stops.held():
            print(line, flush=True)
            done()

    def idle(self) -> None:
        """End when nobody reads any more.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
        """
        if _poll(sys.stdout.fileno(), 0):
            raise BrokenPipeError


class Command:
    """Runs a command of the shell for each result, again after a failure."""

    def __init__(self, stops: Stops, text: str, retries: int | None, lock: Lock | None) -> None:
        """Take the command and how often it is tried again, None for ever.

        While a command runs, it holds the lock too, even when its follower was killed.
        """
        self._stops = stops
        self._text = text
        self._retries = retries
        self._descriptors = () if lock is None else (lock.descriptor,)

    def deal_with(self, result: Result, done: Done) -> None:
        """Run it until it succeeds.

        Raises:
            Failed: it has failed too often.
        """
        number, pause = result["history_num"], FIRST_PAUSE
        for failures in count(1):
            with self._stops.held():
                failure = self._run(result)
                if not failure:
                    done()
                    return
            failed = f"the command for task {number} {failure}"
            if self._retries is not None and failures > self._retries:
                raise Failed(f"{failed}; tried {failures} times")
            tell(f"{failed}; trying again in {pause:g} s")
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def idle(self) -> None:
        """Nothing is to be done between two results."""

    def _run(self, result: Result) -> str:
        """Run it once and return how it failed, or nothing."""
        try:
            status = self._status(result)
        except OSError as error:
            return f"could not be started: {error.strerror}"
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        return f"failed {how}" if status else ""

    def _status(self, result: Result) -> int:
        environ = {
            **os.environ,
            "SANIC_APP_NUM": str(result["num"]),
            "SANIC_APP_HISTORY_NUM": str(result["history_num"]),
            "SANIC_APP_DATE_FINISHED": result["date_finished"],
        }
        with subprocess.Popen(  # noqa: S602 - a command of the shell is what the user gives
            self._text,
            shell=True,
            env=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=self._descriptors,
            # Ctrl+C in a terminal is for the follower, which waits for the command.
            process_group=0 if os.name == "posix" else None,
        ) as command:
            return self._stops.wait(command)


def _poll(descriptor: int, milliseconds: int | None) -> bool:
    """Return whether something is wrong with an output; with None wait until it takes something."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if milliseconds is None else 0)
    return any(what & select.POLLERR for _, what in poll.poll(milliseconds))
