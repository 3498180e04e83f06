"""The owner's lock: one process owns a database."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sanic_app.errors import NotOwner, StartError


class FileLease:
    """The owner's lock: an empty file beside the database, locked as long as this lives.

    The file is never deleted: whoever deletes a lock file can delete a younger owner's.
    """

    def __init__(self, database: Path) -> None:
        """Take the lock.

        Raises:
            NotOwner: another process has it.
            StartError: the file cannot be made.
        """
        database = Path(os.path.realpath(database))
        path = Path(f"{database}.lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"cannot open the lock file {path}: {error.strerror}") from None
        try:
            _lock(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            raise NotOwner(f"another process owns the queue {database}") from None

    @property
    def released(self) -> bool:
        """Whether the lock was given back."""
        return self._descriptor < 0

    def release(self) -> None:
        """Give the lock back; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
