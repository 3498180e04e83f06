"""What comes in: bodies, queries, headers and paths become values, or the request is refused.

Parsing is strict. What JSON leaves open is refused: duplicate keys, numbers that are not finite,
integers written as ``1.0``. A decimal timeout is read as the decimal that was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from sanic_app.errors import Fault, Invalid, NotFound
from sanic_app.http.schemas import (
    AFTER,
    CURSOR_PATTERN,
    HISTORY_NUM,
    HISTORY_NUM_PATTERN,
    KEY_MAX,
    KEY_PATTERN,
    LIMIT,
    NUM_MAX,
    NUM_MIN,
    WAIT_MAX,
    seconds,
)
from sanic_app.http.shape import Json
from sanic_app.task import HISTORY_NUM_MAX, SECOND, NewTask

FAULTS_MAX: Final = 20
"""The most faults of a batch that are reported."""
_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)

# Bodies.


def parse_new_task(body: bytes, timeout_max: int) -> NewTask:
    """Return the task that the body asks for; ``timeout_max`` is in microseconds.

    Raises:
        Invalid: with a fault for each thing that is wrong.
    """
    return _new_task(parse_object(body), "", timeout_max)


def parse_new_tasks(body: bytes, timeout_max: int, batch_max: int) -> list[NewTask]:
    """Return the tasks that the body of a batch asks for, 1 to ``batch_max``.

    Raises:
        Invalid: with a fault for each thing that is wrong, the first ``FAULTS_MAX`` of them.
    """
    fields = parse_object(body)
    faults = [Fault(_pointer(name), "Unknown field.") for name in fields if name != "tasks"]
    items = fields.get("tasks")
    if "tasks" not in fields:
        faults.append(Fault("/tasks", "This field is required."))
    elif not isinstance(items, list) or not 1 <= len(items) <= batch_max:
        faults.append(Fault("/tasks", f"Must be a list of 1 to {batch_max} tasks."))
    if faults:
        raise Invalid(*faults[:FAULTS_MAX])
    tasks: list[NewTask] = []
    for index, item in enumerate(items or ()):
        try:
            tasks.append(_new_task(item, f"/tasks/{index}", timeout_max))
        except Invalid as error:
            faults += error.faults
            if len(faults) >= FAULTS_MAX:
                break
    if faults:
        raise Invalid(*faults[:FAULTS_MAX])
    return tasks


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the body's JSON object, its decimals as ``Decimal``.

    Raises:
        Invalid: the body is not one JSON object in UTF-8, or a key stands twice.
    """
    try:
        text = body.decode()
        try:
            value = _decoder.decode(text)
        except _KeyTwice:
            pointers = list(_keys_twice(_pairs_decoder.decode(text)))
            raise Invalid(*(Fault(each, "This key stands twice.") for each in pointers)) from None
    except UnicodeDecodeError:
        raise Invalid(Fault("", "The body is not UTF-8.")) from None
    except (ValueError, InvalidOperation, RecursionError):
        # Among them numbers that no decimal can hold, and integers of thousands of digits.
        raise Invalid(Fault("", "The body is not valid JSON.")) from None
    if not isinstance(value, dict):
        raise Invalid(Fault("", "The body must be a JSON object."))
    return value


def parse_key(values: Sequence[str]) -> str | None:
    """Return the idempotency key of a request's header lines, if there is one.

    Raises:
        Invalid: two keys, or one that is not 1 to 255 visible ASCII characters.
    """
    if not values:
        return None
    key = values[0]
    if len(values) > 1 or len(key) > KEY_MAX or not re.fullmatch(KEY_PATTERN, key):
        message = f"Idempotency-Key must be one value of 1 to {KEY_MAX} visible ASCII characters."
        raise Invalid(Fault("", message))
    return key


def parse_cursor(values: Sequence[str]) -> tuple[int, int] | None:
    """Return the two numbers of the cursor in a listener's header lines, if there is one.

    Raises:
        Invalid: two cursors, or one that is not the id of any message.
    """
    if not values or values == [""]:
        return None
    if len(values) == 1 and re.fullmatch(CURSOR_PATTERN, values[0]):
        added, finished = map(int, values[0].split("."))
        if max(added, finished) <= HISTORY_NUM_MAX:
            return added, finished
    raise Invalid(Fault("", "Last-Event-ID must be the id of a message of this stream."))


