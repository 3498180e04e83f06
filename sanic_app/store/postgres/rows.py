"""The tables of PostgreSQL in one open transaction.

All nodes wait for the lock while a commit waits for the server. So a commit has two messages: the
first takes the lock and reads what its writes are going to need, the second writes and commits. A
read that the first did not foresee is one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sanic_app.errors import StoreFailed
from sanic_app.store import Add, Figures, Write
from sanic_app.store.keys import KeyRow
from sanic_app.store.migrations import migrations
from sanic_app.store.postgres.foreseen import KEY, NEWEST, QUEUED, Foreseen
from sanic_app.store.postgres.messages import Messages, array
from sanic_app.store.postgres.servers import LOCK_SECONDS, Connection
from sanic_app.store.skipped import Block
from sanic_app.store.stamps import Stamps
from sanic_app.store.transition import Limits, NewRow, QueuedRow, history_rows
from sanic_app.task import Task

NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The server's clock in microseconds."""
LINEAGE = "replace(lineage::text, '-', '')"
SCHEMA_NUMBER = "current_schema()::regnamespace::oid::bigint"
"""A schema that a dump was restored into has another one, and the lock of the commits too."""
AGREED = "idempotency_keep, history_keep_tasks, history_keep_age"
"""The settings that concern the whole queue."""

TASKS_A_SECOND = 20_000
"""A large batch gets more time: a second for so many tasks."""

_STATE_COLUMNS = f"commit_num, first_history_num, {', '.join(Figures._fields)}"


def large(writes: Sequence[Write]) -> float:
    """Return how many seconds more these writes may take than others."""
    return sum(len(write.tasks) for write in writes if isinstance(write, Add)) / TASKS_A_SECOND


class Opening(NamedTuple):
    """The state row under the lock."""

    commit_num: int
    first_history_num: int
    figures: Figures
    now: int
    """The server's clock after the wait for the lock."""
    lineage: str
    schema_number: int
    agreed: tuple[int | None, ...]
    """The settings that concern the whole queue."""
    lock_wait: float
    """In seconds."""


class PostgresRows:
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
        reads = foreseen.statements(self._messages.text)
        asked = stamps.asking()
        ((before, _),), state, *found = self._messages.send(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            *_patience(round(large(writes))),
            # A role may have another default, which would not wait for the standby.
            "SET LOCAL synchronous_commit = on",
            f"SELECT {NOW}, pg_advisory_xact_lock({lock})",
            # Behind the lock: each statement sees what the one before has committed.
            "EXECUTE newest_state" if now == NOW else _newest_state(now),
            *reads.values(),
        )
        self.opening = opening = _opening(state, before)
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

    # The queue.

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
        low = max(first, self._foreseen.first)
        found = self._messages.read(
            f"{QUEUED} WHERE history_num >= {low} ORDER BY history_num LIMIT {limit}"
        )
        if first <= self._foreseen.first:
            self._foreseen.read_front(found, limit)
        return found

    def last_queued(self, first: int, last: int, limit: int) -> list[QueuedRow]:
        """Read the end of a range of the queue; what is foreseen are single rows."""
        if first == last and first in self._foreseen.rows:
            row = self._foreseen.rows[first]
            return [] if row is None else [row]
        low = max(first, self._foreseen.first)
        found = self._messages.read(
            f"{QUEUED} WHERE history_num BETWEEN {low} AND {last}"
            f" ORDER BY history_num DESC LIMIT {limit}"
        )
        return found[::-1]

    def remove(self, first: int, last: int, count: int) -> None:
        """Delete from the queue."""
        self._messages.delete("queue", "history_num", first, last, count)
        self._foreseen.remove(first, last)

    def skip(self, blocks: Sequence[Block]) -> None:
        """Add to the skipped."""
        added = ", ".join(
            f"{each} = skipped.{each} + excluded.{each}" for each in Block._fields[2:]
        )
        kinds = ("integer", "bigint", "bigint", "bigint", "bigint")
        conflict = f" ON CONFLICT (level, block) DO UPDATE SET {added}"
        self._messages.insert("skipped", blocks, kinds, conflict)

    def forget_skipped(self, passed: Sequence[tuple[int, int]], limit: int) -> None:
        """Delete from the skipped."""
        self._messages.keep(
            "DELETE FROM skipped WHERE (level, block) IN ("
            f" SELECT skipped.level, block FROM (VALUES {', '.join(map(str, passed))})"
            " AS passed (level, ending) CROSS JOIN skipped"
            f" WHERE skipped.level = passed.level AND block < ending LIMIT {limit})"
        )

    # The history.

    def append(self, tasks: Sequence[Task], finish_num: int) -> None:
        """Insert into the history."""
        self._foreseen.append(task.history_num for task in tasks)
        kinds = ("bigint", "bigint", "bigint", "bigint", "text", "bigint", "bigint", "bigint")
        self._messages.insert("history", history_rows(tasks, finish_num), kinds)

    def in_history(self, history_num: int) -> bool:
        """Look into the history."""
        known = self._foreseen.in_history
        if history_num not in known:
            found = self._messages.read(f"SELECT 1 FROM history WHERE history_num = {history_num}")
            known[history_num] = bool(found)
        return known[history_num]

    def next_finished_at(self, finish_num: int) -> int | None:
        """Read the next finish of the history."""
        found = self._messages.read(
            f"SELECT finished_at FROM history WHERE finish_num > {finish_num}"
            " ORDER BY finish_num LIMIT 1"
        )
        return found[0][0] if found else None

    def count_finished(self, finish_num: int, until: int, limit: int) -> int:
        """Count the next finishes of the history."""
        ((count,),) = self._messages.read(
            f"SELECT count(*) FROM (SELECT finished_at FROM history WHERE finish_num > {finish_num}"
            f" ORDER BY finish_num LIMIT {limit}) AS next WHERE finished_at <= {until}"
        )
        return int(count)

    def prune(self, first: int, last: int, count: int) -> None:
        """Delete from the history."""
        self._messages.delete("history", "finish_num", first, last, count)

    # The keys.

    def find_key(self, key: str) -> KeyRow | None:
        """Read a key."""
        if key in self._foreseen.keys:
            return self._foreseen.keys[key]
        found = self._messages.read(f"{KEY} WHERE key = {self._messages.text(key)}")
        return KeyRow(*found[0][1:]) if found else None

    def put_key(self, key: str, row: KeyRow) -> None:
        """Insert a key, or write over an expired one."""
        if key in self._foreseen.keys:
            self._foreseen.keys[key] = row
        ended = "NULL" if row.finished_at is None else row.finished_at
        names = ", ".join(KeyRow._fields)
        text = self._messages.text
        self._messages.keep(
            f"INSERT INTO idempotency (key, {names}) VALUES ({text(key)},"
            f" {text(row.request)}, {row.first}, {row.last}, {row.created_at}, {row.started},"
            f" {ended}) ON CONFLICT (key) DO UPDATE SET ({names}) ="
            f" (excluded.{', excluded.'.join(KeyRow._fields)})"
        )

    def end_keys(self, first: int, last: int, stamp: int) -> None:
        """Update the keys of removed tasks. Keys do not overlap: at most one reaches beyond."""
        self._messages.keep(
            f"UPDATE idempotency SET finished_at = {stamp} WHERE last BETWEEN {first} AND coalesce("
            f"(SELECT min(last) FROM idempotency WHERE last > {last}), 9223372036854775807)"
            " AND finished_at IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM queue WHERE history_num BETWEEN first AND last)"
        )

    def sweep_keys(self, until: int, limit: int) -> None:
        """Delete expired keys, those of the whole commit together."""
        self._sweep = (until, self._sweep[1] + limit)

    # The end.

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


