"""How far a follower came, and the file that remembers it."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from sanic_app.client.output import tell
from sanic_app.client.service import Failed, parsed
from sanic_app.files import lock, sync
from sanic_app.task import HISTORY_NUM_MAX

EVENT_SECONDS = 1.0
"""The id of an event alone is written so often at most."""

Result = Mapping[str, Any]
"""An item of the result list as the service shows it."""


class Identity(NamedTuple):
    """What tells a result from those of every other database."""

    history_num: int
    num: int
    date_finished: str

    @classmethod
    def of(cls, result: Result) -> Self:
        """Return that of a result; others may have more fields."""
        return cls(*(result[name] for name in cls._fields))


class Position(NamedTuple):
    """A place in the result list."""

    after: int | None
    """The last history number that was dealt with; None before the service was asked."""
    last: Identity | None = None
    """The result with that number, where it is known."""
    event: str = ""
    """The id of an event up to which every result was dealt with. Only the service reads it."""


class Cursor:
    """A position that outlives the process if there is a file for it."""

    def __init__(self, file: str | None, begin: Position) -> None:
        """Lock the file and read it; without one, or where it is not there yet, begin.

        Raises:
            Failed: another follower has locked it, or it is no such file.
        """
        self.position = begin
        self._path = None if file is None else _real_path(file)
        self._lock: Lock | None = None
        self._unsaved = False
        self._saved_at = 0.0
        if self._path is not None:
            if _is_no_file(self._path):
                raise Failed(f"cannot use the cursor {self._path}: not a regular file")
            self._lock = Lock(f"{self._path}.lock")
            if not self._lock.take(wait=False):
                raise Failed(f"another follower uses the cursor {file}")
            self._load(self._path)
            # A file that cannot be written is noticed before the first number is told.
            self._save()

    def move(self, position: Position) -> None:
        """Go there, durably.

        Raises:
            Failed: the file cannot be written.
        """
        self.position = position
        self._save()

    def heard(self, event: str) -> None:
        """Note that every result up to an event was dealt with; it is written soon."""
        # The first one at once: by it the service knows its queue from another.
        due = not self.position.event or time.monotonic() - self._saved_at >= EVENT_SECONDS
        if event != self.position.event:
            self.position = self.position._replace(event=event)
            self._unsaved = True
        if due:
            self.settle()

    def settle(self) -> None:
        """Write what is not written yet."""
        if self._unsaved:
            self._save()

    def command_lock(self) -> Lock | None:
        """Return a lock that each command shares with its follower, and keeps if that is killed.

        It is waited for, so that no command runs beside one that a killed follower has left.
        """
        if self._path is None:
            return None
        lock = Lock(f"{self._path}.exec.lock")
        if not lock.take(wait=False):
            tell("waiting for a command of a follower that was killed")
            lock.take(wait=True)
        return lock

    def _load(self, path: Path) -> None:
        try:
            kept = _position(parsed(path.read_bytes()))
        except FileNotFoundError:
            return
        except OSError as error:
            raise Failed(f"cannot read the cursor {path}: {error.strerror}") from None
        if kept is None:
            raise Failed(f"{path} is not a cursor of follow, or it is damaged; nothing was changed")
        self.position = kept

    def _save(self) -> None:
        self._unsaved = False
        if self._path is None:
            return
        # A name that nobody gives to a file: what has it is written over.
        new = Path(f"{self._path}.sanic-app-follow")
        try:
            with new.open("w", encoding="ascii") as file:
                file.write(json.dumps(self.position._asdict()) + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            if sys.platform != "win32":
                sync(self._path.parent)
        except OSError as error:
            raise Failed(f"cannot write the cursor {self._path}: {error.strerror}") from None
        self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()


class Lock:
    """An empty file that one process locks. It is never deleted: that could delete another's."""

    def __init__(self, path: str) -> None:
        """Open or create the file.

        Raises:
            Failed: that is not possible.
        """
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Failed(f"cannot open the lock {path}: {error.strerror}") from None

    def take(self, *, wait: bool) -> bool:
        """Take the lock, or wait for it; return whether it was taken."""
        try:
            lock(self.descriptor, wait=wait)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give it back, unless a child has the descriptor as well."""
        os.close(self.descriptor)


def _real_path(file: str) -> Path:
    try:
        return Path(os.path.realpath(file))
    except OSError as error:
        raise Failed(f"cannot find {file}: the working folder: {error.strerror}") from None


def _is_no_file(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        # There is none, or its lock cannot be opened either, which says why.
        return False


def _position(kept: Any) -> Position | None:
    """Return what a file holds; None when it is something else."""
    match kept:
        case {"after": int() | None as after, "last": None, "event": str(event), **other}:
            last = None
        case {
            "after": int(after),
            "last": [int(number), int(num), str(date)],
            "event": str(event),
            **other,
        } if number == after:
            last = Identity(number, num, date)
        case _:
            return None
    # True is an integer, too.
    after_is_sound = after is None or (type(after) is int and 0 <= after <= HISTORY_NUM_MAX)
    event_is_sound = event.isascii() and event.isprintable()
    sound = after_is_sound and event_is_sound and not other
    return Position(after, last, event) if sound else None
