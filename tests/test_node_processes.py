"""Nodes as processes: what a start refuses, what ends one, and what none of them ever shows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
import pytest

from sanic_app.store.postgres.schema import LOCK_CLASS, Schema, prepare
from sanic_app.store.postgres.servers import Servers
from sanic_app.store.transition import Limits
from tests.nodes import GRANTS, Queue, frozen, url_of
from tests.postgres import Cluster, free_port, unprivileged
from tests.proxy import Proxy
from tests.running import Cold, Running

ROOT = Path(__file__).parents[1]


def started(folder: Path, url: str, **environ: str) -> tuple[int, list[str]]:
    """Start a node that has to fail; return its status and the lines of its log."""
    names = {f"SANIC_APP_{name}": value for name, value in environ.items()}
    with Running(folder, "-D", url, environ=names, ready=False) as running:
        status = running.wait(20)
        return status, running.lines


# Read back on each connect.


@pytest.mark.parametrize(
    ("setting", "words"),
    [("fsync = off", "fsync is off"), ("full_page_writes = off", "full_page_writes is off")],
)
def test_a_server_that_may_lose_what_it_acknowledged_is_refused(
    own: Queue, tmp_path: Path, setting: str, words: str
) -> None:
    name = setting.split(" ", maxsplit=1)[0]
    own.cluster.execute(f"ALTER SYSTEM SET {setting}")
    own.cluster.execute("SELECT pg_reload_conf()")
    try:
        time.sleep(0.2)
        status, lines = started(tmp_path, own.cluster.url())
    finally:
        own.cluster.execute(f"ALTER SYSTEM RESET {name}")
        own.cluster.execute("SELECT pg_reload_conf()")
    assert (status, len(lines)) == (1, 1), lines
    assert words in lines[0]


def test_a_database_in_another_encoding_is_refused(own: Queue, tmp_path: Path) -> None:
    own.cluster.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    url = own.cluster.url().replace("/postgres", "/ascii").replace("//ascii", "//postgres")
    status, lines = started(tmp_path, url)
    assert (status, len(lines)) == (1, 1), lines
    assert "SQL_ASCII" in lines[0]


def test_a_standby_alone_is_refused(pair: list[Cluster], tmp_path: Path) -> None:
    status, lines = started(tmp_path, url_of(pair[1:]).url)
    assert (status, len(lines)) == (1, 1), lines
    assert "standby" in lines[0]


@pytest.mark.parametrize("nobody", ["dead", "frozen"])
def test_a_start_without_a_server_is_one_line(own: Queue, tmp_path: Path, nobody: str) -> None:
    with ExitStack() as life:
        url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
        if nobody == "frozen":
            life.enter_context(frozen(own.cluster))
            url = own.cluster.url()
        begun = time.monotonic()
        status, lines = started(tmp_path, url)
        assert (status, len(lines)) == (1, 1), lines
        assert "cannot use PostgreSQL" in lines[0]
        assert time.monotonic() - begun < 15


@pytest.mark.parametrize("nobody", ["dead", "frozen"])
def test_a_stop_does_not_wait_for_a_server_that_is_away(
    own: Queue, tmp_path: Path, nobody: str
) -> None:
    """Neither a head that is due nor an add that waits keeps it."""
    with ExitStack() as life, Running(tmp_path, "-D", own.cluster.url()) as running:
        pool = life.enter_context(ThreadPoolExecutor(1))
        running.add(5, 0.5)
        if nobody == "frozen":
            life.enter_context(frozen(own.cluster))
        else:
            own.cluster.stop(signal.SIGKILL)
            life.callback(own.cluster.start)
        time.sleep(1)
        task = {"num": 6, "timeout": 1}
        adding = pool.submit(running.request, "POST", "/api/v1/tasks", task)
        time.sleep(0.2)
        begun = time.monotonic()
        running.process.terminate()
        assert running.wait(10) == 0
        assert time.monotonic() - begun < 5
        status, problem = adding.result()
        assert (status, problem["type"]) == (503, "urn:sanic-app:problem:store-unavailable")
        assert problem["applied"] is False


def test_a_stop_does_not_wait_for_a_node_that_migrates(queue: Queue, tmp_path: Path) -> None:
    environ = {"SANIC_APP_DATABASE_SCHEMA": queue.name}
    waiting = f"SELECT 1 FROM pg_locks WHERE classid = {LOCK_CLASS} AND NOT granted"
    with psycopg.connect(queue.cluster.url()) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)")
        with Running(tmp_path, "-D", queue.cluster.url(), environ=environ, ready=False) as running:
            end = time.monotonic() + 30
            while not queue.cluster.query(waiting):
                assert time.monotonic() < end, running.log
                time.sleep(0.05)
            running.process.terminate()
            assert running.wait(20) == 0


def test_a_server_that_is_lost_during_the_start_is_one_line(queue: Queue, tmp_path: Path) -> None:
    """Here it has one connection for the role, and a node takes four."""
    role = f"lonely_{queue.name}"
    queue.query(
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1; GRANT CREATE ON DATABASE postgres TO {role}"
    )
    url = queue.cluster.url(role)
    status, lines = started(tmp_path, url, DATABASE_SCHEMA=f"{role}_s")
    assert status == 1
    assert f'too many connections for role "{role}"' in lines[-1]
    assert lines[-1].startswith("sanic-app: the store was lost during the start: ")
    assert "Traceback" not in "".join(lines)


def test_without_the_driver_it_is_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['psycopg'] = None; from sanic_app.__main__ import main; main()"
    url = "postgresql://127.0.0.1/x"
    for command in (["-D", url, "--port", "0"], ["check", url]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stderr.count("\n") == 1, done.stderr
        assert "pip install 'sanic-app[postgres]'" in done.stderr


@pytest.fixture
def pooler(queue: Queue) -> Iterator[int]:
    """Return the port of PgBouncer before the server."""
    port = free_port()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "users").write_text('"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={queue.cluster.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\n"
            f"unix_socket_dir =\nauth_file = {folder}/users\npool_mode = transaction\n"
        )
        who = unprivileged()
        for path in (folder, *folder.iterdir()) if who else ():
            shutil.chown(path, who["user"], who["group"])
        process = subprocess.Popen(
            ["/usr/sbin/pgbouncer", "-q", folder / "pgbouncer.ini"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **who,  # type: ignore[call-overload]
        )
        try:
            end = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                else:
                    break
            yield port
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.skipif(not Path("/usr/sbin/pgbouncer").exists(), reason="PgBouncer is not installed")
def test_a_pooler_is_recognised(pooler: int, tmp_path: Path) -> None:
    url = f"postgresql://postgres@127.0.0.1:{pooler}/postgres"
    status, lines = started(tmp_path, url)
    assert (status, len(lines)) == (1, 1), lines
    assert "pooler" in lines[0]


# Migrations, and another queue in the place of the one that was served.


def test_six_nodes_migrate_at_the_same_time(queue: Queue) -> None:
    limits = Limits(1, 1)
    for number in range(3):
        name = f"{queue.name}_{number}"
        together = threading.Barrier(6)

        def migrate(_: int, name: str = name, together: threading.Barrier = together) -> Schema:
            with Servers(queue.cluster.url(), name).connect() as connection:
                together.wait(20)
                return prepare(connection, name, uuid4(), limits)

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(migrate, range(6)))) == 1


def test_a_node_that_is_killed_while_it_migrates_leaves_nothing_behind(queue: Queue) -> None:
    limits = Limits(1, 1)
    with Proxy(queue.cluster.port) as proxy:
        url = proxy.url
        with Servers(url, queue.name).connect() as connection:
            proxy.on_commit = "before"
            with pytest.raises(psycopg.OperationalError):
                prepare(connection, queue.name, uuid4(), limits)
        assert queue.query("SELECT 1 FROM pg_namespace WHERE nspname = %s", queue.name) == []
        with Servers(url, queue.name).connect() as connection:
            prepare(connection, queue.name, uuid4(), limits)


def test_a_schema_that_is_too_new_is_refused(queue: Queue, tmp_path: Path) -> None:
    environ = {"SANIC_APP_DATABASE_SCHEMA": queue.name}
    with Running(tmp_path, "-D", queue.cluster.url(), environ=environ):
        queue.query("UPDATE meta SET schema = 1000, compatible_from = 1000")
    status, lines = started(tmp_path, queue.cluster.url(), DATABASE_SCHEMA=queue.name)
    assert (status, len(lines)) == (1, 1), lines
    assert "newer" in lines[0]


RESTORE = """
    ALTER SCHEMA QUEUE RENAME TO QUEUE_before;
    CREATE SCHEMA QUEUE;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT relname FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'QUEUE_before'::regnamespace
        LOOP
            EXECUTE format('CREATE TABLE QUEUE.%1$I (LIKE QUEUE_before.%1$I INCLUDING ALL);'
                'INSERT INTO QUEUE.%1$I SELECT * FROM QUEUE_before.%1$I', name);
        END LOOP;
    END $$
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE meta SET lineage = gen_random_uuid()", "replaced by another one"),
        ("UPDATE state SET commit_num = 1", "went back"),
        # The head would have another start than the one that its keeper finishes, for ever.
        ("UPDATE state SET head_started_at = head_started_at + 1", "changed the state row"),
        ("UPDATE state SET last_stamp = 9e18", "changed the state row"),
        # As a dump, restored before anybody has committed. A node takes the lock by the schema's
        # number, and one that starts now would take another lock.
        (RESTORE, "replaced by another one"),
        ("DELETE FROM queue WHERE history_num = 1", "the head is not in the queue"),
    ],
)
def test_another_queue_in_its_place_ends_a_node_with_one_line(
    queue: Queue, tmp_path: Path, change: str, words: str
) -> None:
    environ = {"SANIC_APP_DATABASE_SCHEMA": queue.name}
    with Running(tmp_path, "-D", queue.cluster.url(), environ=environ) as running:
        for number in range(5):
            running.add(number, 1_000)
        queue.query(change.replace("QUEUE", queue.name))
        assert running.wait(10) == 70
        lines = [json.loads(line)["message"] for line in running.lines]
        assert len([line for line in lines if words in line]) == 1
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM queue WHERE history_num = 3",
        "TRUNCATE queue",
        "DELETE FROM state",
        "DELETE FROM history WHERE finish_num = 2",
    ],
)
def test_a_start_on_a_damaged_queue_is_one_line(queue: Queue, tmp_path: Path, damage: str) -> None:
    environ = {"SANIC_APP_DATABASE_SCHEMA": queue.name}
    with Running(tmp_path, "-D", queue.cluster.url(), environ=environ) as running:
        for timeout in (0, 0, 1_000, 1_000):
            running.add(1, timeout)
        running.wait_for_result([1, 1])
        assert running.stop() == 0
    before = queue.query("SELECT * FROM state")
    queue.query(damage)
    status, lines = started(tmp_path, queue.cluster.url(), DATABASE_SCHEMA=queue.name)
    assert status == 1
    what = "is damaged: its state row is wrong, see `sanic-app check`"
    assert lines == [f"sanic-app: the schema {queue.name} {what}\n"]
    assert queue.query("SELECT * FROM state") == ([] if "state" in damage else before)


