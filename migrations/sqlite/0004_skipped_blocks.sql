-- The place of a task in the queue, and a page of results, however many tasks were cancelled.

-- Cancelled tasks between the first task of the queue and its end, counted in blocks: see
-- sanic_app/store/skipped.py. A block of level 0 is one task, one of the next level has 64 history
-- numbers, then 4,096 and 262,144. The position of a task is its distance from the first task, minus
-- the skipped tasks between them. The wait sums include skipped tasks too, so their timeouts are
-- subtracted. The history cannot replace this table, because retention removes tasks from it.
ALTER TABLE skipped RENAME TO skipped_before;

CREATE TABLE skipped (
    level   INTEGER NOT NULL CHECK (level BETWEEN 0 AND 3),
    -- A history number divided by the width of the level's blocks.
    block   INTEGER NOT NULL CHECK (block >= 0),
    tasks   INTEGER NOT NULL CHECK (tasks > 0),
    -- The sum of their timeouts, whole seconds and the rest apart: together they can exceed 64 bits.
    seconds INTEGER NOT NULL CHECK (seconds >= 0),
    micros  INTEGER NOT NULL CHECK (micros >= 0),
    PRIMARY KEY (level, block)
) STRICT, WITHOUT ROWID;

INSERT INTO skipped (level, block, tasks, seconds, micros)
SELECT 0, history_num, 1, timeout / 1000000, timeout % 1000000 FROM skipped_before;

INSERT INTO skipped (level, block, tasks, seconds, micros)
SELECT 1, block / 64, sum(tasks), sum(seconds), sum(micros)
FROM skipped WHERE level = 0 GROUP BY block / 64;

INSERT INTO skipped (level, block, tasks, seconds, micros)
SELECT 2, block / 64, sum(tasks), sum(seconds), sum(micros)
FROM skipped WHERE level = 1 GROUP BY block / 64;

INSERT INTO skipped (level, block, tasks, seconds, micros)
SELECT 3, block / 64, sum(tasks), sum(seconds), sum(micros)
FROM skipped WHERE level = 2 GROUP BY block / 64;

DROP TABLE skipped_before;

-- Results are read past any number of cancelled tasks.
CREATE INDEX history_done ON history (history_num) WHERE outcome = 'done';
