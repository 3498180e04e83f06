"""The program in a process of its own that begins warm: what others wrote is already loaded.

Loading the framework takes most of a start, and the tests start the program hundreds of times. A
nursery has loaded it once. Each process is a fork of the nursery that then runs the program as
``python -m sanic_app`` would: with a folder, an environment, standard streams, signals and an end
of its own, and with every module of this repository loaded anew. What is about the start itself,
such as `tests/test_process.py`, begins cold.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).parents[1]
LOADED = (
    *("argparse", "asyncio", "dataclasses", "http.client", "logging", "sqlite3", "urllib.request"),
    *("aiosqlite", "prometheus_client", "psycopg", "rich.console", "rich.live", "rich.progress"),
    *("sanic", "sanic_ext", "sanic_ext.extensions.openapi", "uvloop", "yaml"),
)
"""What the nursery loads: nothing of this repository."""
ORDER_BYTES = 1_000_000
RUN_SECONDS = 60
RUNTIME = ("LD_", "PYTHON")
"""Variables that an interpreter reads when it begins: it does not begin anew in a fork."""
MEASURED = "COVERAGE_"
HARMLESS = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def command(arguments: Sequence[str], changes: Sequence[str] = ()) -> list[str]:
    """Return the command line of a cold start."""
    program = [sys.executable, "-m", "sanic_app", *arguments]
    return [sys.executable, "-m", "tests.proof.launch", *changes, *program] if changes else program


def possible(environ: Mapping[str, str]) -> bool:
    """Return whether a process with these variables can begin warm."""
    return not any(
        name.startswith(MEASURED)
        or (name.startswith(RUNTIME) and value not in (HARMLESS.get(name), os.environ.get(name)))
        for name, value in environ.items()
    )


class Warm:
    """One such process, with as much of `subprocess.Popen` as the tests use.

    ``changes`` are those of `tests.proof.launch`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        changes: Sequence[str] = (),
        stdin: int | IO[str] = subprocess.DEVNULL,
        stdout: int | IO[str] = subprocess.DEVNULL,
        stderr: int | IO[str] = subprocess.DEVNULL,
        start_new_session: bool = False,
    ) -> None:
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self.returncode: int | None = None
        self._status, tells = os.pipe()
        given = [tells]
        for name, where in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if where == subprocess.PIPE:
                reads, writes = os.pipe()
                ours, theirs = (writes, reads) if name == "stdin" else (reads, writes)
                mode = "w" if name == "stdin" else "r"
                setattr(self, name, os.fdopen(ours, mode, encoding="utf-8"))
            elif where == subprocess.DEVNULL:
                theirs = os.open(os.devnull, os.O_RDWR)
            else:
                theirs = os.dup(where if isinstance(where, int) else where.fileno())
            given.append(theirs)
        order = {
            "command": command(arguments, changes)[2:],
            "environ": dict(env),
            "folder": str(cwd or Path.cwd()),
            "session": start_new_session,
        }
        with _one_at_a_time:
            sock = _nursery()
            socket.send_fds(sock, [json.dumps(order).encode()], given)
            self.pid = int(sock.recv(ORDER_BYTES))
        for descriptor in given:
            os.close(descriptor)

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status once it has ended."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("sanic_app", timeout or 0)
            self.returncode = int(os.read(self._status, 16))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    changes: Sequence[str] = (),
    prefix: Sequence[str] = (),
    cold: bool = False,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    start_new_session: bool = False,
) -> subprocess.Popen[str] | Warm:
    """Start the program, warm where that is possible; its standard error is a pipe."""
    if not cold and not prefix and possible(env):
        return Warm(
            arguments,
            env=env,
            cwd=cwd,
            changes=changes,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=start_new_session,
        )
    return subprocess.Popen(
        [*prefix, *command(arguments, changes)],
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; ``text`` is what it finds in its standard input."""
    if not possible(env):
        return subprocess.run(
            command(arguments),
            env={**env, "PYTHONPATH": str(ROOT)},
            cwd=cwd,
            input=text,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    with ExitStack() as files:
        given, out, err = (
            files.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in range(3)
        )
        given.write(text)
        given.seek(0)
        process = Warm(arguments, env=env, cwd=cwd, stdin=given, stdout=out, stderr=err)
        try:
            status = process.wait(RUN_SECONDS)
        finally:
            process.kill()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read(), err.read())


_one_at_a_time = threading.Lock()
_started: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def _nursery() -> socket.socket:
    """Return the way to the nursery of this test process, which its first user starts."""
    global _started  # noqa: PLW0603 - one for all tests
    if _started is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        _started = process, ours
        atexit.register(stop)
    return _started[1]


def stop() -> None:
    """End the nursery, if there is one."""
    global _started  # noqa: PLW0603 - one for all tests
    if _started is not None:
        process, sock = _started
        sock.close()
        process.wait()
        _started = None


# In the nursery.


def _wait_for_orders(sock: socket.socket) -> list[str]:
    """Fork for each order; return only in the new process, with what it is to run."""
    wakes, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    tells: dict[int, int] = {}
    while True:
        if wakes in select.select([sock.fileno(), wakes], [], [])[0]:
            os.read(wakes, 4_096)
            _tell_of_ends(tells)
            continue
        message, given, *_ = socket.recv_fds(sock, ORDER_BYTES, 4)
        if not message:
            os._exit(0)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _become(json.loads(message), given[1:])
        tells[pid] = given[0]
        for descriptor in given[1:]:
            os.close(descriptor)
        sock.send(str(pid).encode())


def _tell_of_ends(tells: dict[int, int]) -> None:
    while tells:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with suppress(BrokenPipeError):
            os.write(tells[pid], str(os.waitstatus_to_exitcode(status)).encode())
        os.close(tells.pop(pid))


def _become(order: dict[str, object], streams: Sequence[int]) -> list[str]:
    """Take on all that a process is started with."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 1_024)
    if order["session"]:
        os.setsid()
    os.chdir(str(order["folder"]))
    environ = order["environ"]
    assert isinstance(environ, dict)
    os.environ.clear()
    os.environ.update(environ)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environ
    sys.path[0] = str(Path.cwd())
    sys.path.insert(1, str(ROOT))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    command = order["command"]
    assert isinstance(command, list)
    return command


if __name__ == "__main__":
    for name in LOADED:
        import_module(name)
    # Each process loads these for itself, as they are by then.
    assert not any(name.startswith("sanic_app") for name in sys.modules), sorted(sys.modules)
    gc.collect()
    # What is never looked at stays shared memory: a fork costs a tenth of what it would.
    gc.freeze()
    module, *sys.argv[1:] = _wait_for_orders(socket.socket(fileno=int(sys.argv[1])))
    # Behind all of the nursery's own code, so that it ends as any interpreter does.
    runpy.run_module(module, run_name="__main__", alter_sys=True)
