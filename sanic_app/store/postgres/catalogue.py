"""What a schema consists of, as PostgreSQL's catalogues have it, and what the migrations make.

A check changes nothing, so it cannot apply the migrations somewhere and look. What they make is
stated once, in ``migrations/postgres/schema.txt``. A test holds that they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sanic_app.store.migrations import stated

LISTING = """
    WITH mine AS (
        SELECT * FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind NOT IN ('i', 'I', 't', 'c')
    )
    SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence'
               ELSE 'relation' END || ' ' || relname,
           concat_ws(', ', CASE relpersistence WHEN 'p' THEN 'logged' ELSE 'not logged' END,
               CASE WHEN relrowsecurity THEN 'with row security' END)
    FROM mine
    UNION ALL
    -- By their order too: rows are inserted without the names of columns.
    SELECT format('column %s.%s', relname, attname),
           concat_ws(' ', format('number %s,',
                   row_number() OVER (PARTITION BY attrelid ORDER BY attnum)),
               format_type(atttypid, atttypmod),
               (SELECT 'COLLATE ' || collname FROM pg_collation, pg_type
                WHERE pg_collation.oid = attcollation AND pg_type.oid = atttypid
                AND attcollation <> typcollation),
               CASE WHEN attnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_get_expr(adbin, adrelid),
               'IDENTITY ' || nullif(attidentity::text, ''),
               'GENERATED ' || nullif(attgenerated::text, ''))
    FROM mine JOIN pg_attribute ON attrelid = mine.oid
    LEFT JOIN pg_attrdef ON adrelid = mine.oid AND adnum = attnum
    WHERE attnum > 0 AND NOT attisdropped
    UNION ALL
    -- Newer servers have one more for each NOT NULL.
    SELECT format('constraint %s.%s', relname, conname), pg_get_constraintdef(pg_constraint.oid)
    FROM mine JOIN pg_constraint ON conrelid = mine.oid WHERE contype <> 'n'
    UNION ALL
    SELECT format('index %s.%s', mine.relname, index.relname),
           -- An administrator may tune how it is stored.
           regexp_replace(
               replace(pg_get_indexdef(indexrelid), format(' ON %I.', current_schema()), ' ON '),
               ' WITH \\([^)]*\\)', '')
           || CASE WHEN indisvalid AND indisready THEN '' ELSE ' (not valid)' END
    FROM mine JOIN pg_index ON indrelid = mine.oid JOIN pg_class AS index ON index.oid = indexrelid
    UNION ALL
    SELECT format('trigger %s.%s', relname, tgname), pg_get_triggerdef(pg_trigger.oid)
    FROM mine JOIN pg_trigger ON tgrelid = mine.oid WHERE NOT tgisinternal
    UNION ALL
    SELECT format('rule %s.%s', relname, rulename), pg_get_ruledef(pg_rewrite.oid)
    FROM mine JOIN pg_rewrite ON ev_class = mine.oid WHERE relkind = 'r'
    UNION ALL
    -- Its rows would be read as if they were the table's own.
    SELECT format('child %s.%s', relname, inhrelid::regclass), ''
    FROM mine JOIN pg_inherits ON inhparent = mine.oid
"""
"""Each part of the current schema by kind and name, and what it is like."""


def differences(found: Mapping[str, str]) -> Iterator[str]:
    """Compare such a list with what the migrations make; return a line for each difference.

    Of a table that is missing, or that is none of theirs, only that is told.
    """
    expected = stated("postgres")
    whole = {_table(part) for part in expected.keys() ^ found.keys() if "." not in part}
    for part in sorted(expected.keys() | found.keys()):
        if expected.get(part) == found.get(part) or ("." in part and _table(part) in whole):
            continue
        if part not in found:
            yield f"schema: the {part} is missing"
        elif part not in expected:
            yield f"schema: the {part} is none that the migrations make"
        else:
            yield f"schema: the {part} is: {found[part]}; the migrations make: {expected[part]}"


def _table(part: str) -> str:
    return part.partition(" ")[2].partition(".")[0]
