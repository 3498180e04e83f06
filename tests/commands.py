"""A command of `sanic-app` as a user runs it, and what it said."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests import warm
from tests.running import Running


def run(
    url: str | Running, *arguments: str, text: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    url = url if isinstance(url, str) else url.url
    return warm.run(arguments, env={**os.environ, "SANIC_APP_URL": url, **environ}, text=text)


def say(running: str | Running, *arguments: str, text: str = "") -> str:
    done = run(running, *arguments, text=text)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def ask(running: Running, *arguments: str, text: str = "") -> Any:
    return json.loads(say(running, *arguments, "--json", text=text))


def refusal(url: str | Running, *arguments: str, status: int = 1, text: str = "") -> str:
    done = run(url, *arguments, text=text)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("sanic-app: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("sanic-app: ").strip()