def prepare(connection: Connection) -> None:
    """Prepare the statements that nearly each commit has, once for a connection.

    PostgreSQL takes longer to parse and to plan them than to run them, while all nodes wait.
    """
    numbers = [f"${number}" for number in range(4, 6 + len(Figures._fields))]
    kinds = ", ".join(["bigint"] * len(numbers))
    statements = {
        "newest_state": _newest_state(NOW),
        "add_to_queue (bigint[], bigint[], bigint[], bigint[], bigint[])": (
            "INSERT INTO queue SELECT * FROM unnest($1, $2, $3, $4, $5)"
        ),
        f"end_commit (bigint, uuid, bigint, {kinds})": (
            "WITH before AS (DELETE FROM state WHERE commit_num = $1),"
            " mine AS (DELETE FROM node_commit WHERE node = $2 AND commit_num = $3),"
            " now AS (INSERT INTO node_commit (node, commit_num) VALUES ($2, $4))"
            f" INSERT INTO state ({_STATE_COLUMNS}) VALUES ({', '.join(numbers)})"
        ),
    }
    # The try before may have met a lock behind the first of them.
    prepared = (f"PREPARE {name} AS {text}" for name, text in statements.items())
    connection.execute(";".join(("DEALLOCATE ALL", *prepared)))


def _patience(seconds: int) -> Sequence[str]:
    """Have the server wait so much longer for this node, which makes the text of a large batch."""
    timeout = f"idle_in_transaction_session_timeout = '{LOCK_SECONDS + seconds}s'"
    return (f"SET LOCAL {timeout}",) if seconds else ()


def _newest_state(now: str) -> str:
    return (
        f"SELECT {_STATE_COLUMNS}, {now}, {LINEAGE}, {SCHEMA_NUMBER}, {AGREED}, compatible_from,"
        f" {NOW} FROM state, meta WHERE {NEWEST}"
    )


def _opening(rows: list[Any], before: int) -> Opening:
    if not rows:
        raise StoreFailed("corrupt", "the state row is missing")
    commit_num, first, *figures, now, lineage, schema, keep, tasks, age, known_from, after = rows[0]
    if known_from > len(migrations("postgres")):
        raise StoreFailed(
            "other", "the schema was migrated by a newer service, which this one cannot join"
        )
    return Opening(
        commit_num,
        first,
        Figures(*figures),
        now,
        lineage,
        schema,
        (keep, tasks, age),
        max(after - before, 0) / 1_000_000,
    )
