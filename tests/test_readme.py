"""The examples of README.md, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.running import Running

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
WAIT, SHORTER = r'("timeout": ?)10\b', r"\g<1>1.5"
"""The wait of the first example leaves a reader time to look; this is enough for a busy machine."""


class Example(NamedTuple):
    """A block of commands, and the answer below it, if one is shown."""

    command: str
    answer: str | None


def examples() -> list[Example]:
    pattern = r"```sh\n([^`]*?)```(?:\n\n```json\n(.*?)\n```)?"
    found = re.findall(pattern, re.sub(WAIT, SHORTER, README), re.DOTALL)
    return [Example(command, answer or None) for command, answer in found if "curl" in command]


def cells() -> list[str]:
    """Return the commands that stand in tables."""
    return re.findall(r"`(curl [^`]+)`", README)


def curl(running: Running, command: str) -> str:
    """Run the commands against the service; curl itself fails on a status of 400 and above."""
    assert ADDRESS in command
    command = command.replace(ADDRESS, running.url).replace("curl ", "curl --fail-with-body ")
    done = subprocess.run(
        ["sh", "-e", "-c", command], check=False, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def same(shown: Any, given: Any) -> bool:
    """Return whether an answer is the one shown, except for the time and what depends on it."""
    match shown, given:
        case dict(), dict():
            return list(shown) == list(given) and all(same(shown[k], given[k]) for k in shown)
        case list(), list():
            return len(shown) == len(given) and all(map(same, shown, given))
        case str(), str() if DATE.fullmatch(shown):
            return DATE.fullmatch(given) is not None
        case _:
            return type(shown) is type(given) and bool(shown == given)


def settled(running: Running) -> None:
    """Return when the queue is empty."""
    while running.request("GET", "/api/v1/queue")[1]["depth"]:
        time.sleep(0.01)


def test_every_example_answers_what_is_shown(tmp_path: Path) -> None:
    found = examples()
    assert len(found) >= 5
    with Running(tmp_path) as running:
        for command, answer in found:
            # Where a task is shown waiting it waits still; elsewhere the reader has waited for it.
            if not re.search(r'"state":"waiting"|"tasks":\[\{', answer or ""):
                settled(running)
            output = curl(running, command)
            if answer is not None:
                assert same(json.loads(answer), json.loads(output)), (command, answer, output)


def test_the_commands_in_tables_work(tmp_path: Path) -> None:
    assert cells()
    with Running(tmp_path) as running:
        for command in cells():
            json.loads(curl(running, f"{command} -s"))
