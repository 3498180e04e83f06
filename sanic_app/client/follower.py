"""The results in order, each once, over restarts of the service and of the follower.

The pages of the result list are the truth, and the stream of events is the bell: each message says
that it is time to look, and its id says how far the service has told. A page begins with the last
result that was dealt with. As long as it is there, nothing behind it was removed, because retention
removes the oldest finishes first and tasks finish in order. When it is not there any more, the
service says whether something is missing: it answers an id with ``reset`` when retention has
removed finishes behind it, or when it has another database.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from http import HTTPStatus
from typing import NoReturn

from sanic_app.client.actions import Command, Printing
from sanic_app.client.cursor import Cursor, Identity, Position, Result
from sanic_app.client.output import tell
from sanic_app.client.service import TASK, Event, Failed, Refused, Service
from sanic_app.errors import EXIT_RESET

PAGE = 1_000
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds before another connection; each pause is twice as long as the one before."""

LOOK_SECONDS = 1.0
"""How long to wait between two looks while there are only adds to be told of."""


class Reset(Failed):
    """Not all of what follows can be told any more."""

    exit_status = EXIT_RESET


class Follower:
    """Deals with each result of a service."""

    def __init__(
        self, service: Service, cursor: Cursor, action: Printing | Command, *, from_reset: bool
    ) -> None:
        """Take what is followed, from where, and what to do; ``from_reset``: go on over a reset."""
        self._service = service
        self._cursor = cursor
        self._action = action
        self._from_reset = from_reset
        self._starting_over = False
        self._looked_at = 0.0
        self._pause = FIRST_PAUSE
        self._lost = False

    def run(self) -> NoReturn:
        """Follow for ever.

        Raises:
            Reset: not all of what follows can be told.
            Failed: the service refuses, or the action failed.
        """
        while True:
            try:
                self._listen()
            except Failed as error:
                if not error.passes:
                    raise
                if not self._lost:
                    tell(f"{error}; trying again")
                self._lost = True
            time.sleep(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _listen(self) -> None:
        """Look at the results after each message of one stream, until it ends."""
        known = self._cursor.position.event
        with closing(self._service.events(known)) as events:
            # First comes an id: the one that was sent, or that of this moment.
            first = next(events)
            if known:
                self._look(self._check_same)
            else:
                self._look(self._deal_with_all)
                self._cursor.heard(first.id)
            for event in events:
                if event.kind == "reset" and event.data.get("reason") != "removed":
                    self._look(self._cannot_go_on)
                    self._cursor.heard(event.id)
                elif self._tells(event):
                    # When finishes were removed: perhaps these results were dealt with already.
                    self._look(self._deal_with_all)
                    self._cursor.heard(event.id)
                elif not event.id:
                    self._cursor.settle()
                self._pause, self._lost = FIRST_PAUSE, False
                self._action.idle()

    def _tells(self, event: Event) -> bool:
        """Return whether there may be results after an event that were not there before."""
        if event.id in ("", self._cursor.position.event):
            return False
        # The adds that were missed come first, and they may be many.
        return event.kind != "added" or time.monotonic() - self._looked_at > LOOK_SECONDS

    def _look(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Reset as reset:
            if not self._from_reset:
                raise
            tell(f"{reset}; going on with what is there")
            self._start_over()
            self._deal_with_all()

    def _cannot_go_on(self) -> NoReturn:
        raise Reset(f"task {self._cursor.position.after} was followed in another database")

    def _deal_with_all(self) -> None:
        """Deal with every result that is there."""
        position = self._cursor.position
        if position.after is None:
            newest = self._newest()
            after = 0 if newest is None else newest.history_num
            self._cursor.move(position._replace(after=after, last=newest))
            return
        more = True
        while more:
            more = self._deal_with_page(self._cursor.position.after or 0)
        self._looked_at = time.monotonic()

    def _deal_with_page(self, after: int) -> bool:
        """Deal with results behind a history number; return whether there may be more."""
        page = self._service.results(max(after - 1, 0), PAGE)
        results = page if self._starting_over else self._behind(after, page)
        self._starting_over = False
        for result in results:
            if result["history_num"] > after:
                last = Identity.of(result)
                there = self._cursor.position._replace(after=last.history_num, last=last)
                self._action.deal_with(result, partial(self._cursor.move, there))
        return len(page) == PAGE

    def _behind(self, after: int, page: list[Result]) -> list[Result]:
        """Return the page when no result is missing between a history number and its first.

        Raises:
            Reset: some are missing, or the page is of another database.
        """
        first = page[0]["history_num"] if page else None
        self._check(after, page)
        if first not in (after, after + 1) and self._removed(after + 1):
            raise Reset(f"retention has removed results after task {after}")
        return page

    def _check_same(self) -> None:
        """Check that the database is still the one that was followed."""
        if after := self._cursor.position.after:
            self._check(after, self._service.results(after - 1, 1))

    def _check(self, after: int, page: list[Result]) -> None:
        """Check a page that begins with a history number if that is there.

        Raises:
            Reset: it is of another database.
        """
        last = self._cursor.position.last
        if after == 0 or (page and last == Identity.of(page[0])):
            return
        status = self._status(after)
        if status == HTTPStatus.NOT_FOUND:
            raise Reset(f"there is no task {after}: another database")
        if status == HTTPStatus.OK and last is not None:
            raise Reset(f"task {after} is not the one that was followed: another database")

    def _removed(self, number: int) -> bool:
        """Return whether retention has removed results from this number on that are not known."""
        if self._status(number) != HTTPStatus.GONE:
            # A task that is there was not removed, and nothing behind it was.
            return False
        event = self._cursor.position.event
        # The first time it has perhaps nothing to tell yet, and waits; the second time it has.
        return not event or "reset" in (self._first_after(event), self._first_after(event))

    def _first_after(self, event: str) -> str:
        """Return the kind of the first message after an event."""
        with closing(self._service.events(event)) as events:
            next(events)  # the id again
            return next(events).kind

    def _start_over(self) -> None:
        """Keep the position if it can be one of this database, else go to its beginning."""
        after, last, _ = self._cursor.position
        if after:
            page = self._service.results(after - 1, 1)
            there = bool(page) and last in (None, Identity.of(page[0]))
            if not there and self._status(after) != HTTPStatus.GONE:
                after, last = 0, None
        self._cursor.move(Position(after, last))
        self._starting_over = True

    def _newest(self) -> Identity | None:
        """Return the newest result. The list has no end that could be asked for: it is searched."""
        newest, low, high = None, 0, 1
        while page := self._service.results(low, 1):
            # Twice as far each time, until there is nothing behind.
            newest, high = page[0], page[0]["history_num"] * 2
            low = high
        low = 0 if newest is None else newest["history_num"]
        while low < high:
            middle = (low + high) // 2
            if page := self._service.results(middle, 1):
                newest, low = page[0], page[0]["history_num"]
            else:
                high = middle
        return None if newest is None else Identity.of(newest)

    def _status(self, number: int) -> int:
        """Return the status that the service answers for a task."""
        try:
            self._service.ask("GET", f"/api/v1/tasks/{number}", TASK)
        except Refused as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
                raise
            return error.status
        return HTTPStatus.OK
