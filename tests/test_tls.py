"""TLS between a node and PostgreSQL, as README.md says it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sanic_app.settings.values import PostgresUrl
from sanic_app.store.postgres.failures import Lost
from sanic_app.store.postgres.servers import Servers
from tests.nodes import Queue
from tests.postgres import unprivileged
from tests.serving import ON_UVLOOP, service

pytestmark = ON_UVLOOP

ROOT = Path(__file__).parents[1]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)


def authority(folder: Path, name: str) -> None:
    """Make a CA, as ``name.crt`` and ``name.key``."""
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt",
    )  # fmt: skip


@pytest.fixture
def ca(own: Queue, tmp_path: Path) -> Iterator[Path]:
    """Let the server speak TLS with a certificate for ``localhost``; return that of its CA."""
    authority(tmp_path, "ca")
    authority(tmp_path, "other")
    openssl(
        tmp_path, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-keyout", "server.key", "-out", "server.csr",
    )  # fmt: skip
    openssl(
        tmp_path, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-copy_extensions", "copy", "-out", "server.crt",
    )  # fmt: skip
    who = unprivileged()
    for name in ("server.crt", "server.key"):
        made = own.cluster.data / name
        made.write_bytes((tmp_path / name).read_bytes())
        made.chmod(0o600)
        if who:
            os.chown(made, who["user"], who["group"])
    own.cluster.execute("ALTER SYSTEM SET ssl = on")
    own.cluster.execute("SELECT pg_reload_conf()")
    yield tmp_path / "ca.crt"
    own.cluster.execute("ALTER SYSTEM RESET ssl")
    own.cluster.execute("SELECT pg_reload_conf()")


def url_of(own: Queue, query: str, host: str = "localhost") -> str:
    return f"postgresql://postgres@{host}:{own.cluster.port}/postgres?{query}"


async def test_a_node_knows_its_server_by_the_certificate(own: Queue, ca: Path) -> None:
    # What README says, with the path of this CA.
    (query,) = re.findall(r"`\?(sslmode=\S+)`", (ROOT / "README.md").read_text())
    url = PostgresUrl(url_of(own, query.replace("/etc/ssl/private-ca.crt", str(ca))))
    async with service(Path(), database=url, database_schema=own.name) as a:
        await a.add(1, 0)
        plain = own.query(
            "SELECT bool_or(NOT ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE application_name = 'sanic-app'"
        )
        assert plain == [(False,)]


@pytest.mark.parametrize(
    ("query", "host", "words"),
    [
        ("verify-full&sslrootcert=FOLDER/other.crt", "localhost", "certificate verify failed"),
        ("verify-full&sslrootcert=FOLDER/ca.crt", "127.0.0.1", "does not match host name"),
        ("verify-full&sslrootcert=FOLDER/none.crt", "localhost", "none.crt.* does not exist"),
    ],
)
async def test_a_server_with_another_certificate_is_not_used(
    own: Queue, ca: Path, query: str, host: str, words: str
) -> None:
    url = url_of(own, f"sslmode={query.replace('FOLDER', str(ca.parent))}", host)
    with pytest.raises(Lost, match=words):
        Servers(url, own.name).connect()
