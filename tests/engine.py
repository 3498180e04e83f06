"""A Docker of the tests' own: its folder, its network and its containers are nobody else's.

It runs in a network namespace, so that the ports that Compose publishes are free there, and nothing
of it is left when it has ended.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.booted import execute

ROOT = Path(__file__).parents[1]
START_SECONDS = 60
PROGRAMS = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/share")
"""What a container of ``import_debian`` has from this machine."""


class Engine:
    """One engine; ``alone`` says whether it has a network of its own, or this machine's."""

    def __init__(self) -> None:
        # Sockets have short names.
        self.folder = Path(tempfile.mkdtemp(prefix="sanic-app-docker-"))
        self.host = f"unix://{self.folder}/socket"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, alone: bool) -> None:
        command = ["dockerd", "--host", self.host, "--storage-driver", "overlay2"]
        for name in ("data-root", "exec-root", "pidfile"):
            command += [f"--{name}", str(self.folder / name)]
        if alone:
            up = ("sh", "-c", 'ip link set lo up; exec "$@"', "sh")
            command = ["unshare", "--mount", "--net", *up, *command]
        else:
            # To build, it needs none, and changes none.
            none = ("--bridge=none", "--iptables=false", "--ip-forward=false")
            command = ["unshare", "--mount", *command, *none]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while self._run(["docker", "version"], check=False).returncode:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def remove(self) -> None:
        """Stop it, and all that it runs."""
        running = self.docker("ps", "--quiet").split()
        if running:
            self.docker("rm", "--force", *running)
        self.stop()
        shutil.rmtree(self.folder)

    def docker(self, *arguments: str, check: bool = True, seconds: float = 60) -> str:
        """Run the command of this name, and return what it prints."""
        return self._run(["docker", *arguments], check, seconds).stdout.strip()

    def log(self, container: str) -> str:
        """Return what a container has written to its standard error."""
        return self._run(["docker", "logs", container]).stderr.strip()

    def compose(
        self, *arguments: str, environ: Mapping[str, str] | None = None, seconds: float = 120
    ) -> str:
        """Run Debian's docker-compose, which is version 1.29."""
        return self._run(["docker-compose", *arguments], True, seconds, environ).stdout.strip()

    def _run(
        self,
        command: Sequence[str],
        check: bool = True,
        seconds: float = 60,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        mine = {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0", **(environ or {})}
        return execute(*command, check=check, seconds=seconds, cwd=ROOT, environ=mine)

    def inspect(self, container: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container))
        return found[0]

    def crash(self, container: str) -> None:
        """Kill its first process as the kernel would: `docker kill` counts as a wish to stop it."""
        os.kill(self.inspect(container)["State"]["Pid"], signal.SIGKILL)

    def get(self, url: str, body: object = None, check: bool = True) -> Any:
        """Return what an address of the engine's network answers: JSON, a text, or None."""
        assert self._process is not None
        enter = ("nsenter", f"--target={self._process.pid}", "--net")
        command = [*enter, "curl", "--silent", "--show-error", "--fail", "--max-time", "5"]
        if body is not None:
            command += ["--json", json.dumps(body)]
        done = self._run([*command, url], check=False)
        if done.returncode and not check:
            return None
        assert done.returncode == 0, f"{url}: {done.stderr}"
        with suppress(json.JSONDecodeError):
            return json.loads(done.stdout)
        return done.stdout

    def import_debian(
        self,
        name: str,
        entrypoint: Sequence[str],
        user: int,
        folders: Sequence[str],
        script: str = "",
    ) -> None:
        """Make an image without programs: whoever runs it mounts PROGRAMS, this machine's own."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for link in ("bin", "sbin", "lib", "lib64"):
                entry = tarfile.TarInfo(link)
                entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
                archive.addfile(entry)
            for folder in (*PROGRAMS, *folders):
                entry = tarfile.TarInfo(folder.lstrip("/"))
                entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o1777, user, user
                archive.addfile(entry)
            passwd = f"root:x:0:0::/:/bin/sh\nimage:x:{user}:{user}::/:/bin/sh\n"
            for path, text, mode in (("etc/passwd", passwd, 0o644), ("script", script, 0o755)):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text.encode()), mode
                archive.addfile(entry, io.BytesIO(text.encode()))
        file = self.folder / "image.tar"
        file.write_bytes(content.getvalue())
        changes = (f"ENTRYPOINT {json.dumps(entrypoint)}", f"USER {user}", "ENV LANG=C.UTF-8")
        options = [part for change in changes for part in ("--change", change)]
        self.docker("import", *options, str(file), name)
