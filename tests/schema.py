"""``python -m tests.schema``: state anew what the migrations of PostgreSQL make (schema.txt)."""

from __future__ import annotations

import uuid
from pathlib import Path

from sanic_app.store.postgres.catalogue import LISTING
from sanic_app.store.postgres.schema import prepare
from sanic_app.store.postgres.servers import Connection, Servers
from sanic_app.store.transition import Limits
from tests import postgres

MIGRATIONS = Path(__file__).parents[1] / "migrations" / "postgres"
HEADING = """\
# What the migrations make, for `sanic-app check`. Written by `python -m tests.schema`.
"""


def listing(connection: Connection) -> str:
    """Return the file's text as the current schema of a connection has it."""
    parts = connection.execute(LISTING).fetchall()
    return HEADING + "".join(f"{name}: {text}\n" for name, text in sorted(parts))


def main() -> None:
    try:
        with Servers(postgres.shared().url(), "stated").connect() as connection:
            prepare(connection, "stated", uuid.uuid4(), Limits(0, 1))
            (MIGRATIONS / "schema.txt").write_text(listing(connection), "utf-8")
    finally:
        postgres.stop_shared()


if __name__ == "__main__":
    main()
