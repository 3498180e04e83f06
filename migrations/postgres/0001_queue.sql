-- The queue, the history and the state row, as in migrations/sqlite. The statements run with the
-- queue's own schema as search path.
--
-- All times are stamps: microseconds since 1970 in UTC, which never go back. Timeouts are
-- microseconds too.

-- One row about the whole queue. Commits only read it.
CREATE TABLE meta (
    id                 integer PRIMARY KEY CHECK (id = 1),
    -- The number of the last migration.
    schema             integer NOT NULL CHECK (schema > 0),
    -- The number of the last migration that a node must know to go on.
    compatible_from    integer NOT NULL CHECK (compatible_from BETWEEN 1 AND schema),
    -- New in each copy of a queue.
    lineage            uuid    NOT NULL DEFAULT gen_random_uuid(),
    -- What all nodes have to agree on; null until the first node has started.
    idempotency_keep   bigint  CHECK (idempotency_keep >= 0),
    history_keep_tasks bigint  CHECK (history_keep_tasks > 0),
    history_keep_age   bigint  CHECK (history_keep_age > 0)
);

INSERT INTO meta (id, schema, compatible_from) VALUES (1, 1, 1);

-- Tasks that are not finished yet. The queue has the order of the history numbers.
CREATE TABLE queue (
    history_num bigint PRIMARY KEY CHECK (history_num > 0),
    num         bigint NOT NULL,
    timeout     bigint NOT NULL CHECK (timeout >= 0),
    created_at  bigint NOT NULL CHECK (created_at >= 0),
    -- The sum of all timeouts up to this task, including its own, modulo 2^63.
    wait_sum    bigint NOT NULL CHECK (wait_sum >= 0)
);

-- Finished tasks. The result list is the num of the done tasks, in the order of this table.
CREATE TABLE history (
    history_num bigint PRIMARY KEY CHECK (history_num > 0),
    num         bigint NOT NULL,
    timeout     bigint NOT NULL CHECK (timeout >= 0),
    created_at  bigint NOT NULL CHECK (created_at >= 0),
    outcome     text   NOT NULL CHECK (outcome IN ('done', 'cancelled')),
    started_at  bigint CHECK (started_at >= created_at),
    finished_at bigint NOT NULL CHECK (finished_at >= created_at),
    finish_num  bigint NOT NULL UNIQUE CHECK (finish_num > 0),
    -- Never early: a done task was started, and its whole timeout is over.
    CHECK (outcome <> 'done' OR (started_at IS NOT NULL AND finished_at >= started_at + timeout)),
    CHECK (started_at IS NULL OR finished_at >= started_at)
);

-- Results are read past any number of cancelled tasks.
CREATE INDEX history_done ON history (history_num) WHERE outcome = 'done';

-- Cancelled tasks between the first task of the queue and its end, counted in blocks: see
-- sanic_app/store/skipped.py.
CREATE TABLE skipped (
    level   integer NOT NULL CHECK (level BETWEEN 0 AND 3),
    -- A history number divided by the width of the level's blocks.
    block   bigint  NOT NULL CHECK (block >= 0),
    tasks   bigint  NOT NULL CHECK (tasks > 0),
    -- The sum of their timeouts, whole seconds and the rest apart: together they can exceed 64 bits.
    seconds bigint  NOT NULL CHECK (seconds >= 0),
    micros  bigint  NOT NULL CHECK (micros >= 0),
    PRIMARY KEY (level, block)
);

-- The figures that would otherwise have to be counted, as of the newest commit. Each commit that
-- changes something inserts a row and deletes the one before. An updated row would be a chain of
-- dead versions while an old snapshot, such as a dump, is open; the newest key is found at once.
CREATE TABLE state (
    commit_num        bigint PRIMARY KEY CHECK (commit_num >= 0),
    last_history_num  bigint NOT NULL CHECK (last_history_num >= 0),
    last_finish_num   bigint NOT NULL CHECK (last_finish_num >= 0),
    last_stamp        bigint NOT NULL CHECK (last_stamp >= 0),
    wait_sum          bigint NOT NULL CHECK (wait_sum >= 0),
    depth             bigint NOT NULL CHECK (depth >= 0),
    -- The sum of all timeouts in the queue, including the whole timeout of the head.
    backlog           bigint NOT NULL CHECK (backlog >= 0),
    -- The created_at of the first task of the queue.
    oldest_created_at bigint,
    paused            bigint NOT NULL CHECK (paused IN (0, 1)),
    -- No foreign key: its checks would look for this number in all the dead rows of this table.
    head              bigint,
    head_started_at   bigint,
    -- Retention has removed the finishes with numbers from 1 to this one.
    pruned            bigint NOT NULL CHECK (pruned BETWEEN 0 AND last_finish_num),
    -- No task of the queue has a smaller number. Reads begin here, behind the dead rows of the
    -- tasks that are finished.
    first_history_num bigint NOT NULL CHECK (first_history_num BETWEEN 1 AND last_history_num + 1),
    CHECK (depth = last_history_num - last_finish_num),
    CHECK (depth > 0 OR (backlog = 0 AND head IS NULL)),
    CHECK ((depth = 0) = (oldest_created_at IS NULL)),
    CHECK ((head IS NULL) = (head_started_at IS NULL)),
    CHECK (head IS NULL OR head >= first_history_num),
    -- A queue that is neither empty nor paused has a head.
    CHECK (head IS NOT NULL OR depth = 0 OR paused = 1)
);

INSERT INTO state VALUES (0, 0, 0, 0, 0, 0, 0, NULL, 0, NULL, NULL, 0, 1);

-- The answers to adds with an idempotency key.
CREATE TABLE idempotency (
    key         text    PRIMARY KEY,
    -- The parsed request as a text. Two texts are equal exactly when the requests are equal.
    request     text    NOT NULL,
    first       bigint  NOT NULL CHECK (first > 0),
    last        bigint  NOT NULL CHECK (last >= first),
    created_at  bigint  NOT NULL,
    -- Whether the commit of the add also started its first task.
    started     integer NOT NULL CHECK (started IN (0, 1)),
    -- When its last unfinished task ended. The key's lifetime starts here.
    finished_at bigint
);

CREATE UNIQUE INDEX idempotency_last ON idempotency (last);
CREATE INDEX idempotency_finished ON idempotency (finished_at) WHERE finished_at IS NOT NULL;

-- The newest commit of each node, by which a node learns whether a commit without an answer was
-- applied. Appended like the state row.
CREATE TABLE node_commit (
    node         uuid        NOT NULL,
    commit_num   bigint      NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (node, commit_num)
);

-- Written by a node that resolves such a commit: the wait for this write to be durable covers
-- everything before it.
CREATE TABLE node (
    node     uuid        PRIMARY KEY,
    resolves bigint      NOT NULL DEFAULT 0,
    seen_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Rows die here as fast as they are written, in places where nothing else is.
ALTER TABLE queue SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE state SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE node_commit SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
