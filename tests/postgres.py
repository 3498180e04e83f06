"""PostgreSQL servers of the tests' own, in temporary folders, on free ports of loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import psycopg

STARTED_SECONDS = 60
_BIN = ("/usr/lib/postgresql", "/usr/local/pgsql")
_numbers = count(1)


def installed() -> list[Path]:
    """Return the folders of PostgreSQL's programs, the newest last."""
    return sorted(
        (path.parent for root in _BIN for path in Path(root).glob("**/bin/initdb")),
        key=lambda path: [int(part) for part in path.parts if part.isdigit()],
    )


def programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs."""
    found = installed()
    if not found:
        raise FileNotFoundError("PostgreSQL is not installed (Debian's package postgresql)")
    return found[-1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def unprivileged() -> dict[str, int]:
    """Return who runs a server: root must not."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid}


class Cluster:
    """One server, from ``start`` to ``stop``."""

    def __init__(
        self, settings: Sequence[str] = (), port: int | None = None, parent: Path | None = None
    ) -> None:
        """Take the lines of its configuration, and where its folder is made."""
        self.folder = Path(tempfile.mkdtemp(prefix="sanic-app-postgres-", dir=parent))
        self.data = self.folder / "data"
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.settings = list(settings)
        self.initdb: list[str] = []
        """Further arguments of initdb."""
        self.environ: dict[str, str] = {}
        """Further variables of the server's environment."""
        who = unprivileged()
        if who:
            os.chown(self.folder, who["user"], who["group"])

    def make(self) -> None:
        """Run initdb."""
        self.run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
            *self.initdb,
        )
        self.configure(
            f"port = {self.port}",
            "listen_addresses = '127.0.0.1'",
            "unix_socket_directories = ''",
            "max_connections = 200",
            "shared_buffers = 64MB",
            "logging_collector = off",
            *self.settings,
        )

    def make_standby(self, primary: Cluster, *settings: str) -> None:
        """Make it a standby of a server that runs, with its own settings behind the primary's."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.run(
            "pg_basebackup",
            "-D",
            str(self.data),
            "-d",
            primary.url(),
            "-R",
            "--checkpoint=fast",
            "--no-sync",
        )
        self.configure(f"port = {self.port}")
        # Behind what ALTER SYSTEM has written on the primary.
        self.configure(*settings, file="postgresql.auto.conf")

    def configure(self, *lines: str, file: str = "postgresql.conf") -> None:
        with (self.data / file).open("a", encoding="utf-8") as written:
            written.write("".join(f"{line}\n" for line in lines))

    def run(self, program: str, *args: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        subprocess.run(
            [programs() / program, *args],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **unprivileged(),  # type: ignore[call-overload]
        )

    def start(self) -> None:
        """Start the server, and return when it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environ},
                **unprivileged(),  # type: ignore[call-overload]
            )
        end = time.monotonic() + STARTED_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT at once and in order, SIGKILL as a crash would."""
        if self.process is None:
            return
        if number == signal.SIGKILL:
            # All its processes, as a power cut would; stopped, it starts no more of them.
            self.process.send_signal(signal.SIGSTOP)
            children = self.children()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, number)
            self.process.kill()
            self.process.wait(30)
            # The next server would find that they still have its memory.
            while any(_runs(child) for child in children):
                time.sleep(0.005)
            self.process = None
            return
        self.process.send_signal(number)
        self.process.wait(30)
        self.process = None

    def children(self) -> list[int]:
        """Return the ids of the server's processes."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in path.read_text().split()]

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/postgres"

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql)

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            return connection.execute(sql).fetchall()


def _runs(pid: int) -> bool:
    """Return whether the process is there, and not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


_shared: Cluster | None = None


def shared() -> Cluster:
    """Return the server of this test process; it is started once, and stopped at the end."""
    global _shared  # noqa: PLW0603 - one for all tests
    if _shared is None:
        _shared = Cluster()
        _shared.make()
        _shared.start()
    return _shared


def stop_shared() -> None:
    """Stop it, if it was started."""
    if _shared is not None:
        _shared.remove()


def fresh_name() -> str:
    """Return the name of a schema that nobody has."""
    return f"queue_{os.getpid()}_{next(_numbers)}"
