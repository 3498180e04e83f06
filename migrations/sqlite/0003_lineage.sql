-- Which queue this is: a copy of it is another one. Part of each event's id, so that nobody goes on
-- in a copy or a restored backup as if it were the queue that they knew.
CREATE TABLE lineage (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    uuid TEXT NOT NULL CHECK (length(uuid) = 32 AND uuid NOT GLOB '*[^0-9a-f]*')
) STRICT;

-- A random UUID (RFC 9562, version 4) without its dashes.
INSERT INTO lineage (id, uuid) VALUES (
    1,
    lower(
        hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2)
        || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(8)), 2)
    )
);
