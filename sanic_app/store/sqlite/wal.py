"""Whether the WAL of an open database still ends as SQLite, in this process, left it.

SQLite knows the end of the WAL from its index, and does not look again. When somebody cuts the WAL
or writes over it, commits go on behind a hole, and a restart finds none of them.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_INDEX = struct.Struct("=I10xHI4xII8s")
"""Of the index (sqlite.org/walformat.html, 2.1): version, page size, frames, sums, salts."""
_VERSION = 3_007_000
_HEADER_BYTES = 32
_FRAME_BYTES = 24
_SALT_AT = 16


class _Frame(NamedTuple):
    """The last frame of a commit. Its salts and sums cover everything before it."""

    offset: int
    content: bytes


class Wal:
    """The WAL of one database, while this process has it open."""

    def __init__(self, path: Path) -> None:
        """Take the path of the WAL, and that of its index; nothing is opened yet."""
        self._paths = path, path.with_name(f"{path.name.removesuffix('-wal')}-shm")
        self._files: list[int] = []
        self._index: mmap.mmap | None = None
        self._last: _Frame | None = None

    def open(self) -> None:
        """Open it behind SQLite's connections, once; only where files and memory are known as one.

        Raises:
            OSError: it cannot be opened.
        """
        if self._index is not None or sys.platform != "linux":
            return
        with suppress(FileNotFoundError):
            self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self._paths]
            self._index = mmap.mmap(self._files[1], _INDEX.size, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Close it behind SQLite's connections: before, that would drop their locks."""
        if self._index is not None:
            self._index.close()
        while self._files:
            os.close(self._files.pop())
        self._index = self._last = None

    def is_whole(self) -> bool:
        """Return whether it holds what was committed. Only between commits; some microseconds."""
        if self._index is None:
            return True
        version, page, frames, first, second, salts = _INDEX.unpack_from(self._index)
        before, self._last = self._last, None
        if version != _VERSION or frames == 0:
            # All of it is in the database.
            return True
        # 1 stands for 65,536.
        size = _FRAME_BYTES + (page & 0xFE00) + ((page & 1) << 16)
        last = self._read(_HEADER_BYTES + (frames - 1) * size, size)
        mark = salts + struct.pack(">II", first, second)
        if len(last.content) != size or last.content[8:_FRAME_BYTES] != mark:
            return False
        self._last = last
        if os.pread(self._files[0], len(salts), _SALT_AT) != salts:
            return False
        # The frame of the commit before as well: behind a hole the last one alone looks right.
        if before is None or before.content[8:16] != salts:
            return True
        return before == self._read(before.offset, size)

    def _read(self, offset: int, size: int) -> _Frame:
        return _Frame(offset, os.pread(self._files[0], size, offset))
