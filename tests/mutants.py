"""Changes the core in small ways, and lists the changes that no test notices.

mutmut makes the changes. Inside functions it tries them too, each part in a copy of the tree and by
few tests, so that a change takes a second. ``AT_IMPORT`` works while it is imported, before mutmut
chooses a change: its changes are tried here, each in a process that imports it so changed.

mutants.md beside this file explains survivors. Fails when less than nine of ten changes of a part
are noticed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from mutmut.mutation.file_mutation import create_mutations

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).with_suffix(".md")
CHILDREN = os.cpu_count() or 1
LEAST = 0.9
NOTICED = {"killed", "timeout", "segfault"}
UNKNOWN = {"not checked", "skipped", "check was interrupted by user"}

PARTS = {
    "sanic_app.store.transition": ("store", "test_transition.py", "test_skipped.py"),
    "sanic_app.queue": (
        *("test_failing_store.py", "test_head.py", "test_metrics.py", "test_outlook.py"),
        *("test_queue.py", "test_worker.py", "test_writer.py"),
    ),
    "sanic_app.http.guard": ("test_guard.py",),
    "sanic_app.http.schemas": ("test_shapes.py", "test_schemas.py"),
}
"""What is changed, and the tests that decide about it."""
SLOW = (
    "store/test_owning.py::test_maintenance_changes_nothing_that_can_be_read",
    "store/test_places.py::test_a_place_is_right_whatever_was_cancelled_finished_and_paused",
    "test_skipped.py::test_nothing_costs_more_when_many_were_cancelled",
    "test_skipped.py::test_skipped_tasks_of_an_older_database_are_taken_over",
)
"""Tests that would take most of the time, and that notice no more than the others."""

AT_IMPORT = "sanic_app.http.schemas"
OPTIONS = (
    *("-x", "-q", "--noconftest", "-m", "not hypothesis", "--timeout=20"),
    *("-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
SLOW_IMPORTS = ("hypothesis", "sanic", "_hypothesis_pytestplugin", "sanic_app.queue")
"""Done once, for all processes. None of them imports ``AT_IMPORT``."""

SECTION = "[tool.mutmut]\n"
"""Of pyproject.toml, to which each part adds lines."""


def main(arguments: Sequence[str]) -> int:
    """Try the changes whose names match, or all; return the exit status."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help='patterns, such as "sanic_app.queue.head*"')
    names = parser.parse_args(arguments).names or [f"{part}*" for part in PARTS]
    statuses: dict[str, str] = {}
    differences: dict[str, list[str]] = {}
    for part in PARTS:
        wanted = [name for name in names if name.startswith(part)]
        if wanted:
            attempt = at_import if part == AT_IMPORT else in_functions
            found, changed = attempt(part, wanted)
            statuses |= found
            differences |= changed
    return report(statuses, differences)


Outcome = tuple[dict[str, str], dict[str, list[str]]]
"""What became of each change, and how the survivors differ, by their names."""


def report(statuses: Mapping[str, str], differences: Mapping[str, list[str]]) -> int:
    """Print what became of the changes; return 1 when too few were noticed."""
    explained = EXPLAINED.read_text(encoding="utf-8")
    for name, lines in differences.items():
        known = all(f"\n- {line[1:].strip()}" in explained for line in lines if line[0] == "-")
        say(f"{name}: {statuses[name]}{', see mutants.md' if known else ''}")
        for line in lines:
            say(f"    {line}")
    short = not statuses
    for part in PARTS:
        found = [status in NOTICED for name, status in statuses.items() if name.startswith(part)]
        if found:
            share = sum(found) / len(found)
            short |= share < LEAST
            say(f"{part}: {sum(found)} of {len(found)} noticed, {share:.1%}")
    say(f"at least {LEAST:.0%} of each must be")
    return int(short)


def changed_lines(difference: Sequence[str]) -> list[str]:
    """Return the lines that differ."""
    return [
        line
        for line in difference
        if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))
    ]


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# Inside functions.