def parse_page(query: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Return ``after`` and ``limit`` of a page.

    Raises:
        Invalid: with a fault for each parameter that is wrong, unknown or given twice.
    """
    numbers = _whole_numbers(query, {"after": AFTER, "limit": LIMIT})
    return numbers["after"], numbers["limit"]


def parse_range(query: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Return ``from`` and ``to`` of a range of history numbers, both inclusive.

    Raises:
        Invalid: with a fault for each parameter that is missing, wrong, unknown or given twice.
    """
    numbers = _whole_numbers(query, {"from": HISTORY_NUM, "to": HISTORY_NUM})
    if numbers["from"] > numbers["to"]:
        raise Invalid(Fault("", "The query parameter from must not be greater than to."))
    return numbers["from"], numbers["to"]


def parse_wait(query: Sequence[tuple[str, str]]) -> float:
    """Return how many seconds the answer may be held, 0 by default.

    Raises:
        Invalid: with a fault for each parameter that is wrong, unknown or given twice.
    """
    values = [value for name, value in query if name == "wait"]
    refuse_query([(name, value) for name, value in query if name != "wait"])
    if len(values) > 1:
        raise Invalid(Fault("", "The query parameter wait is given twice."))
    text = values[0] if values else "0"
    number = r"[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?"
    if not re.fullmatch(number, text) or float(text) > WAIT_MAX:
        message = f"The query parameter wait must be a number of seconds from 0 to {WAIT_MAX}."
        raise Invalid(Fault("", message))
    return float(text)


def refuse_query(query: Sequence[tuple[str, str]]) -> None:
    """Refuse query parameters where none are known.

    Raises:
        Invalid: there is one.
    """
    if query:
        raise Invalid(*(Fault("", f"Unknown query parameter {_shown(n)}.") for n, _ in query))


def parse_history_num(text: str) -> int:
    """Return the history number of a path.

    Raises:
        NotFound: it is no positive 64-bit integer.
    """
    if not re.fullmatch(HISTORY_NUM_PATTERN, text) or not _in_range(text, HISTORY_NUM):
        raise NotFound
    return int(text)


# Below: the parts.


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _KeyTwice
    return fields


class _KeyTwice(Exception):
    """Some object has a key twice; where it lies is found by a second look."""


class _Pairs(list[tuple[str, Any]]):
    """An object as it was sent."""


def _keys_twice(value: Any, pointer: str = "") -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for name, inner in value:
            here = pointer + _pointer(name)
            if name in seen:
                yield here
            seen.add(name)
            yield from _keys_twice(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys_twice(inner, f"{pointer}/{index}")


def _constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Decimal, parse_constant=_constant
)
_pairs_decoder = json.JSONDecoder(object_pairs_hook=_Pairs)


def _new_task(fields: Any, pointer: str, timeout_max: int) -> NewTask:
    if type(fields) is not dict:
        raise Invalid(Fault(pointer, "Must be a JSON object."))
    num, timeout = fields.get("num"), fields.get("timeout")
    if (
        len(fields) == len(_READERS)
        and type(num) is int
        and type(timeout) is int
        and NUM_MIN <= num <= NUM_MAX
        and 0 <= timeout * SECOND <= timeout_max
    ):
        return NewTask(num, timeout * SECOND)
    faults = [
        Fault(pointer + _pointer(name), "Unknown field.") for name in fields if name not in _READERS
    ]
    values: dict[str, int] = {}
    for name, read in _READERS.items():
        try:
            values[name] = read(fields[name], timeout_max)
        except KeyError:
            faults.append(Fault(f"{pointer}/{name}", "This field is required."))
        except ValueError as error:
            faults.append(Fault(f"{pointer}/{name}", str(error)))
    if faults:
        raise Invalid(*faults)
    return NewTask(**values)


def _num(value: Any, _: int) -> int:
    if type(value) is not int or not NUM_MIN <= value <= NUM_MAX:
        raise ValueError("Must be an integer in the range of a signed 64-bit number.")
    return value


def _timeout(value: Any, timeout_max: int) -> int:
    if type(value) is int:
        # Compared before it is multiplied: it may have thousands of digits.
        micros = value * SECOND if 0 <= value <= timeout_max else -1
    elif isinstance(value, Decimal) and 0 <= value <= timeout_max:
        # The default context would keep 28 digits, and round what lies beyond them away.
        micros = int(_EXACT.scaleb(value, 6).to_integral_value(ROUND_CEILING, _EXACT))
    else:
        micros = -1
    if not 0 <= micros <= timeout_max:
        raise ValueError(f"Must be a number of seconds from 0 to {seconds(timeout_max)}.")
    return micros


_READERS: Final[Mapping[str, Callable[[Any, int], int]]] = {"num": _num, "timeout": _timeout}
"""How the fields of a new task are read; each reader also takes the greatest timeout."""


def _whole_numbers(query: Sequence[tuple[str, str]], schemas: Mapping[str, Json]) -> dict[str, int]:
    """Return the parameters by their schemas; one without a default is required."""
    given: dict[str, str] = {}
    faults = []
    for name, value in query:
        if name not in schemas:
            faults.append(Fault("", f"Unknown query parameter {_shown(name)}."))
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
        raise Invalid(*faults)
    return numbers


def _in_range(text: str, schema: Json) -> bool:
    """Return whether the text is a whole number that the schema allows."""
    digits = re.fullmatch("[0-9]{1,19}", text) is not None
    return digits and bool(schema["minimum"] <= int(text) <= schema["maximum"])


def _pointer(name: str) -> str:
    """Return a JSON pointer to a field (RFC 6901), made harmless and short."""
    return "/" + _shown(name).replace("~", "~0").replace("/", "~1")


def _shown(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode()[:64]
