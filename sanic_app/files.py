"""Files where operating systems differ: a lock that ends with its process, and a sync."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def lock(descriptor: int, *, wait: bool = False) -> None:
        """Lock a file until the descriptor is closed."""
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def lock(descriptor: int, *, wait: bool = False) -> None:
        """Lock a file until the descriptor is closed.

        Raises:
            OSError: it is locked already, and this does not ``wait``.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def sync(path: Path) -> None:
    """Make a file durable or, where folders can be opened, the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
