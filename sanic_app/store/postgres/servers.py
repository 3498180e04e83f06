"""The servers of a queue: which of them is used, and what it must be like."""

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
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from sanic_app.errors import StartError, StoreFailed
from sanic_app.store.postgres.failures import WENT_BACK, Lost, failure
from sanic_app.store.postgres.hosts import CONNECT_SECONDS, hosts_of, name_of

Connection = psycopg.Connection[TupleRow]

OLDEST_SERVER = 13
CHECKING_SERVER = 14
"""The first that notices during a statement that its client has gone, and that ends idle sessions
where a role or the server wants that: a head that is due would wait for another connection."""
LOCK_SECONDS = 1
"""How long a statement waits for a lock, and how long a transaction may wait for its node."""
GRACE_SECONDS = 0.3
"""How long other hosts may take to answer after one that can be written."""

_LOOK = """
    SELECT pg_is_in_recovery(), current_setting('server_version_num')::integer,
           current_setting('server_version'), current_setting('fsync'),
           current_setting('full_page_writes'), current_setting('server_encoding'),
           current_setting('synchronous_standby_names'), pg_backend_pid(),
           (SELECT system_identifier FROM pg_control_system()),
           CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END
"""

_SESSION = sql.SQL(
    f"SET search_path TO {{}}; SET lock_timeout = '{LOCK_SECONDS}s';"
    # A role may hide the warning that a commit is not on the standby.
    " SET client_min_messages = warning;"
    f" SET idle_in_transaction_session_timeout = '{LOCK_SECONDS}s'; SET statement_timeout = 0;"
    " SET default_transaction_isolation = 'read committed';"
    " SET default_transaction_read_only = off; SET jit = off;"
    # Finished tasks are sent as arrays, and a check compares the catalogues' texts.
    " SET array_nulls = on; SET quote_all_identifiers = off;"
    # Rows that are hidden would seem to be missing.
    " SET row_security = off;"
    # A node without power still seems to run, to those with other settings. By default its sessions
    # last for two hours.
    " SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5;"
    " SET tcp_keepalives_count = 4; SET tcp_user_timeout = '30s';"
    # The tables have more dead rows than others, and each read has its index.
    " SET enable_seqscan = off;"
)
_CHECKED_SESSION = sql.SQL(
    " SET client_connection_check_interval = '1s'; SET idle_session_timeout = 0"
)

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
        self._hosts = hosts_of(url, options)
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
        return ", ".join(map(name_of, self._hosts))

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
            # Connections to the server before are cut, so that they come to this one too.
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
        found: list[Future[tuple[Connection, Server]]] = []
        errors: list[BaseException] = []
        end: float | None = None
        while calls:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            done, calls = wait(calls, left, FIRST_COMPLETED)
            if not done:
                break
            for call in done:
                if (error := call.exception()) is not None:
                    errors.append(error)
                    continue
                found.append(call)
                # A promotion that nobody knew of: there is no better one to wait for.
                promoted = call.result()[1].timeline > self.timeline > 0
                end = end or time.monotonic() + (0.0 if promoted else GRACE_SECONDS)
        best = max(found, key=lambda call: call.result()[1].timeline, default=None)
        for call in (*calls, *found):
            if call is not best:
                call.add_done_callback(_close)
        if best is not None:
            return best.result()
        for error in errors:
            if isinstance(error, StartError | StoreFailed):
                raise error
        raise Lost("; ".join(sorted(map(str, errors))))

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
        """Read back what durability rests on, prepare the session, and look how far it is."""
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
        session = _SESSION.format(sql.Identifier(self._schema))
        if server.version_num >= CHECKING_SERVER * 10_000:
            session += _CHECKED_SESSION
        connection.execute(session)
        # Before the look: other threads go on meanwhile.
        if floor := self.floor:
            ((newest,),) = connection.execute(
                # As for each commit: see NEWEST in foreseen.py.
                "SELECT (SELECT commit_num FROM state ORDER BY commit_num DESC LIMIT 1)"
            ).fetchall()
            if newest is None or newest < floor:
                raise StoreFailed("other", WENT_BACK)
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
    """Shut its socket down: a call that waits for an answer fails at once."""
    with suppress(OSError, psycopg.Error):
        descriptor = os.dup(connection.fileno())
        with socket.socket(fileno=descriptor) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def _not_connected(error: psycopg.Error) -> Exception:
    """Return what a failure to connect means: most go by, a wrong password does not."""
    text = " ".join(str(error).split())
    if error.sqlstate and error.sqlstate[:2] in ("28", "3D"):
        return StartError(f"cannot connect to PostgreSQL: {text}")
    return Lost(text)


def _close(call: Future[tuple[Connection, Server]]) -> None:
    if call.exception() is None:
        call.result()[0].close()
