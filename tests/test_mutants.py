"""What `make mutants` makes of the results; the run itself takes half an hour."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parents[1]

DIFF = """\
# sanic_app.a.x_f__mutmut_1: survived
--- sanic_app/a.py
+++ sanic_app/a.py
@@ -1,2 +1,2 @@
 def f():
-    return 1
+    return 2
"""


@pytest.mark.parametrize(
    ("killed", "survived", "status"), [(9, 1, 0), (8, 1, 1), (0, 0, 1), (10, 0, 0)]
)
def test_nine_of_ten_must_be_noticed(
    killed: int,
    survived: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mutants, "mutmut", lambda *_: DIFF)
    lines = [f"    sanic_app.a.x_f__mutmut_{n}: killed" for n in range(killed)]
    lines += [f"    sanic_app.a.x_g__mutmut_{n}: survived" for n in range(survived)]
    lines += [f"    sanic_app.a.x_h__mutmut_{n}: not checked" for n in range(50)]
    assert mutants.report("\n".join(lines)) == status
    shown = capsys.readouterr().out
    assert shown.count("-    return 1") == shown.count("+    return 2") == survived
    if killed + survived:
        assert f"sanic_app.a: {killed} of {killed + survived} noticed" in shown


def test_mutants_and_their_tests_are_files_of_the_repository() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    for pattern in config["only_mutate"]:
        assert list(ROOT.glob(pattern)), pattern
    for argument in config["pytest_add_cli_args_test_selection"]:
        path, _, test = argument.removeprefix("--deselect=").partition("::")
        assert (ROOT / path).exists()
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


def test_what_is_explained_is_in_the_code() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "sanic_app").rglob("*.py"))
    explained = mutants.EXPLAINED.read_text(encoding="utf-8").splitlines()
    for line in explained:
        if line.startswith("- "):
            assert line[2:].strip() in code, line
