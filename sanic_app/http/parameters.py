"""Request parameters: parses queries, headers and numbers in paths.

Unless it says otherwise, a function raises ``Invalid`` with a fault for each parameter that is
wrong, missing, unknown or given twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sanic_app.errors import Fault, Invalid, NotFound
from sanic_app.http.schemas import (
    AFTER,
    CURSOR_PATTERN,
    FAULTS_MAX,
    HISTORY_NUM,
    HISTORY_NUM_PATTERN,
    HOLD_MAX,
    KEY_MAX,
    KEY_PATTERN,
    LIMIT,
    WAIT_MAX,
)
from sanic_app.http.shape import Json, printable
from sanic_app.task import HISTORY_NUM_MAX


def parse_key(values: Sequence[str]) -> str | None:
    """Return the idempotency key from the header lines, or None."""
    if not values:
        return None
    key = values[0]
    if len(values) > 1 or len(key) > KEY_MAX or not re.fullmatch(KEY_PATTERN, key):
        message = f"Idempotency-Key must be one value of 1 to {KEY_MAX} visible ASCII characters."
        raise Invalid(Fault("", message))
    return key


def parse_cursor(values: Sequence[str]) -> tuple[str, int, int] | None:
    """Return lineage and numbers of the cursor from the header lines, or None.

    Earlier services sent ids without a lineage: it is empty then.
    """
    if not values or values == [""]:
        return None
    if len(values) == 1 and re.fullmatch(CURSOR_PATTERN, values[0]):
        *lineage, added, finished = values[0].split(".")
        if max(int(added), int(finished)) <= HISTORY_NUM_MAX:
            return "".join(lineage), int(added), int(finished)
    raise Invalid(Fault("", "Last-Event-ID must be the id of a message of this stream."))


def parse_page(query: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Return ``after`` and ``limit`` of a page."""
    numbers = _whole_numbers(query, {"after": AFTER, "limit": LIMIT})
    return numbers["after"], numbers["limit"]


def parse_range(query: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Return ``from`` and ``to`` of a range of history numbers, both inclusive."""
    numbers = _whole_numbers(query, {"from": HISTORY_NUM, "to": HISTORY_NUM})
    if numbers["from"] > numbers["to"]:
        raise Invalid(Fault("", "The query parameter from must not be greater than to."))
    return numbers["from"], numbers["to"]


def parse_wait(query: Sequence[tuple[str, str]]) -> float:
    """Return how many seconds to hold the answer at most, 0 by default."""
    values = [value for name, value in query if name == "wait"]
    refuse_query([(name, value) for name, value in query if name != "wait"])
    if len(values) > 1:
        raise Invalid(Fault("", "The query parameter wait is given twice."))
    text = values[0] if values else "0"
    number = r"[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?"
    if not re.fullmatch(number, text) or float(text) > WAIT_MAX:
        message = f"The query parameter wait must be a number of seconds from 0 to {WAIT_MAX}."
        raise Invalid(Fault("", message))
    return min(float(text), HOLD_MAX)


def refuse_query(query: Sequence[tuple[str, str]]) -> None:
    """Refuse any query parameter."""
    if query:
        unknown = (name for name, _ in query[:FAULTS_MAX])
        raise Invalid(*(Fault("", f"Unknown query parameter {printable(n)}.") for n in unknown))


def parse_history_num(text: str) -> int:
    """Return the history number of a path.

    Raises:
        NotFound: it is not a positive 64-bit integer.
    """
    if not re.fullmatch(HISTORY_NUM_PATTERN, text) or not _in_range(text, HISTORY_NUM):
        raise NotFound(NotFound.no_task)
    return int(text)


def _whole_numbers(query: Sequence[tuple[str, str]], schemas: Mapping[str, Json]) -> dict[str, int]:
    """Return the parameters as their schemas say; one without a default is required."""
    given: dict[str, str] = {}
    faults: list[Fault] = []
    for name, value in query:
        if len(faults) >= FAULTS_MAX:
            break
        if name not in schemas:
            faults.append(Fault("", f"Unknown query parameter {printable(name)}."))
        elif name in given:
            faults.append(Fault("", f"The query parameter {name} is given twice."))
        given[name] = value
    numbers = {}
    for name, schema in schemas.items():
        text = given.get(name, str(schema.get("default", "")))
        if name not in given and not text:
            faults.append(Fault("", f"The query parameter {name} is required."))
        elif _in_range(text, schema):
            numbers[name] = int(text)
        else:
            low, high = schema["minimum"], schema["maximum"]
            message = f"The query parameter {name} must be a whole number from {low} to {high}."
            faults.append(Fault("", message))
    if faults:
        raise Invalid(*faults[:FAULTS_MAX])
    return numbers


def _in_range(text: str, schema: Json) -> bool:
    """Return whether the text is a whole number that the schema allows."""
    digits = re.fullmatch("[0-9]{1,19}", text) is not None
    return digits and bool(schema["minimum"] <= int(text) <= schema["maximum"])
