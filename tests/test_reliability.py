"""RELIABILITY.md speaks of what is there: each command in it is real, and each proof is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.proof import launch, launch_nodes
from tests.proof.proofs import PROOFS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")


def test_each_proof_has_its_row_and_each_row_its_proof() -> None:
    named = re.findall(r"`make proof ARGS=\"--only ([a-z-]+)\"`", PAGE)
    assert sorted(named) == sorted(proof.name for proof in PROOFS)


def test_each_command_is_a_target_of_make() -> None:
    targets = set(re.findall(r"^([a-z_-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    commands = set(re.findall(r"`make ([a-z-]+)", PAGE))
    assert commands
    assert commands <= targets


def test_each_file_that_it_names_is_there() -> None:
    for path in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path


def test_no_result_is_left_open() -> None:
    assert "RESULT" not in PAGE


@pytest.mark.parametrize("name", launch.CHANGES)
def test_each_control_finds_what_it_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the service has no more would end a proof that runs in no CI."""
    for module in (launch, launch_nodes):
        monkeypatch.setattr(module, "put", lambda owner, name, _: getattr(owner, name))
    launch.CHANGES[name]("1")
