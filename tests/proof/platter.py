"""A disk that keeps what was synced, and of the rest whatever chance says.

What a sync reported as done stays. Of what came after it each write may be there, missing, or
torn: some of its sectors. A write whose sync failed may be missing for ever, also behind later
syncs that succeed: the kernel drops such pages. Names change in order (a journal), and are there
for certain when the folder was synced.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from tests.proof.recording import Create, Cut, Event, Put, Rename, Sync, Unlink

SECTOR = 512


class _State(Enum):
    SURE = auto()
    OPEN = auto()
    DOUBTFUL = auto()


@dataclass(slots=True)
class _Change:
    event: Put | Cut
    state: _State = _State.OPEN


@dataclass(slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)

    def sync(self, *, failed: bool) -> None:
        """Make sure of what is open; or never be sure of it again."""
        for change in self.changes:
            if change.state is _State.OPEN:
                change.state = _State.DOUBTFUL if failed else _State.SURE
        while self.changes and self.changes[0].state is _State.SURE:
            _apply(self.content, self.changes.pop(0).event)

    def chosen(self, chance: random.Random) -> bytes:
        """Return what the disk may hold of it."""
        content = bytearray(self.content)
        likely = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        torn = chance.choice((0.0, 0.0, 0.3))
        for change in self.changes:
            if change.state is _State.SURE or chance.random() < likely:
                _apply(content, change.event)
            elif isinstance(change.event, Put) and chance.random() < torn:
                _tear(content, change.event, chance)
        return bytes(content)


class Platter:
    """The files of one folder; on one that lies a sync changes nothing."""

    def __init__(self, *, lies: bool = False) -> None:
        self._lies = lies
        self._names: dict[str, _File] = {}
        self._sure_names: dict[str, _File] = {}
        # Each is what some names mean from then on, all at once.
        self._namings: list[dict[str, _File | None]] = []

    def take(self, event: Event) -> None:
        """Do what the service asked for."""
        match event:
            case Put(name) | Cut(name):
                # A file that was unlinked while it was open leaves nothing behind.
                if name in self._names:
                    self._names[name].changes.append(_Change(event))
            case Sync(name, failed):
                self._sync(name, failed)
            case Create(name):
                if name not in self._names:
                    self._call({name: _File()})
            case Rename(name, new):
                self._call({name: None, new: self._names[name]})
            case Unlink(name):
                self._call({name: None})

    def image(self, chance: random.Random, folder: Path) -> None:
        """Write down what the disk may hold if the power goes now."""
        names = dict(self._sure_names)
        count = len(self._namings)
        for naming in self._namings[: chance.choice((count, chance.randint(0, count)))]:
            _take_names(names, naming)
        for name, file in names.items():
            (folder / name).write_bytes(file.chosen(chance))

    def _call(self, naming: dict[str, _File | None]) -> None:
        _take_names(self._names, naming)
        self._namings.append(naming)

    def _sync(self, name: str, failed: bool) -> None:
        if self._lies:
            return
        if name in self._names:
            self._names[name].sync(failed=failed)
        elif not name and not failed:
            self._sure_names = dict(self._names)
            self._namings.clear()


def _take_names(names: dict[str, _File], naming: dict[str, _File | None]) -> None:
    for name, file in naming.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _apply(content: bytearray, event: Put | Cut) -> None:
    match event:
        case Put(_, offset, data):
            content.extend(bytes(max(offset + len(data) - len(content), 0)))
            content[offset : offset + len(data)] = data
        case Cut(_, length):
            content.extend(bytes(max(length - len(content), 0)))
            del content[length:]


def _tear(content: bytearray, event: Put, chance: random.Random) -> None:
    """Write some of the sectors that a write covers."""
    end = event.offset + len(event.data)
    first = event.offset
    while first < end:
        last = min((first // SECTOR + 1) * SECTOR, end)
        if chance.random() < 0.5:
            piece = event.data[first - event.offset : last - event.offset]
            _apply(content, Put(event.name, first, piece))
        first = last
