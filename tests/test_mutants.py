"""What `make mutants` makes of the results; the run itself takes half an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parents[1]

PART = "sanic_app.http.guard"
CHANGE = ["-    return 1", "+    return 2"]


@pytest.mark.parametrize(
    ("killed", "survived", "status"), [(9, 1, 0), (8, 1, 1), (0, 0, 1), (10, 0, 0)]
)
def test_nine_of_ten_must_be_noticed(
    killed: int, survived: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"    {PART}.x_f__mutmut_{n}: killed" for n in range(killed)]
    lines += [f"    {PART}.x_g__mutmut_{n}: survived" for n in range(survived)]
    statuses = dict(mutants.listed("\n".join(lines)))
    differences = {name: CHANGE for name in statuses if "x_g" in name}
    assert mutants.report(statuses, differences) == status
    shown = capsys.readouterr().out
    assert [shown.count(line) for line in CHANGE] == [survived] * 2
    if killed + survived:
        share = killed / (killed + survived)
        assert f"{PART}: {killed} of {killed + survived} noticed, {share:.1%}" in shown


def test_each_part_must_reach_it() -> None:
    statuses = {f"sanic_app.queue.head.x_f__mutmut_{n}": "killed" for n in range(1_000)}
    assert mutants.report(statuses, {}) == 0
    assert mutants.report({**statuses, f"{PART}.x_g__mutmut_1": "survived"}, {}) == 1


def test_what_works_while_it_is_imported_is_tried_so_changed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", f"{mutants.AT_IMPORT}.mutmut_1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    # It has run the same tests without a change before, and they passed.
    assert f"{mutants.AT_IMPORT}: 1 of 1 noticed, 100.0%" in done.stdout, done.stderr
    assert done.returncode == 0


def test_mutants_and_their_tests_are_files_of_the_repository() -> None:
    for part, tests in mutants.PARTS.items():
        path = ROOT / part.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), part
        for test in (*tests, *mutants.SLOW):
            file, _, function = test.partition("::")
            assert (ROOT / "tests" / file).exists(), test
            if function:
                assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_what_is_explained_is_in_the_code() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "sanic_app").rglob("*.py"))
    explained = mutants.EXPLAINED.read_text(encoding="utf-8").splitlines()
    for line in explained:
        if line.startswith("- "):
            assert line[2:].strip() in code, line
