"""The tables of PostgreSQL in one open transaction.

All nodes wait for the lock while a commit waits for the server. So a commit has two messages: the
first takes the lock and reads what its writes are going to need, the second writes and commits. A
read that the first did not foresee is one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sanic_app.store import Add, Figures, Write
from sanic_app.store.keys import KeyRow
from sanic_app.store.postgres.foreseen import Foreseen
from sanic_app.store.postgres.messages import Messages, array
from sanic_app.store.postgres.opening import NOW, STATE_COLUMNS, newest_state, opened
from sanic_app.store.postgres.servers import LOCK_SECONDS, Connection
from sanic_app.store.rows import SqlRows
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Limits, NewRow, QueuedRow
from sanic_app.task import Task

TASKS_A_SECOND = 20_000
"""A large batch gets more time: a second for so many tasks."""
KINDS = {
    "history": (*["bigint"] * 4, "text", *["bigint"] * 3),
    "skipped": ("integer", *["bigint"] * 4),
}
"""The types of the columns of some tables."""


def large(writes: Sequence[Write]) -> float:
    """Return how many seconds more these writes may take than others."""
    return sum(len(write.tasks) for write in writes if isinstance(write, Add)) / TASKS_A_SECOND


class PostgresRows(SqlRows):
    """See ``Rows`` in ``transition.py``."""

    def __init__(
        self,
        connection: Connection,
        lock: int,
        writes: Sequence[Write],
        limits: Limits,
        *,
        stamps: Stamps,
        now: str,
        swept: int,
    ) -> None:
        """Take the lock in a new transaction, and read what the writes are going to need.

        ``now`` is what the server calls its time, as an expression; ``swept`` is that of the commit
        before.

        Raises:
            psycopg.Error: see ``failures.py``.
            StoreFailed: the state row is missing, or of a newer service.
        """
        self.swept = swept
        """There are no keys that ended before this stamp, once these rows are written."""
        # Up to which stamp keys are removed, and how many.
        self._sweep = (0, 0)
        self._messages = Messages(connection)
        self._foreseen = foreseen = Foreseen(writes, limits)
        reads = foreseen.statements(self._messages.literal)
        asked = stamps.asking()
        ((before, _),), state, *found = self._messages.send(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            *_patience(round(large(writes))),
            # A role may have another default, which would not wait for the standby.
            "SET LOCAL synchronous_commit = on",
            f"SELECT {NOW}, pg_advisory_xact_lock({lock})",
            # Behind the lock: each statement sees what the one before has committed.
            "EXECUTE newest_state" if now == NOW else newest_state(now),
            *reads.values(),
        )
        self.opening = opening = opened(state, before)
        self._wall = stamps.follow_server(opening.now, opening.figures.last_stamp, asked)
        foreseen.take(
            dict(zip(reads, found, strict=True)), opening.first_history_num, opening.figures
        )

    def wall(self) -> int:
        """Return the server's clock as it was under the lock, or what goes on in its place."""
        return self._wall

    def figures(self) -> Figures:
        """Return the state row."""
        return self.opening.figures

    def queue(self, rows: Sequence[NewRow]) -> None:
        """Insert into the queue."""
        self._foreseen.queue(rows)
        arrays = ", ".join(map(array, zip(*rows, strict=True)))
        self._messages.keep(f"EXECUTE add_to_queue ({arrays})")

    def queued(self, first: int, limit: int) -> list[QueuedRow]:
        """Read the queue from a number on; what is foreseen is its front."""
        known = self._foreseen.front(first, limit)
        if known is not None:
            return known
        found = super().queued(max(first, self._foreseen.first), limit)
        if first <= self._foreseen.first:
            self._foreseen.read_front(found, limit)
        return found

    def last_queued(self, first: int, last: int, limit: int) -> list[QueuedRow]:
        """Read the end of a range of the queue; what is foreseen are single rows."""
        if first == last and first in self._foreseen.rows:
            row = self._foreseen.rows[first]
            return [] if row is None else [row]
        return super().last_queued(max(first, self._foreseen.first), last, limit)

    def remove(self, first: int, last: int, count: int) -> None:
        """Delete from the queue."""
        super().remove(first, last, count)
        self._foreseen.remove(first, last)

    def append(self, tasks: Sequence[Task], finish_num: int) -> None:
        """Insert into the history."""
        super().append(tasks, finish_num)
        self._foreseen.append(task.history_num for task in tasks)

    def in_history(self, history_num: int) -> bool:
        """Look into the history."""
        known = self._foreseen.in_history
        if history_num not in known:
            known[history_num] = super().in_history(history_num)
        return known[history_num]

    def find_key(self, key: str) -> KeyRow | None:
        """Read a key."""
        keys = self._foreseen.keys
        return keys[key] if key in keys else super().find_key(key)

    def put_key(self, key: str, row: KeyRow) -> None:
        """Insert a key, or write over an expired one."""
        if key in self._foreseen.keys:
            self._foreseen.keys[key] = row
        super().put_key(key, row)

    def sweep_keys(self, until: int, limit: int) -> None:
        """Delete expired keys, those of the whole commit together."""
        self._sweep = (until, self._sweep[1] + limit)

    def write(self, figures: Figures, node: str, node_commit: int) -> None:
        """Send what is kept back, with the new state row and the node's, and commit.

        ``node_commit`` is the number of the node's commit before, whose row goes.
        """
        number = self.opening.commit_num + 1
        first = self._foreseen.first if figures.depth else figures.last_history_num + 1
        values = ", ".join(
            "NULL" if each is None else str(each) for each in (number, first, *figures)
        )
        until, limit = self._sweep
        if limit:
            # Behind the dead rows of those before: an old snapshot keeps them for hours.
            self._messages.keep(
                "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency"
                f" WHERE finished_at BETWEEN {self.swept} AND {until}"
                f" ORDER BY finished_at LIMIT {limit}) RETURNING finished_at"
            )
        found = self._messages.send(
            f"EXECUTE end_commit ({self.opening.commit_num}, '{node}', {node_commit}, {values})",
            "COMMIT",
        )
        if limit:
            ended = sorted(row[0] for row in found[-1])
            self.swept = ended[-1] if len(ended) == limit else max(self.swept, until)

    def _read(self, sql: str, *values: object) -> list[Any]:
        return self._messages.read(sql, *values)

    def _write(self, sql: str, *values: object) -> None:
        self._messages.keep(sql, *values)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], conflict: str = "") -> None:
        self._messages.insert(table, rows, KINDS[table], conflict)

    def _delete(self, table: str, column: str, first: int, last: int, count: int) -> None:
        self._messages.delete(table, column, first, last, count)


