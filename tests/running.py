"""A real service process for tests: started, watched, killed."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.warm import start


def back_date(database: Path, seconds: float) -> None:
    """Let the head of a queue that nobody serves have been added and started so much earlier."""
    with closing(sqlite3.connect(database)) as raw, raw:
        micros = round(seconds * 1e6)
        raw.execute(
            "UPDATE queue SET created_at = created_at - ?"
            " WHERE history_num = (SELECT head FROM state)",
            (micros,),
        )
        raw.execute(
            "UPDATE state SET head_started_at = head_started_at - ?,"
            " oldest_created_at = oldest_created_at - ?",
            (micros, micros),
        )


class Running:
    """One service process on a port of its own choice, its log lines at hand.

    ``prefix`` is put before the command (``strace ...``), ``changes`` are those of
    `tests.proof.launch`, ``ready`` waits until it serves.
    """

    warm: ClassVar = True

    def __init__(
        self,
        folder: Path,
        *flags: str,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        changes: Sequence[str] = (),
        ready: bool = True,
    ) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.lines: list[str] = []
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SANIC_APP_")}
        clean["PYTHONPATH"] = str(Path(__file__).parents[1])
        env = {**clean, **(environ or {})}
        self.process = start(
            ("--port", "0", *flags),
            env=env,
            cwd=folder,
            changes=changes,
            prefix=prefix,
            cold=not self.warm,
        )
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0
        if ready:
            self.wait_until_serving()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_until_serving(self, seconds: float = 20) -> None:
        """Return when it says that it serves; fail with its log when it ends or takes longer."""
        line = self.wait_for(r"serving on", seconds)
        self.port = int(json.loads(line)["port"])

    def wait_for(self, pattern: str, seconds: float = 20) -> str:
        """Return the first line of its log that matches, once it is there."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while True:
                for line in self.lines:
                    if re.search(pattern, line):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or not self._arrived.wait(min(left, 0.5)):
                    ended = not self._reader.is_alive()
                    if left <= 0 or (ended and not re.search(pattern, self.log)):
                        raise AssertionError(f"no line matches {pattern!r} in:\n{self.log}")

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 10,
    ) -> tuple[int, Any]:
        """Return status and body (parsed when it is JSON)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)
        if data is not None and "Content-Type" not in request.headers:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                status, kind, content = answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, kind, content = error.code, error.headers["content-type"], error.read()
        return status, json.loads(content) if "json" in (kind or "") else content.decode()

    def add(self, num: int, timeout: float = 0) -> dict[str, Any]:
        status, task = self.request("POST", "/add_task", {"num": num, "timeout": timeout})
        assert status == 200, task
        assert isinstance(task, dict)
        return task

    def result(self) -> list[int]:
        numbers: list[int] = self.request("GET", "/get_result")[1]["result"]
        return numbers

    def wait_for_result(self, expected: list[int], seconds: float = 10) -> None:
        """Return when the result list is the expected one."""
        deadline = time.monotonic() + seconds
        while (result := self.result()) != expected:
            assert time.monotonic() < deadline, (result, expected)
            time.sleep(0.01)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power switch would, and wait until it is gone."""
        self.process.kill()
        self.wait()

    def stop(self, seconds: float = 10) -> int:
        """Stop it in order and return its exit status."""
        self.signal()
        return self.wait(seconds)

    def wait(self, seconds: float = 10) -> int:
        """Return its exit status once it has ended."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._arrived:
                self.lines.append(line)
                self._arrived.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


class Cold(Running):
    """One that is started as a user does, where a test is about just that: see `tests.warm`."""

    warm = False
