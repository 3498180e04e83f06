"""The clock of a server, as far as a node knows it."""

from __future__ import annotations

from sanic_app.store.stamps import Stamps
from sanic_app.task import SECOND
from tests.fake_clock import START, FakeClock

AHEAD = 60 * SECOND
"""By how much the server's clock is ahead of this machine's."""


def node() -> tuple[FakeClock, Stamps]:
    """Return the clock of a node that was answered at once."""
    clock = FakeClock()
    stamps = Stamps(clock)
    assert stamps.follow_server(START + AHEAD, 0, stamps.asking()) == START + AHEAD
    assert stamps.wall() == START + AHEAD
    return clock, stamps


def test_an_answer_that_took_long_moves_no_clock() -> None:
    clock, stamps = node()
    for waited in (1.5, 0.0):
        asked = stamps.asking()
        clock.advance(waited)
        shown = clock.wall() + AHEAD
        clock.advance(1.5 - waited)
        assert stamps.follow_server(shown, 0, asked) == shown
        assert stamps.wall() == clock.wall() + AHEAD


def test_an_answer_that_contradicts_what_was_known_counts() -> None:
    clock, stamps = node()
    for skew in (AHEAD - 2 * SECOND, AHEAD + 2 * SECOND, -AHEAD, AHEAD):
        asked = stamps.asking()
        clock.advance(0.1)
        stamps.follow_server(clock.wall() + skew, 0, asked)
        assert abs(stamps.wall() - clock.wall() - skew) <= 0.1 * SECOND


def test_an_answer_counts_for_nothing_when_this_clock_went_back_meanwhile() -> None:
    clock, stamps = node()
    asked = stamps.asking()
    clock.step_wall(-86_400)
    assert stamps.follow_server(START + AHEAD, 0, asked) == START + AHEAD
    assert stamps.wall() == clock.wall() + AHEAD
