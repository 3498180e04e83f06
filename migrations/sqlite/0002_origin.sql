-- Which database a WAL belongs to: see sanic_app/store/sqlite/origin.py.
CREATE TABLE origin (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    -- Written anew by the first commit after each whole checkpoint; 0 before the first.
    mark        INTEGER NOT NULL,
    -- What it was before: the mark of the database itself until the next checkpoint.
    mark_before INTEGER NOT NULL
) STRICT;

INSERT INTO origin (id, mark, mark_before) VALUES (1, 0, 0);