def in_functions(part: str, names: Sequence[str]) -> Outcome:
    """Have mutmut try the changes of a part; it shows how far it is."""
    folder = ROOT / "mutants" / part
    for name in ("sanic_app", "migrations", "tests"):
        shutil.copytree(
            *(ROOT / name, folder / name),
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    tests = [f"tests/{test}" for test in PARTS[part]]
    tests += [f"--deselect=tests/{test}" for test in SLOW]
    path = part.replace(".", "/")
    lines = f"only_mutate = ['{path}.py', '{path}/*.py']\n"
    lines += f"pytest_add_cli_args_test_selection = {tests}\n"
    before, section, behind = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition(SECTION)
    )
    (folder / "pyproject.toml").write_text(before + section + lines + behind, encoding="utf-8")

    def mutmut(*arguments: str, output: int | None = subprocess.PIPE) -> str:
        command = [sys.executable, "-m", "mutmut", *arguments]
        done = subprocess.run(command, cwd=folder, stdout=output, text=True, check=True)
        return done.stdout or ""

    mutmut("run", "--max-children", str(CHILDREN), *names, output=None)
    statuses = {
        name: status
        for name, status in listed(mutmut("results", "--all", "true"))
        if status not in UNKNOWN and any(fnmatch(name, pattern) for pattern in names)
    }
    survivors = [name for name, status in statuses.items() if status not in NOTICED]
    shown = {name: changed_lines(mutmut("show", name).splitlines()) for name in survivors}
    return statuses, shown


def listed(results: str) -> Iterator[tuple[str, str]]:
    """Return each change that mutmut printed, and its status."""
    for line in results.splitlines():
        name, _, status = line.rpartition(":")
        if name:
            yield name.strip(), status.strip()


# While it is imported.


def at_import(part: str, names: Sequence[str]) -> Outcome:
    """Run the tests on each changed module."""
    before = source(part)
    codes = dict(changed_modules(part, names))
    for name in SLOW_IMPORTS:
        import_module(name)
    clean = start(part, before)
    clean.join()
    assert clean.exitcode == 0, "the tests fail without any change"
    todo, found = list(codes.items())[::-1], dict[str, str]()
    running: dict[str, BaseProcess] = {}
    while todo or running:
        while todo and len(running) < CHILDREN:
            name, code = todo.pop()
            running[name] = start(part, code)
        wait([process.sentinel for process in running.values()])
        for name, process in list(running.items()):
            if process.exitcode is not None:
                found[name] = "killed" if running.pop(name).exitcode else "survived"
                if len(found) % 100 == 0:
                    say(f"{len(found)} of {len(codes)} tried")
    survivors = [name for name, status in found.items() if status not in NOTICED]
    return found, {
        name: changed_lines(list(difflib.unified_diff(before.split("\n"), codes[name].split("\n"))))
        for name in survivors
    }


def source(part: str) -> str:
    """Return the code of a module."""
    return (ROOT / f"{part.replace('.', '/')}.py").read_text(encoding="utf-8")


def changed_modules(part: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the changes of a module: the name, and the code of all of it."""
    module, changes, *_ = create_mutations(part, source(part))
    for number, change in enumerate(changes, 1):
        name = f"{part}.mutmut_{number}"
        if any(fnmatch(name, pattern) for pattern in names):
            changed: Any = module.deep_replace(change.original_node, change.mutated_node)
            yield name, changed.code


def start(part: str, code: str) -> BaseProcess:
    """Run the tests of a module with this code, in a process of their own."""
    process = get_context("fork").Process(target=run_tests, args=[part, code])
    process.start()
    return process


def run_tests(part: str, code: str) -> None:
    """Run the tests of a module with this code; the exit status tells what they found."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for output in (1, 2):
            os.dup2(nowhere.fileno(), output)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    spec = find_spec(part)
    assert spec is not None
    sys.modules[part] = module = module_from_spec(spec)
    exec(code, module.__dict__)
    for test in PARTS[part]:
        if status := pytest.main([*OPTIONS, f"tests/{test}"]):
            sys.exit(int(status))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
