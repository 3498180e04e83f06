"""What a real service process asked of its disk and told its clients, in one order.

strace writes down each call with all its bytes. A write counts from its beginning and a sync only
at its end; an answer counts from its beginning. So what an answer promises had to be on the disk
before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.proof.service import DATABASE

CALLS = (
    *("openat", "pwrite64", "ftruncate", "fdatasync", "fsync", "rename", "unlink"),
    *("write", "sendto"),
)
OPTIONS = ("-xx", "-s", "4000000")
_CALL = re.compile(r"(\d+) +[\d.]+ (\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +[\d.]+ <\.\.\. (\w+) resumed>(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"\d+<((?:\\x[0-9a-f]{2})*)")


@dataclass(frozen=True, slots=True)
class Create:
    """A name for a new file, if there is none of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Put:
    """Bytes at a place in a file."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """A file's new length."""

    name: str
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's bytes, or with no name the folder's names, are on the disk; or not."""

    name: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """Another name for a file."""

    name: str
    new: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """One name less."""

    name: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A client was told that a task is in the queue."""

    history_num: int
    num: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A client was shown numbers of tasks that are done."""

    history_nums: tuple[int, ...]


Event = Create | Put | Cut | Sync | Rename | Unlink | Acknowledged | Shown


def events(trace: Path, folder: Path) -> Iterator[Event]:
    """Read a trace; what concerns other files than those of the database is left out."""
    unfinished: dict[str, str] = {}
    with trace.open(encoding="ascii") as lines:
        for line in lines:
            if match := _CALL.match(line):
                process, call, rest = match.groups()
                if "<unfinished ...>" in rest:
                    unfinished[process] = rest
                yield from _begun(call, rest, folder)
                if "<unfinished ...>" not in rest:
                    yield from _ended(call, rest, rest, folder)
            elif match := _RESUMED.match(line):
                process, call, rest = match.groups()
                yield from _ended(call, unfinished.pop(process), rest, folder)


def _begun(call: str, rest: str, folder: Path) -> Iterator[Event]:
    match call:
        case "pwrite64" if name := _name(_path(rest), folder):
            yield Put(name, int(rest.rpartition(",")[2].split(")")[0].split()[0]), _bytes(rest))
        case "write" | "sendto":
            yield from _answer(_bytes(rest))


def _ended(call: str, rest: str, end: str, folder: Path) -> Iterator[Event]:
    failed = re.search(r"\) += -1 ", end) is not None
    match call:
        case "openat" if (
            "O_CREAT" in rest and not failed and (name := _name(_texts(rest)[0], folder))
        ):
            yield Create(name)
        case "fdatasync" | "fsync":
            path = _path(rest)
            if path == str(folder) or _name(path, folder):
                yield Sync(_name(path, folder) or "", failed)
        case "ftruncate" if not failed and (name := _name(_path(rest), folder)):
            yield Cut(name, int(rest.split(",")[1].split(")", maxsplit=1)[0].split(maxsplit=1)[0]))
        case "rename" if not failed:
            old, new = (_name(path, folder) for path in _texts(rest))
            if old and new:
                yield Rename(old, new)
        case "unlink" if not failed and (name := _name(_texts(rest)[0], folder)):
            yield Unlink(name)


def _answer(data: bytes) -> Iterator[Event]:
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 20") or not body.startswith(b"{"):
        return
    document = json.loads(body)
    if "history_num" in document:
        yield Acknowledged(document["history_num"], document["num"])
    elif "results" in document:
        yield Shown(tuple(result["history_num"] for result in document["results"]))


def _name(path: str, folder: Path) -> str:
    """Return the file's name if it is one that must outlive a power cut, else nothing."""
    if not path.startswith(f"{folder}/{DATABASE}") or path.endswith(("-shm", ".lock")):
        return ""
    return path.rpartition("/")[2]


def _path(rest: str) -> str:
    match = _DESCRIPTOR.match(rest)
    return _unhex(match[1]).decode() if match else ""


def _texts(rest: str) -> list[str]:
    return [_unhex(text).decode() for text in _STRING.findall(rest)]


def _bytes(rest: str) -> bytes:
    match = _STRING.search(rest)
    return _unhex(match[1]) if match else b""


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