def test_a_dropped_schema_ends_a_node(queue: Queue, tmp_path: Path) -> None:
    environ = {"SANIC_APP_DATABASE_SCHEMA": queue.name}
    with Running(tmp_path, "-D", queue.cluster.url(), environ=environ) as running:
        running.add(1, 1_000)
        queue.query(f"DROP SCHEMA {queue.name} CASCADE")
        assert running.wait(10) == 70


# Secrets and rights.


SECRET = "pa55-w0rd"


def test_a_password_shows_nowhere(queue: Queue, tmp_path: Path) -> None:
    role = f"secret_{queue.name}"
    queue.query(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{SECRET}'")
    file = tmp_path / "database"
    with Proxy(queue.cluster.port) as proxy:
        file.write_text(f"postgresql://{role}:{SECRET}@127.0.0.1:{proxy.port}/postgres")
        environ = {
            "SANIC_APP_DATABASE_FILE": str(file),
            "SANIC_APP_DATABASE_SCHEMA": queue.name,
            "SANIC_APP_STORE_PATIENCE": "0.5",
            "SANIC_APP_LOGGER_LEVEL": "DEBUG",
        }
        with Cold(tmp_path, environ=environ) as running:
            running.add(1, 1_000)
            said = [str(running.request("GET", "/metrics"))]
            title = Path(f"/proc/{running.process.pid}/cmdline").read_text()
            queue.query(f"ALTER ROLE {role} NOLOGIN")
            proxy.cut()
            said.append(str(running.request("POST", "/add_task", {"num": 2, "timeout": 0})))
            said.append(str(running.request("GET", "/api/v1/queue")))
            proxy.close()
            said.append(str(running.request("POST", "/add_task", {"num": 3, "timeout": 0})))
            said.append(str(running.request("GET", "/metrics")))
            running.kill()
            for text in (*said, title, running.log):
                assert SECRET not in text
            assert "store-unavailable" in said[1]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@127.0.0.1:99999/postgres",
        f"postgresql://user:{SECRET}@[127.0.0.1/postgres",
        f"postgresql://user:{SECRET}@127.0.0.1:1/postgres?nonsense=1",
        f"postgresql://user:%zz{SECRET}@127.0.0.1:1/postgres",
    ],
)
def test_a_bad_url_is_one_line_without_its_secrets(tmp_path: Path, url: str) -> None:
    status, lines = _refused(tmp_path, url)
    assert status in (1, 2)
    assert lines.count("\n") == 1
    assert SECRET not in lines


def _refused(folder: Path, url: str) -> tuple[int, str]:
    with Running(folder, "-D", url, ready=False) as running:
        return running.wait(20), running.log


def test_the_rights_of_a_role_that_only_serves_are_documented() -> None:
    page = (Path(__file__).parents[1] / "RELIABILITY.md").read_text("utf-8")
    for line in GRANTS.format(schema="sanic_app", role="queue_serving").strip().splitlines():
        assert line.strip() in page
