"""Changes the core in small ways, and lists the changes that no test notices.

[tool.mutmut] in pyproject.toml says which modules, and which tests. mutants.md beside this file
explains survivors. Fails when less than nine of ten changes are noticed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

LEAST = 0.9
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}
UNKNOWN = {"not checked", "skipped", "check was interrupted by user"}
SECONDS = 3_600
"""What a whole run may take; the next one goes on where it ended."""

EXPLAINED = Path(__file__).with_suffix(".md")


def main(arguments: Sequence[str]) -> int:
    """Run the mutants whose names match, or all; return the exit status."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="patterns of the names of mutants")
    names = parser.parse_args(arguments).names
    children = str(os.cpu_count() or 1)
    try:
        mutmut("run", "--max-children", children, *names, seconds=SECONDS)
    except subprocess.TimeoutExpired:
        say(f"not all could be tried within {SECONDS} s: the next run goes on from here")
        return 1
    return report(mutmut("results", "--all", "true"))


def report(results: str) -> int:
    """Print what became of the mutants; return 1 when too few were noticed."""
    statuses = {
        name.strip(): status.strip()
        for name, _, status in (line.rpartition(":") for line in results.splitlines())
        if name
    }
    tried = {name: status for name, status in statuses.items() if status not in UNKNOWN}
    survivors = [name for name, status in tried.items() if status not in NOTICED]
    explained = EXPLAINED.read_text(encoding="utf-8")
    for name in survivors:
        change = changed_lines(mutmut("show", name))
        known = all(f"\n- {line[1:].strip()}" in explained for line in change if line[0] == "-")
        say(f"{name}: {tried[name]}{', see mutants.md' if known else ''}")
        for line in change:
            say(f"    {line}")
    totals, left = Counter(map(module, tried)), Counter(map(module, survivors))
    for name, total in totals.items():
        say(f"{name}: {total - left[name]} of {total} noticed")
    share = 1 - len(survivors) / len(tried) if tried else 0.0
    say(f"{share:.1%} noticed; at least {LEAST:.0%} must be")
    return int(share < LEAST)


def module(name: str) -> str:
    """Return the module of a mutant: what stands before its mangled function."""
    return name.rpartition(".")[0]


def changed_lines(diff: str) -> list[str]:
    """Return the lines of a diff that differ."""
    return [
        line
        for line in diff.splitlines()
        if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))
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


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
