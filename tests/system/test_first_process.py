"""The service as the first process of a container, for which no signal has a default."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.running import Running

pytestmark = pytest.mark.system


def service_of(running: Running) -> int:
    """Return the process id of the one child, once it handles SIGTERM."""
    parent = running.process.pid
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        if children:
            status = Path(f"/proc/{children[0]}/status").read_text()
            (caught,) = re.findall(r"^SigCgt:\s+([0-9a-f]+)", status, re.MULTILINE)
            if int(caught, 16) & 1 << signal.SIGTERM - 1:
                return int(children[0])
        time.sleep(0.001)
    raise AssertionError("it handles no signals")


@pytest.mark.parametrize("delay", [0, 0.1, 0.2, 0.4])
def test_a_stop_during_the_start_is_not_lost(tmp_path: Path, delay: float) -> None:
    with Running(tmp_path, prefix=["unshare", "--fork", "--pid"], ready=False) as running:
        service = service_of(running)
        time.sleep(delay)
        os.kill(service, signal.SIGTERM)
        assert running.wait() == 0, running.log
