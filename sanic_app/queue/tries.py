"""For how long commits have been tried in vain."""

from __future__ import annotations

from sanic_app.clock import Clock

STUCK_SECONDS = 10.0
"""After so long without a commit that returns, the queue counts as stuck."""
RETRIED_SECONDS = 1.0
"""After so long without another try it is not known whether one would still be in vain."""


class Tries:
    """The tries since the last commit that returned."""

    def __init__(self, clock: Clock) -> None:
        """Begin without any."""
        self._clock = clock
        self._since: float | None = None
        # When the last of them was given up; None: one goes on.
        self._given_up_at: float | None = None

    @property
    def stuck(self) -> bool:
        """Whether no commit has returned for a while, although there is something to commit."""
        since = self._since
        return (
            since is not None
            and self._clock.monotonic() - since > STUCK_SECONDS
            and not self._is_over()
        )

    def begin(self) -> float:
        """Begin a try, and return the moment on the monotonic clock."""
        now = self._clock.monotonic()
        if self._since is None or self._is_over():
            self._since = now
        self._given_up_at = None
        return now

    def give_up(self) -> None:
        """End a try in vain; the next one may be as vain."""
        self._given_up_at = self._clock.monotonic()

    def end(self) -> None:
        """End the tries: the store has answered."""
        self._since = None

    def _is_over(self) -> bool:
        """Return whether nobody has come since the last try was given up; the worker would."""
        at = self._given_up_at
        return at is not None and self._clock.monotonic() - at > RETRIED_SECONDS
