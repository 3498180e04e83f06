"""The queue as plain lists, in the fewest words: what any store has to do too."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

from sanic_app import errors
from sanic_app.errors import Gone, Internal, KeyReused, NotFound, NotHead, QueueFull
from sanic_app.store import (
    RUN_MAX,
    Add,
    Added,
    Cancel,
    Cancelled,
    CancelRange,
    Done,
    Finish,
    PauseState,
    SetPaused,
    Write,
)
from sanic_app.task import SECOND, State, Task

KEEP = 10 * SECOND
QUEUE_MAX = 40


@dataclass
class Key:
    request: str
    added: Added
    finished_at: int | None = None


@dataclass
class Model:
    """Everything that was added, cancelled and finished."""

    queue: list[Task] = field(default_factory=list)
    history: list[Task] = field(default_factory=list)
    """Everything finished, in the order of finishing; of it ``pruned`` are not kept."""
    kept: int | None = None
    paused: bool = False
    pruned: int = 0
    keys: dict[str, Key] = field(default_factory=dict)
    stamp: int = 0

    @property
    def last(self) -> int:
        return len(self.history) + len(self.queue)

    @property
    def kept_history(self) -> list[Task]:
        return self.history[self.pruned :]

    @property
    def done(self) -> list[Task]:
        return [task for task in self.kept_history if task.state is State.DONE]

    @property
    def head(self) -> Task | None:
        return self.queue[0] if self.queue and self.queue[0].started_at is not None else None

    def commit(self, writes: list[Write], wall: int) -> list[object]:
        """Apply the writes and return their results, a refusal by its type."""
        before = deepcopy(self)
        self.stamp = max(self.stamp, wall)
        results = [self._apply(write) for write in writes]
        if (self.queue, len(self.history), self.keys, self.paused) == (
            *(before.queue, len(before.history), before.keys, before.paused),
        ):
            # Nothing happened, and time was not taken down.
            self.stamp = before.stamp
        if self.kept is not None:
            self.pruned = max(len(self.history) - self.kept, 0)
        return results

    def _apply(self, write: Write) -> object:
        match write:
            case Add():
                return self._add(write)
            case Finish():
                return self._finish(write)
            case Cancel():
                return self._cancel(write.history_num)
            case CancelRange():
                numbers = range(write.first, write.last + 1)
                return self._take_out([t for t in self.queue if t.history_num in numbers])
            case SetPaused():
                changed, self.paused = self.paused != write.paused, write.paused
                self._start()
                return PauseState(write.paused, changed)

    def _add(self, add: Add) -> object:
        known = self.keys.get(add.key or "")
        if known is not None and not self._expired(known):
            if known.request != add.request:
                return KeyReused
            return known.added._replace(replayed=True)
        if len(self.queue) + len(add.tasks) > QUEUE_MAX:
            return QueueFull
        if any(task.num >= 2**63 for task in add.tasks):
            return Internal
        idle = not self.queue and not self.paused
        first = self.last + 1
        for number, (num, timeout) in enumerate(add.tasks, first):
            self.queue.append(Task(number, num, timeout, self.stamp, State.QUEUED))
        self._start()
        added = Added(first, self.last, self.stamp, idle)
        if add.key is not None:
            self.keys[add.key] = Key(add.request, added)
        return added

    def _expired(self, key: Key) -> bool:
        return key.finished_at is not None and key.finished_at + KEEP <= self.stamp

    def _start(self) -> None:
        if self.queue and not self.paused and not self.head:
            self.queue[0] = self.queue[0]._replace(state=State.WAITING, started_at=self.stamp)

    def _finish(self, finish: Finish) -> object:
        if not self.head or self.head.history_num != finish.history_num:
            return NotHead
        done: list[Task] = []
        self.stamp = max(self.stamp, (self.head.started_at or 0) + self.head.timeout)
        while self.queue and len(done) < RUN_MAX:
            head = self.queue[0]
            if done and (head.timeout or done[0].timeout or self.paused):
                break
            done.append(
                self.queue.pop(0)._replace(
                    state=State.DONE,
                    started_at=self.stamp if done else head.started_at,
                    finished_at=self.stamp,
                )
            )
        self.history += done
        self._start()
        self._end_keys()
        return Done(done)

    def _cancel(self, number: int) -> object:
        found = [task for task in self.queue if task.history_num == number]
        if found:
            return self._take_out(found)
        if number > self.last:
            return NotFound
        kept = any(task.history_num == number for task in self.kept_history)
        return errors.AlreadyFinished if kept else Gone

    def _take_out(self, tasks: list[Task]) -> object:
        self.queue = [task for task in self.queue if task not in tasks]
        ended = [task._replace(state=State.CANCELLED, finished_at=self.stamp) for task in tasks]
        self.history += ended
        self._start()
        self._end_keys()
        return Cancelled(ended or ())

    def _end_keys(self) -> None:
        waiting = {task.history_num for task in self.queue}
        for key in self.keys.values():
            own = range(key.added.first, key.added.last + 1)
            if key.finished_at is None and waiting.isdisjoint(own):
                key.finished_at = self.stamp
