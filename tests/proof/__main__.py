"""``python -m tests.proof``: run the proofs, and end in a table of what was tried and lost."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.proof.machine import lacking
from tests.proof.outcome import Outcome, Scale, table
from tests.proof.proofs import PROOFS, Proof


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every promise held and every control failed as meant."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--short", action="store_true", help="a selection, in minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[p.name for p in PROOFS])
    given = parser.parse_args(arguments)
    scale = Scale.SHORT if given.short else Scale.FULL
    _say(f"seed {given.seed}, {scale}")
    chosen = [proof for proof in PROOFS if not given.only or proof.name in given.only]
    outcomes: list[Outcome] = []
    failed: list[str] = []
    for proof in chosen:
        if lacks := lacking(proof.needs):
            failed.append(f"{proof.name}: {lacks}")
            _say(f"{proof.name:>16}  not run: {lacks}")
            continue
        begun = time.monotonic()
        outcome = _run(proof, given.seed, scale)
        seconds = time.monotonic() - begun
        if outcome is None:
            failed.append(f"{proof.name}: see the traceback above")
        else:
            outcomes.append(outcome)
        verdict = "holds" if outcome is not None and outcome.holds else "BROKEN"
        _say(f"{proof.name:>16}  {verdict}  {seconds:.1f} s")
        for line in () if outcome is None else (*outcome.broken, *outcome.missed):
            _say(f"{'':>16}  {line}")
    _say(f"\n{table(outcomes)}\n")
    for line in failed:
        _say(f"NOT PROVEN  {line}")
    total = sum(outcome.tried for outcome in outcomes)
    lost = sum(outcome.lost for outcome in outcomes)
    _say(f"seed {given.seed}: {total:,} faults tried, {lost:,} promises lost")
    return 0 if not failed and all(outcome.holds for outcome in outcomes) else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(proof: Proof, seed: int, scale: Scale) -> Outcome | None:
    with TemporaryDirectory(prefix="proof-") as folder:
        try:
            return proof.run(seed, scale, Path(folder).resolve())
        except Exception:  # noqa: BLE001 - one proof that cannot run must not hide the others
            traceback.print_exc()
            return None


if __name__ == "__main__":
    sys.exit(main())
