"""Do the tables agree with the state row?"""

from __future__ import annotations

from types import NoneType
from typing import NamedTuple

from sanic_app.store import WAIT_SUM_MODULUS, Figures
from sanic_app.task import STAMP_MAX


class Ends(NamedTuple):
    """What the tables hold at their ends; None where they are empty."""

    first: int | None
    """The history number of the first of the queue; likewise below."""
    first_created_at: int | None
    first_timeout: int | None
    first_wait_sum: int | None
    last: int | None
    last_created_at: int | None
    last_wait_sum: int | None
    last_in_history: int | None
    first_finish_num: int | None
    last_finish_num: int | None
    last_finished_at: int | None


def agrees(state: Figures, ends: Ends) -> bool:
    """Return whether the state row contradicts neither itself nor the ends of the tables."""
    numbers = (*state[:6], state.paused, state.pruned)
    if any(type(value) is not int or value < 0 for value in numbers):
        return False
    others = (state.oldest_created_at, state.head, state.head_started_at, *ends)
    if any(type(value) not in (int, NoneType) for value in others):
        # SQLite returns whatever a damaged page has in their place.
        return False
    return (
        state.paused in (0, 1)
        and state.pruned <= state.last_finish_num
        and state.depth == state.last_history_num - state.last_finish_num
        and (state.depth > 0 or state.backlog == 0)
        and (state.depth == 0) == (ends.first is None)
        and max(ends.last or 0, ends.last_in_history or 0) <= state.last_history_num
        and (ends.first_finish_num or state.last_finish_num + 1) == state.pruned + 1
        and (ends.last_finish_num or state.pruned) == state.last_finish_num
        and state.oldest_created_at == ends.first_created_at
        and max(ends.last_created_at or 0, ends.last_finished_at or 0) <= state.last_stamp
        and state.last_stamp <= STAMP_MAX
        and _sums_agree(state, ends)
        and _head_agrees(state, ends)
    )


def _sums_agree(state: Figures, ends: Ends) -> bool:
    span = (ends.last or 0) - (ends.first or 1) + 1
    waits = ((ends.last_wait_sum or 0) - (ends.first_wait_sum or 0)) % WAIT_SUM_MODULUS
    return (
        span >= state.depth
        # Where no number is missing between the ends, the sums say what the waits add up to.
        and (span > state.depth or state.backlog == waits + (ends.first_timeout or 0))
        and (ends.last != state.last_history_num or state.wait_sum == (ends.last_wait_sum or 0))
    )


def _head_agrees(state: Figures, ends: Ends) -> bool:
    if state.head is None or state.head_started_at is None:
        idle = state.depth == 0 or state.paused == 1
        return idle and state.head is None and state.head_started_at is None
    started_at = state.head_started_at
    return state.head == ends.first and (ends.first_created_at or 0) <= started_at <= (
        state.last_stamp
    )
