"""schemathesis asks a running service whatever its document allows and forbids.

Each run takes SCHEMATHESIS_SECONDS; more of them find more, as in `tests/proof/odd_input.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.proof.odd_input import explore
from tests.running import Running

SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "6")
TOKEN = "of-this-test"


@pytest.mark.timeout(90 + int(SECONDS))
@pytest.mark.parametrize("token", ["", TOKEN], ids=["without a token", "with a token"])
def test_all_checks_of_schemathesis_find_nothing(tmp_path: Path, token: str) -> None:
    with Running(tmp_path, environ={"SANIC_APP_API_TOKEN": token} if token else {}) as service:
        found = explore(service, tmp_path, token, int(SECONDS))
        assert found.returncode == 0, found.stdout
        assert service.request("GET", "/health/ready")[1]["reason"] in ("ok", "paused")
        assert service.stop() == 0
    levels = {json.loads(line)["level"] for line in service.lines}
    assert levels <= {"INFO", "WARNING"}, service.log
