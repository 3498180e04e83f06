"""A machine that systemd has booted, for tests of units: a container of systemd-nspawn.

Its programs are this machine's own, as ``/usr`` is mounted into it, read-only. Everything else is
its own: nothing is enabled there but what a test enables, and its network is a loopback alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

BOOT_SECONDS = 60
COPIED = (
    *("os-release", "passwd", "group", "nsswitch.conf", "ld.so.cache", "pip.conf"),
    "ssl/certs/ca-certificates.crt",
)
"""What it has of this machine's /etc, where that is there."""


def execute(
    *command: str,
    check: bool = True,
    seconds: float = 60,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fail with what it has printed."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=seconds,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


class Machine:
    """One machine in a folder of its own; ``prepare`` it before it boots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0
        for name in ("usr", "etc/ssl/certs", "etc/systemd/system", "opt", "root", "src", "var"):
            (folder / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (folder / name).symlink_to(f"usr/{name}")
        for name in COPIED:
            if (Path("/etc") / name).exists():
                shutil.copyfile(Path("/etc") / name, folder / "etc" / name)
        # Without it, a first boot would enable whatever /usr has.
        (folder / "etc/machine-id").write_text("5" * 32 + "\n")
        for name in ("etc/.updated", "var/.updated"):
            (folder / name).touch()

    def prepare(self, *command: str, seconds: float = 300) -> None:
        """Run a command in the folder /src before the boot, on this machine's network."""
        cache = Path.home() / ".cache" / "pip"
        cache.mkdir(parents=True, exist_ok=True)
        options = ("--pipe", "--chdir=/src", f"--bind={cache}:/root/.cache/pip")
        execute(*self._command(*options), *command, seconds=seconds)

    def _command(self, *options: str) -> Sequence[str]:
        container = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit")
        return (*container, f"--directory={self.folder}", "--bind-ro=/usr", *options)

    def boot(self) -> None:
        """Start it, and return when systemd has started everything."""
        with self.folder.with_suffix(".log").open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*self._command("--boot", "--private-network"), "systemd.unit=multi-user.target"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + BOOT_SECONDS
        while not self._booted():
            log_text = self.folder.with_suffix(".log").read_text(errors="replace")
            assert self._nspawn.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.05)

    def _booted(self) -> bool:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        self._init = next((int(child) for child in children.read_text().split()), 0)
        if not self._init:
            return False
        said = self.run("systemctl", "is-system-running", check=False)
        return said in ("running", "degraded")

    def run(self, *command: str, check: bool = True, seconds: float = 60) -> str:
        """Run a command as root in the machine, in /src, and return what it prints."""
        return self.execute(*command, check=check, seconds=seconds).stdout.strip()

    def execute(
        self, *command: str, check: bool = True, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Do the same, and return how it ended too."""
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root")
        enter = ("nsenter", f"--target={self._init}", *namespaces)
        path = "PATH=/usr/sbin:/usr/bin"
        clean = ("env", "--ignore-environment", "--chdir=/src", path, "HOME=/root")
        return execute(*enter, *clean, *command, check=check, seconds=seconds)

    def shell(self, script: str) -> str:
        """Run lines of the shell, each of which must succeed."""
        return self.run("sh", "-euc", script)

    def path(self, name: str) -> Path:
        """Return where this machine sees a file of that one that is on no mount of its own."""
        return self.folder / name.lstrip("/")

    def show(self, unit: str, name: str) -> str:
        """Return what systemd says of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)

    def log(self, unit: str) -> str:
        """Return what a unit has logged, systemd's own lines on it included."""
        return self.run("journalctl", "--quiet", "--output=cat", f"--unit={unit}")

    def ask(self, path: str, body: object = None, port: int = 8000) -> Any:
        """Return what the service on a port answers: JSON, or a text."""
        command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5"]
        if body is not None:
            command += ["--json", json.dumps(body)]
        text = self.run(*command, f"http://127.0.0.1:{port}{path}")
        return json.loads(text) if text.startswith("{") else text

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._nspawn is not None
        if self._init:
            # Its first process takes all others along.
            os.kill(self._init, 9)
        self._nspawn.terminate()
        self._nspawn.wait(30)
