"""Changes the core in small ways, and lists the changes that no test notices.

mutmut makes the changes. Inside functions it tries them too: [tool.mutmut] in pyproject.toml says
in which modules, and by which tests. ``AT_IMPORT`` works while it is imported, before mutmut
chooses a change: its changes are tried here, each in a process that imports it so changed.

mutants.md beside this file explains survivors. Fails when less than nine of ten changes of a part
are noticed.
"""

from __future__ import annotations

import argparse
import difflib
import os
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
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import create_mutations

PARTS = (
    "sanic_app.store.transition",
    "sanic_app.queue",
    "sanic_app.http.guard",
    "sanic_app.http.schemas",
)
LEAST = 0.9
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}
UNKNOWN = {"not checked", "skipped", "check was interrupted by user"}
SECONDS = 3_600
"""What mutmut's run may take; the next one goes on where it ended."""
CHILDREN = os.cpu_count() or 1

AT_IMPORT = "sanic_app.http.schemas"
TESTS = ("tests/test_shapes.py", "tests/test_schemas.py")
"""Which decide about it."""
OPTIONS = (
    *("-x", "-q", "--noconftest", "-m", "not hypothesis", "--timeout=20"),
    *("-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
"""The tests need little, and are to be quick: what is imported here is imported for all."""
SLOW_IMPORTS = ("hypothesis", "sanic", "sanic_app.errors", "sanic_app.settings")
EXPLAINED = Path(__file__).with_suffix(".md")

Changed = dict[str, list[str]]
"""The lines that differ, by the name of the change."""


def main(arguments: Sequence[str]) -> int:
    """Try the changes whose names match, or all; return the exit status."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="patterns of the names of changes")
    names = parser.parse_args(arguments).names
    statuses: dict[str, str] = {}
    in_functions = [name for name in names if not name.startswith(AT_IMPORT)]
    if in_functions or not names:
        try:
            mutmut("run", "--max-children", str(CHILDREN), *in_functions, seconds=SECONDS)
        except subprocess.TimeoutExpired:
            say(f"not all could be tried within {SECONDS} s: the next run goes on from here")
            return 1
        statuses |= listed(mutmut("results", "--all", "true"))
    codes = dict(changed_modules(names or ["*"]))
    statuses |= try_at_import(codes)
    return report(statuses, codes)


def listed(results: str) -> dict[str, str]:
    """Return what mutmut printed of its results: each change and its status."""
    lines = (line.rpartition(":") for line in results.splitlines())
    return {name.strip(): status.strip() for name, _, status in lines if name}


def report(statuses: Mapping[str, str], codes: Mapping[str, str]) -> int:
    """Print what became of the changes; return 1 when too few were noticed."""
    tried = {name: status for name, status in statuses.items() if status not in UNKNOWN}
    survivors = [name for name, status in tried.items() if status not in NOTICED]
    explained = EXPLAINED.read_text(encoding="utf-8")
    for name in survivors:
        diff = difference(codes[name]) if name in codes else get_diff_for_mutant(name).splitlines()
        change = changed_lines(diff)
        known = all(f"\n- {line[1:].strip()}" in explained for line in change if line[0] == "-")
        say(f"{name}: {tried[name]}{', see mutants.md' if known else ''}")
        for line in change:
            say(f"    {line}")
    short = False
    for part in PARTS:
        total = sum(name.startswith(f"{part}.") for name in tried)
        left = sum(name.startswith(f"{part}.") for name in survivors)
        if total:
            share = 1 - left / total
            short |= share < LEAST
            say(f"{part}: {total - left} of {total} noticed, {share:.1%}")
    say(f"at least {LEAST:.0%} of each must be")
    return int(short or not tried)


def changed_lines(diff: Sequence[str]) -> list[str]:
    """Return the lines of a diff that differ."""
    return [
        line for line in diff if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))
    ]


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def mutmut(*arguments: str, seconds: float | None = None) -> str:
    """Run the tool and return what it printed; a run shows its progress instead."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        stdout=None if arguments[0] == "run" else subprocess.PIPE,
        text=True,
        check=True,
        timeout=seconds,
    )
    return done.stdout or ""


# What works while it is imported.


def source() -> tuple[Path, str]:
    """Return the file of the module, and its code."""
    spec = find_spec(AT_IMPORT)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin)
    return path, path.read_text(encoding="utf-8")


def changed_modules(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the changes of the module whose names match: the name, and the code of all."""
    path, code = source()
    module, changes, *_ = create_mutations(str(path), code)
    for number, change in enumerate(changes, 1):
        name = f"{AT_IMPORT}.mutmut_{number}"
        if any(fnmatch(name, pattern) for pattern in patterns):
            changed: Any = module.deep_replace(change.original_node, change.mutated_node)
            yield name, changed.code


def difference(code: str) -> list[str]:
    """Return how the module's code was changed."""
    _, before = source()
    return list(difflib.unified_diff(before.splitlines(), code.splitlines(), n=0, lineterm=""))


def try_at_import(codes: Mapping[str, str]) -> dict[str, str]:
    """Run the tests on each changed module; return what became of them."""
    if not codes:
        return {}
    for name in SLOW_IMPORTS:
        import_module(name)
    clean = start(source()[1])
    clean.join()
    assert clean.exitcode == 0, "the tests fail without any change"
    todo, found = list(codes.items())[::-1], dict[str, str]()
    running: dict[str, BaseProcess] = {}
    while todo or running:
        while todo and len(running) < CHILDREN:
            name, code = todo.pop()
            running[name] = start(code)
        wait([process.sentinel for process in running.values()])
        for name, process in list(running.items()):
            if process.exitcode is not None:
                found[name] = "killed" if running.pop(name).exitcode else "survived"
    return found


def start(code: str) -> BaseProcess:
    """Run the tests on this code of the module, in a process of their own."""
    process = get_context("fork").Process(target=attempt, args=[code])
    process.start()
    return process


def attempt(code: str) -> None:
    """Run the tests on this code of the module; the exit status tells what they found."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for output in (1, 2):
            os.dup2(nowhere.fileno(), output)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    spec = find_spec(AT_IMPORT)
    assert spec is not None
    sys.modules[AT_IMPORT] = module = module_from_spec(spec)
    exec(code, module.__dict__)
    sys.exit(int(pytest.main([*OPTIONS, *TESTS])))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
