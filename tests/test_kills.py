"""The service killed at random moments under load, judged by what its clients saw."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.proof.checker import check
from tests.proof.history import Add, History
from tests.proof.load import Target, load, next_port, requests_of
from tests.proof.tables import contradictions, snapshot
from tests.running import Running

KILLS = 20
FINISHES = 200
"""A run in which fewer tasks were done proves nothing."""
WAITS = (*(0.0,) * 16, 0.000_5, 0.003, 0.02, 0.05)


@pytest.mark.timeout(180)
def test_killed_twenty_times_under_load_no_acknowledged_task_is_lost_doubled_or_early(
    tmp_path: Path,
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    history, target = History(), Target()
    running = Running(tmp_path)
    try:
        with load(target, history, seed, waits=WAITS, pause=0.003, keyed=0.5):
            for _ in range(KILLS):
                next_port(target, running.port)
                time.sleep(chance.uniform(0.02, 0.3))
                with history.fault():
                    target.up.clear()
                    running.kill()
                    running = Running(tmp_path)
            next_port(target, running.port)
            time.sleep(0.3)
        deadline = time.monotonic() + 20
        while running.request("GET", "/api/v1/queue")[1]["depth"]:
            assert time.monotonic() < deadline, "the queue is not drained"
            time.sleep(0.01)
        assert running.stop() == 0
    finally:
        running.kill()
    verdict = check(history, snapshot(tmp_path / "queue.db"), finishes=FINISHES)
    assert verdict.violations == (), f"seed {seed}: {verdict.summary}"
    assert verdict.valid, verdict.summary
    assert contradictions(tmp_path / "queue.db") == []
    # The run had what makes it hard: answers that were lost, and retries under a key.
    assert verdict.counts.unknown > 0, verdict.summary
    keys = [each.request.key for each in requests_of(history, Add) if isinstance(each.request, Add)]
    tried = [key for key in keys if key]
    assert len(set(tried)) < len(tried), "no add was retried"
