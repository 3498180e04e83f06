"""The service itself with one thing changed: ``python -m tests.bench.launch HOW [flags]``.

``alone``: one commit for each write. ``fine``: lateness is counted in steps of 10 µs.
"""

from __future__ import annotations

import sys

import sanic_app.metrics
import sanic_app.queue.waiting
from sanic_app.__main__ import main

FINE = tuple(step / 100_000 for step in range(1, 2_001))


def launch(how: str, flags: list[str]) -> int:
    if how == "alone":
        # A commit takes one write at least, and no second one fits.
        sanic_app.queue.waiting.COMMIT_WEIGHT = 1
    elif how == "fine":
        sanic_app.metrics.LATENESS_BUCKETS = FINE  # type: ignore[misc, assignment]
    else:
        sys.exit(f"{how}: alone or fine")
    return main(flags)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1], sys.argv[2:]))
