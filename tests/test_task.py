"""The pure rules of a task."""

from __future__ import annotations

import pytest

from sanic_app.task import SECOND, State, date, seconds_left


@pytest.mark.parametrize(
    ("started_at", "timeout", "now", "left"),
    [
        (100, 3 * SECOND, 100, 3.0),
        (100, 3 * SECOND, 100 + SECOND, 2.0),
        (100, 3 * SECOND, 100 + 3 * SECOND - 1, 0.000001),
        (100, 3 * SECOND, 100 + 3 * SECOND, 0.0),
        (100, 3 * SECOND, 100 + 90 * SECOND, 0.0),
        # The wall clock went back while the process was down: never longer than the timeout.
        (10 * SECOND, 3 * SECOND, 0, 3.0),
        (100, 0, 50, 0.0),
    ],
)
def test_the_rest_of_a_wait_lies_between_nothing_and_the_timeout(
    started_at: int, timeout: int, now: int, left: float
) -> None:
    assert seconds_left(started_at, timeout, now) == left


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (999_999, "1970-01-01T00:00:00.999999Z"),
        (1_795_468_508_359_203, "2026-11-23T21:15:08.359203Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_stamp_is_written_in_utc_with_all_six_digits(stamp: int, text: str) -> None:
    assert date(stamp) == text


def test_the_states_are_the_words_of_the_contract() -> None:
    assert [str(state) for state in State] == ["queued", "waiting", "done", "cancelled"]
