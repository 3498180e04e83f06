-- The queue, the history and the state row.
--
-- All times are stamps: microseconds since 1970 in UTC, which never go back.
-- All timeouts are microseconds.

-- What is not finished yet. The order of the history number is the order of the queue.
CREATE TABLE queue (
    history_num INTEGER PRIMARY KEY CHECK (history_num > 0),
    num         INTEGER NOT NULL,
    timeout     INTEGER NOT NULL CHECK (timeout >= 0),
    created_at  INTEGER NOT NULL CHECK (created_at >= 0),
    -- The sum of all timeouts ever added, this one included, modulo 2^63: the waits between two
    -- tasks of the queue are the difference of their sums (their own sum is below 2^63).
    wait_sum    INTEGER NOT NULL CHECK (wait_sum >= 0)
) STRICT;

-- What is finished. The result list is the num of the done ones in this order.
CREATE TABLE history (
    history_num INTEGER PRIMARY KEY CHECK (history_num > 0),
    num         INTEGER NOT NULL,
    timeout     INTEGER NOT NULL CHECK (timeout >= 0),
    created_at  INTEGER NOT NULL CHECK (created_at >= 0),
    outcome     TEXT    NOT NULL CHECK (outcome IN ('done', 'cancelled')),
    started_at  INTEGER CHECK (started_at >= created_at),
    finished_at INTEGER NOT NULL CHECK (finished_at >= created_at),
    finish_num  INTEGER NOT NULL UNIQUE CHECK (finish_num > 0),
    -- Never early: a done task was started and waited for its whole timeout.
    CHECK (outcome <> 'done' OR (started_at IS NOT NULL AND finished_at >= started_at + timeout)),
    CHECK (started_at IS NULL OR finished_at >= started_at)
) STRICT;

-- Cancelled tasks whose turn has not come: those between the first of the queue and its end. The
-- place of a task is its distance from the first, less the skipped ones between; the wait sums
-- count their timeouts too. Kept apart from the history, so that retention may remove them there.
CREATE TABLE skipped (
    history_num INTEGER PRIMARY KEY CHECK (history_num > 0),
    timeout     INTEGER NOT NULL CHECK (timeout >= 0)
) STRICT;

-- One row with what must never be counted. Every commit that changes a table changes it too.
CREATE TABLE state (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    last_history_num  INTEGER NOT NULL CHECK (last_history_num >= 0),
    last_finish_num   INTEGER NOT NULL CHECK (last_finish_num >= 0),
    last_stamp        INTEGER NOT NULL CHECK (last_stamp >= 0),
    wait_sum          INTEGER NOT NULL CHECK (wait_sum >= 0),
    depth             INTEGER NOT NULL CHECK (depth >= 0),
    -- The sum of the timeouts of the queue, the head's whole timeout included.
    backlog           INTEGER NOT NULL CHECK (backlog >= 0),
    -- The created_at of the first task of the queue.
    oldest_created_at INTEGER,
    paused            INTEGER NOT NULL CHECK (paused IN (0, 1)),
    head              INTEGER REFERENCES queue (history_num) DEFERRABLE INITIALLY DEFERRED,
    head_started_at   INTEGER,
    -- Finished tasks that retention has removed: the finish numbers from 1 to this.
    pruned            INTEGER NOT NULL CHECK (pruned BETWEEN 0 AND last_finish_num),
    CHECK (depth = last_history_num - last_finish_num),
    CHECK (depth > 0 OR (backlog = 0 AND head IS NULL)),
    CHECK ((depth = 0) = (oldest_created_at IS NULL)),
    CHECK ((head IS NULL) = (head_started_at IS NULL)),
    -- The first task of a queue that is not paused has been started.
    CHECK (head IS NOT NULL OR depth = 0 OR paused = 1)
) STRICT;

INSERT INTO state (
    id, last_history_num, last_finish_num, last_stamp, wait_sum, depth, backlog,
    oldest_created_at, paused, head, head_started_at, pruned
) VALUES (1, 0, 0, 0, 0, 0, 0, NULL, 0, NULL, NULL, 0);

-- What was answered to an add that carried an idempotency key.
CREATE TABLE idempotency (
    key         TEXT    PRIMARY KEY,
    -- The request after parsing, in a form that is equal exactly when the requests are.
    request     TEXT    NOT NULL,
    first       INTEGER NOT NULL CHECK (first > 0),
    last        INTEGER NOT NULL CHECK (last >= first),
    created_at  INTEGER NOT NULL,
    -- Whether the add's own commit started its first task.
    started     INTEGER NOT NULL CHECK (started IN (0, 1)),
    -- When the last of its tasks was finished.
    finished_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX idempotency_last ON idempotency (last);
CREATE INDEX idempotency_finished ON idempotency (finished_at) WHERE finished_at IS NOT NULL;
