"""A short selection of proofs, each with its control (`make proof` runs all of all of them)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.proof.machine import lacking
from tests.proof.outcome import Scale, table
from tests.proof.proofs import PROOFS, Proof

SEED = int(os.environ.get("PROOF_SEED", "1"))

pytestmark = pytest.mark.system


SHORT = [proof for proof in PROOFS if not proof.long]


@pytest.mark.parametrize("proof", SHORT, ids=lambda proof: proof.name)
def test_nothing_is_lost_and_the_control_fails(proof: Proof, tmp_path: Path) -> None:
    if lacks := lacking(proof.needs):
        pytest.skip(lacks)
    outcome = proof.run(SEED, Scale.SHORT, tmp_path.resolve())
    assert outcome.holds, table([outcome])
