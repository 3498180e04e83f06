"""What a proof needs of the machine, and the machine's own ways to fail: volumes and traces."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from tests import postgres

SHUTDOWN = 0x8004587D
"""``EXT4_IOC_SHUTDOWN``: from now on nothing reaches the disk."""
NO_LOG_FLUSH = 2
"""Not even the journal is written, as when the power goes."""

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


class Need(StrEnum):
    """What not every machine has."""

    ROOT = "root"
    STRACE = "strace"
    LOOP = "loop devices with ext4"
    TMPFS = "the right to mount a tmpfs"
    FAKETIME = "libfaketime"
    WRK = "wrk"
    PRLIMIT = "prlimit and setpriv"
    POSTGRES = "PostgreSQL's server"
    NETNS = "network namespaces"


def lacking(needs: Sequence[Need]) -> str | None:
    """Return what of it this machine lacks, in words; None when it has everything."""
    lacks = [need.value for need in needs if not _has(need)]
    return f"this machine lacks {', '.join(lacks)}" if lacks else None


def _has(need: Need) -> bool:
    match need:
        case Need.ROOT:
            return os.geteuid() == 0
        case Need.STRACE:
            return _works("strace", "-f", "-o", os.devnull, "true")
        case Need.FAKETIME:
            return faketime() is not None
        case Need.WRK:
            return shutil.which("wrk") is not None
        case Need.PRLIMIT:
            return shutil.which("prlimit") is not None and shutil.which("setpriv") is not None
        case Need.POSTGRES:
            return bool(postgres.installed())
        case Need.NETNS:
            name = f"probe{os.getpid()}"
            return _works("ip", "netns", "add", name) and _works("ip", "netns", "del", name)
        case Need.TMPFS:
            return _mounts(tmpfs)
        case Need.LOOP:
            return shutil.which("mkfs.ext4", path=_path()) is not None and _mounts(Volume)
    raise AssertionError(need)


def _mounts(kind: type[Volume | tmpfs]) -> bool:
    try:
        with TemporaryDirectory() as folder, kind(Path(folder), 16 * 2**20):
            return True
    except (OSError, subprocess.SubprocessError):
        return False


def _works(*command: str) -> bool:
    try:
        return run(*command).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def faketime() -> Path | None:
    """Return the library that steps the wall clock of a process."""
    for name in (FAKETIME, *map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))):
        if Path(name).exists():
            return Path(name)
    return None


def _path() -> str:
    """Return where programs lie; root's own folders are not on everybody's PATH."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def run(*command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program of the system to its end."""
    environ = {**os.environ, "PATH": _path()}
    return subprocess.run(
        command, check=check, capture_output=True, text=True, timeout=60, env=environ
    )


class Starts(NamedTuple):
    """What it takes to start, up to where the service begins to look at its queue."""

    seconds: float
    """Until the last one was over."""
    busy: float
    """How many times as long as on a machine with nothing else to do; at least 1."""


def starts(count: int) -> Starts:
    """Start so many at once."""
    begun, before = time.monotonic(), _children_cpu()
    command = (sys.executable, "-m", "sanic_app", "--version")
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) for _ in range(count)
    ]
    for process in processes:
        process.wait(60)
    seconds = time.monotonic() - begun
    alone = (_children_cpu() - before) / min(count, os.cpu_count() or 1)
    return Starts(seconds, max(seconds / alone, 1.0))


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class tmpfs:  # noqa: N801 - what it is called everywhere
    """A small file system in memory, mounted as long as the context lasts."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder / "tmpfs"
        self._size = size

    def __enter__(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.folder),
            check=True)  # fmt: skip
        return self.folder

    def __exit__(self, *_: object) -> None:
        _unmount(self.folder)


class Volume:
    """An ext4 file system on a loop device whose power can be cut."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder / "volume"
        self._image = folder / "volume.img"
        self._size = size
        self._device = ""

    def __enter__(self) -> Self:
        with self._image.open("wb") as image:
            image.truncate(self._size)
        # Blocks of 4 KiB, as on any disk of today: small volumes would get others.
        run("mkfs.ext4", "-q", "-F", "-b", "4096", str(self._image), check=True)
        attached = run("losetup", "--find", "--show", str(self._image), check=True)
        self._device = attached.stdout.strip()
        self.folder.mkdir(exist_ok=True)
        try:
            self.mount()
        except BaseException:
            self._detach()
            raise
        return self

    def mount(self) -> None:
        """Mount it, as after a reboot: the journal is replayed."""
        run("mount", self._device, str(self.folder), check=True)

    def remount(self, *options: str) -> None:
        """Change the mount's options, such as ``ro``."""
        run("mount", "-o", ",".join(("remount", *options)), str(self.folder), check=True)

    def cut(self) -> None:
        """Cut the power: what was not synced is gone."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Unmount it; nothing may be open on it."""
        _unmount(self.folder)

    def __exit__(self, *_: object) -> None:
        self.unmount()
        self._detach()

    def _detach(self) -> None:
        run("losetup", "--detach", self._device)
        self._image.unlink(missing_ok=True)


def freeze(pid: int, seconds: float = 5) -> None:
    """Stop every thread of the process; return when none runs any more (`D`: it waits for I/O)."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + seconds
    while any(state not in "TtD" for state in _states(pid)):
        assert time.monotonic() < deadline, "the process does not stop"
        time.sleep(0.0005)


def _states(pid: int) -> list[str]:
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return [stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] for stat in stats]


def _unmount(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while os.path.ismount(folder):
        done = run("umount", str(folder))
        if done.returncode and time.monotonic() > deadline:
            # Left to the kernel, which lets go when the last descriptor is closed.
            run("umount", "--lazy", str(folder))
            return
        if done.returncode:
            time.sleep(0.05)


def strace(
    log: Path, calls: Sequence[str], *options: str, paths: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Return the command before a command that traces it, and injects what the options say.

    The tracer is the grandchild (-D), so that the process that was started is the traced one:
    its signals and its status are its own. Only the calls that are traced stop (--seccomp-bpf),
    so that the rest runs at its own speed; but a signal cannot be injected at such a stop. Counts
    of ``when=`` are each thread's own.
    """
    traced = [part for path in paths for part in ("-P", str(path))]
    fast = () if any(":signal=" in option for option in options) else ("--seccomp-bpf",)
    return (
        *("strace", "-D", "-f", *fast, "-y", "-ttt", "-o", str(log)),
        *("-e", f"trace={','.join(calls)}"),
        *traced,
        *options,
        "--",
    )


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Give a new folder that is gone afterwards."""
    with TemporaryDirectory(dir=folder) as name:
        yield Path(name)
