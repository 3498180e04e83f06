-- The queue, the history and the state row.
--
-- All times are stamps: microseconds since 1970 in UTC, which never go back. Timeouts are
-- microseconds too.

-- Tasks that are not finished yet. The queue has the order of the history numbers.
CREATE TABLE queue (
    history_num INTEGER PRIMARY KEY CHECK (history_num > 0),
    num         INTEGER NOT NULL,
    timeout     INTEGER NOT NULL CHECK (timeout >= 0),
    created_at  INTEGER NOT NULL CHECK (created_at >= 0),
    -- The sum of all timeouts up to this task, including its own, modulo 2^63. The wait between
    -- two tasks of the queue is the difference of their sums; it is always below 2^63.
    wait_sum    INTEGER NOT NULL CHECK (wait_sum >= 0)
) STRICT;

-- Finished tasks. The result list is the num of the done tasks, in the order of this table.
CREATE TABLE history (
    history_num INTEGER PRIMARY KEY CHECK (history_num > 0),
    num         INTEGER NOT NULL,
    timeout     INTEGER NOT NULL CHECK (timeout >= 0),
    created_at  INTEGER NOT NULL CHECK (created_at >= 0),
    outcome     TEXT    NOT NULL CHECK (outcome IN ('done', 'cancelled')),
    started_at  INTEGER CHECK (started_at >= created_at),
    finished_at INTEGER NOT NULL CHECK (finished_at >= created_at),
    finish_num  INTEGER NOT NULL UNIQUE CHECK (finish_num > 0),
    -- Never early: a done task was started, and its whole timeout is over.
    CHECK (outcome <> 'done' OR (started_at IS NOT NULL AND finished_at >= started_at + timeout)),
    CHECK (started_at IS NULL OR finished_at >= started_at)
) STRICT;

-- Cancelled tasks between the first task of the queue and its end. The position of a task is its
-- distance from the first task, minus the skipped tasks between them. The wait sums include skipped
-- tasks too, so their timeouts are subtracted. The history cannot replace this table, because
-- retention removes tasks from it.
CREATE TABLE skipped (
    history_num INTEGER PRIMARY KEY CHECK (history_num > 0),
    timeout     INTEGER NOT NULL CHECK (timeout >= 0)
) STRICT;

-- One row with the figures that would otherwise have to be counted. Every commit that changes
-- another table changes this row too.
CREATE TABLE state (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    last_history_num  INTEGER NOT NULL CHECK (last_history_num >= 0),
    last_finish_num   INTEGER NOT NULL CHECK (last_finish_num >= 0),
    last_stamp        INTEGER NOT NULL CHECK (last_stamp >= 0),
    wait_sum          INTEGER NOT NULL CHECK (wait_sum >= 0),
    depth             INTEGER NOT NULL CHECK (depth >= 0),
    -- The sum of all timeouts in the queue, including the whole timeout of the head.
    backlog           INTEGER NOT NULL CHECK (backlog >= 0),
    -- The created_at of the first task of the queue.
    oldest_created_at INTEGER,
    paused            INTEGER NOT NULL CHECK (paused IN (0, 1)),
    head              INTEGER REFERENCES queue (history_num) DEFERRABLE INITIALLY DEFERRED,
    head_started_at   INTEGER,
    -- Retention has removed the finishes with numbers from 1 to this one.
    pruned            INTEGER NOT NULL CHECK (pruned BETWEEN 0 AND last_finish_num),
    CHECK (depth = last_history_num - last_finish_num),
    CHECK (depth > 0 OR (backlog = 0 AND head IS NULL)),
    CHECK ((depth = 0) = (oldest_created_at IS NULL)),
    CHECK ((head IS NULL) = (head_started_at IS NULL)),
    -- A queue that is neither empty nor paused has a head.
    CHECK (head IS NOT NULL OR depth = 0 OR paused = 1)
) STRICT;

INSERT INTO state (
    id, last_history_num, last_finish_num, last_stamp, wait_sum, depth, backlog,
    oldest_created_at, paused, head, head_started_at, pruned
) VALUES (1, 0, 0, 0, 0, 0, 0, NULL, 0, NULL, NULL, 0);

-- The answers to adds with an idempotency key.
CREATE TABLE idempotency (
    key         TEXT    PRIMARY KEY,
    -- The parsed request as a text. Two texts are equal exactly when the requests are equal.
    request     TEXT    NOT NULL,
    first       INTEGER NOT NULL CHECK (first > 0),
    last        INTEGER NOT NULL CHECK (last >= first),
    created_at  INTEGER NOT NULL,
    -- Whether the commit of the add also started its first task.
    started     INTEGER NOT NULL CHECK (started IN (0, 1)),
    -- When its last unfinished task ended. The key's lifetime starts here.
    finished_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX idempotency_last ON idempotency (last);
CREATE INDEX idempotency_finished ON idempotency (finished_at) WHERE finished_at IS NOT NULL;