def prepare(connection: Connection) -> None:
    """Prepare the statements that nearly each commit has, once for a connection.

    PostgreSQL takes longer to parse and to plan them than to run them, while all nodes wait.
    """
    numbers = [f"${number}" for number in range(4, 6 + len(Figures._fields))]
    kinds = ", ".join(["bigint"] * len(numbers))
    statements = {
        "newest_state": newest_state(NOW),
        "add_to_queue (bigint[], bigint[], bigint[], bigint[], bigint[])": (
            "INSERT INTO queue SELECT * FROM unnest($1, $2, $3, $4, $5)"
        ),
        f"end_commit (bigint, uuid, bigint, {kinds})": (
            "WITH before AS (DELETE FROM state WHERE commit_num = $1),"
            " mine AS (DELETE FROM node_commit WHERE node = $2 AND commit_num = $3),"
            " now AS (INSERT INTO node_commit (node, commit_num) VALUES ($2, $4))"
            f" INSERT INTO state ({STATE_COLUMNS}) VALUES ({', '.join(numbers)})"
        ),
    }
    # The try before may have met a lock behind the first of them.
    prepared = (f"PREPARE {name} AS {text}" for name, text in statements.items())
    connection.execute(";".join(("DEALLOCATE ALL", *prepared)))


def _patience(seconds: int) -> Sequence[str]:
    """Have the server wait so much longer for this node, which makes the text of a large batch."""
    timeout = f"idle_in_transaction_session_timeout = '{LOCK_SECONDS + seconds}s'"
    return (f"SET LOCAL {timeout}",) if seconds else ()
