"""The servers that a URL names: which of them is used, and what it must be like."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from sanic_app.errors import StartError, StoreFailed
from sanic_app.store.postgres.failures import Lost, failure

Connection = psycopg.Connection[TupleRow]

OLDEST_SERVER = 13
CHECKING_SERVER = 14
"""The first that notices during a statement that its client has gone, and that ends idle sessions
where a role or the server wants that: a head that is due would wait for another connection."""
CONNECT_SECONDS = 2
"""The least that libpq takes."""
LOCK_SECONDS = 1
"""How long a statement waits for a lock, and how long a transaction may wait for its node."""
GRACE_SECONDS = 0.3
"""How long other hosts may take to answer after one that can be written."""

_DEFAULTS: Mapping[str, Any] = {
    "application_name": "sanic-app",
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_SECONDS,
    # A partition is noticed within a few seconds, not within hours.
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}

_LOOK = """
    SELECT pg_is_in_recovery(), current_setting('server_version_num')::integer,
           current_setting('server_version'), current_setting('fsync'),
           current_setting('full_page_writes'), current_setting('server_encoding'),
           current_setting('synchronous_standby_names'), pg_backend_pid(),
           (SELECT system_identifier FROM pg_control_system()),
           CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END
"""

_OLDER = "its timeline is older than one that was seen"

log = logging.getLogger(__name__)


class Server(NamedTuple):
    """What a connection found of its server."""

    standby: bool
    version_num: int
    version: str
    fsync: str
    full_page_writes: str
    encoding: str
    standbys: str
    """The names of synchronous standbys, or nothing."""
    backend: int
    system: int
    wal_file: str | None

    @property
    def timeline(self) -> int:
        """The timeline of its WAL."""
        return int((self.wal_file or "0")[:8], 16)

    def unfit(self) -> str:
        """Return why it must not be used, or nothing."""
        if self.version_num < OLDEST_SERVER * 10_000:
            return f"it is PostgreSQL {self.version}, and {OLDEST_SERVER} or newer is needed"
        if self.encoding != "UTF8":
            return f"the encoding of its database is {self.encoding}, not UTF8"
        for name in ("fsync", "full_page_writes"):
            if getattr(self, name) != "on":
                return f"{name} is {getattr(self, name)}: an acknowledged task could be lost"
        return ""


class Servers:
    """Connects to the best of the servers, never to one that has less than was seen before."""

    def __init__(self, url: str, schema: str, **options: Any) -> None:
        """Take a URL or a text of keywords as libpq has it, with one host or several.

        ``options`` of libpq count where the URL says nothing.

        Raises:
            StartError: it is none.
        """
        self._schema = schema
        self._hosts = _hosts(url, options)
        self._lock = threading.Lock()
        self._system: int | None = None
        self.timeline = 0
        """The greatest timeline that was seen: each promotion of a standby begins a greater one."""
        self.on_promotion: list[Callable[[], None]] = []
        """Called when a greater one is found."""
        self.floor = 0
        """The greatest number of a commit that was seen; a server with less is not used."""
        self.found: Server | None = None
        """The server of the newest connection."""

    @property
    def where(self) -> str:
        """The hosts as an operator knows them, without secrets."""
        return ", ".join(
            f"{each.get('host') or each.get('hostaddr') or 'a local socket'}"
            f" port {each.get('port') or 5432}"
            if each["target_session_attrs"] == "any"
            else f"the service {_service(each)}"
            for each in self._hosts
        )

    def connect(self) -> Connection:
        """Return a connection alone, see ``find``."""
        return self.find()[0]

    def find(self) -> tuple[Connection, Server]:
        """Return a connection to the writable server with the highest timeline.

        Raises:
            Lost: there is none now.
            StartError: one can be reached and must not be used.
            StoreFailed: one can be reached, and lacks commits which were seen. Whoever starts
                anew takes it as it is.
        """
        if len(self._hosts) == 1:
            connection, server = self._try(self._hosts[0])
        else:
            connection, server = self._race()
        with self._lock:
            promoted = server.timeline > self.timeline
            late = server.timeline < self.timeline
            if not late:
                self._system, self.timeline, self.found = server.system, server.timeline, server
        if late:
            connection.close()
            raise Lost(_OLDER)
        if promoted:
            # Whoever waits for the server before, or would read there, comes here too.
            for cut in self.on_promotion:
                cut()
        return connection, server

    def _race(self) -> tuple[Connection, Server]:
        """Ask all hosts at the same time; the first good one gives the others a short grace."""
        pool = ThreadPoolExecutor(len(self._hosts), "postgres-connect")
        calls: set[Future[tuple[Connection, Server]]] = {
            pool.submit(self._try, host) for host in self._hosts
        }
        pool.shutdown(wait=False)
        best: tuple[Connection, Server] | None = None
        unfit: StartError | StoreFailed | None = None
        reasons: list[str] = []
        end: float | None = None
        while calls:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            done, calls = wait(calls, left, FIRST_COMPLETED)
            if not done:
                break
            for call in done:
                error = call.exception()
                if isinstance(error, StartError | StoreFailed):
                    unfit = error
                elif error is not None:
                    reasons.append(str(error))
                elif best is None or call.result()[1].timeline > best[1].timeline:
                    if best is not None:
                        best[0].close()
                    best = call.result()
                    # A promotion that nobody knew of: there is no better one to wait for.
                    promoted = best[1].timeline > self.timeline > 0
                    end = end or time.monotonic() + (0.0 if promoted else GRACE_SECONDS)
                else:
                    call.result()[0].close()
        for call in calls:
            call.add_done_callback(_close)
        if best is not None:
            return best
        if unfit is not None:
            raise unfit
        raise Lost("; ".join(sorted(reasons)))

    def _try(self, host: Mapping[str, Any]) -> tuple[Connection, Server]:
        try:
            connection = psycopg.connect(
                make_conninfo(**host), autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            raise _not_connected(error) from None
        try:
            with deadline(connection):
                return connection, self._verify(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.Error):
                raise failure(error) from error
            raise

    def _verify(self, connection: Connection) -> Server:
        """Read back what durability rests on, and prepare the session."""
        server = Server(*connection.execute(_LOOK).fetchall()[0])
        if server.backend != connection.info.backend_pid:
            raise StartError(
                "there is a pooler between the service and PostgreSQL: connect to the server"
            )
        if reason := server.unfit():
            raise StartError(f"this PostgreSQL cannot be used: {reason}")
        if server.standby:
            raise Lost("it is a standby")
        with self._lock:
            if self._system not in (None, server.system):
                raise Lost("it is another cluster than before")
            if server.timeline < self.timeline:
                raise Lost(_OLDER)
        check = (
            "SET client_connection_check_interval = '1s'; SET idle_session_timeout = 0;"
            if server.version_num >= CHECKING_SERVER * 10_000
            else ""
        )
        connection.execute(
            sql.SQL(
                "SET search_path TO {}; SET lock_timeout = '{}s';"
                # A role may hide the warning that a commit is not on the standby.
                " SET client_min_messages = warning;"
                " SET idle_in_transaction_session_timeout = '{}s'; SET statement_timeout = 0;"
                " SET default_transaction_isolation = 'read committed';"
                " SET default_transaction_read_only = off; SET jit = off;"
                # Finished tasks are sent as arrays, and a check compares the catalogues' texts.
                " SET array_nulls = on; SET quote_all_identifiers = off;"
                # A node without power still seems to run, to those with other settings. By default
                # its sessions last for two hours.
                " SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5;"
                " SET tcp_keepalives_count = 4; SET tcp_user_timeout = '30s';"
                # The tables have more dead rows than others, and each read has its index.
                " SET enable_seqscan = off; {}"
            ).format(
                sql.Identifier(self._schema),
                sql.SQL(str(LOCK_SECONDS)),
                sql.SQL(str(LOCK_SECONDS)),
                sql.SQL(check),
            )
        )
        # Before the look: other threads go on meanwhile.
        if floor := self.floor:
            ((newest,),) = connection.execute(
                # As for each commit: see NEWEST in foreseen.py.
                "SELECT (SELECT commit_num FROM state ORDER BY commit_num DESC LIMIT 1)"
            ).fetchall()
            if newest is None or newest < floor:
                raise StoreFailed("other", "the queue went back to an earlier state while in use")
        return server


@contextmanager
def deadline(connection: Connection) -> Iterator[None]:
    """Shut the socket down when the block takes too long: the server may be frozen."""
    timer = threading.Timer(CONNECT_SECONDS, shut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shut(connection: Connection) -> None:
    """Let whoever waits for an answer on it fail at once."""
    with suppress(OSError, psycopg.Error):
        descriptor = os.dup(connection.fileno())
        with socket.socket(fileno=descriptor) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def _hosts(url: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what to connect with, for each host."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        # The driver's text may quote a part of the URL, the password perhaps.
        raise StartError("DATABASE is not a URL that PostgreSQL understands") from None
    hidden = _service(given) and not (given.get("host") or given.get("hostaddr"))
    # Which host is the right one is decided here, whatever URL and environment say. Of the hosts in
    # a service file only libpq knows, and takes the first that is no standby.
    given["target_session_attrs"] = "primary" if hidden else "any"
    given["load_balance_hosts"] = "disable"
    lists = {}
    for name in ("host", "hostaddr", "port"):
        value = given.pop(name, None) or (not hidden and os.environ.get(f"PG{name.upper()}"))
        if value:
            lists[name] = str(value).split(",")
    count = max((len(lists.get(name, [])) for name in ("host", "hostaddr")), default=1) or 1
    for name, values in lists.items():
        if len(values) not in (1, count):
            raise StartError(
                f"DATABASE gives {len(values)} values of {name}, which does not fit its hosts"
                f" ({count})"
            )
    hosts = []
    for number in range(count):
        host = {**_DEFAULTS, **options, **given}
        for name, values in lists.items():
            value = values[number] if len(values) > 1 else values[0]
            if value:
                host[name] = value
        hosts.append(host)
    return hosts


def _service(given: Mapping[str, Any]) -> str:
    """Return the name of the entry of a service file that is used besides, or nothing."""
    return str(given.get("service") or os.environ.get("PGSERVICE", ""))


def _not_connected(error: psycopg.Error) -> Exception:
    """Return what a failure to connect means: most go by, a wrong password does not."""
    text = " ".join(str(error).split())
    if error.sqlstate and error.sqlstate[:2] in ("28", "3D"):
        return StartError(f"cannot connect to PostgreSQL: {text}")
    return Lost(text)


def _close(call: Future[tuple[Connection, Server]]) -> None:
    if call.exception() is None:
        call.result()[0].close()
