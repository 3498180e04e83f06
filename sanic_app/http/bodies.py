"""Request bodies: parses JSON into new tasks.

Parsing is strict. It refuses duplicate keys, numbers that are not finite, and integers written as
``1.0``. A timeout is read as the exact decimal that was sent. Each function raises ``Invalid`` with
a fault for each thing that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_CEILING, Context, Decimal, InvalidOperation
from itertools import islice
from typing import Any, Final, NoReturn

from sanic_app.errors import Fault, Invalid
from sanic_app.http.schemas import FAULTS_MAX, NUM_MAX, NUM_MIN, POINTER_MAX, seconds
from sanic_app.http.shape import printable
from sanic_app.task import SECOND, NewTask

NESTING_MAX: Final = 64
"""A body that is nested deeper is refused, however deep the interpreter's decoder would go."""
_NOT_JSON: Final = Fault("", "The body is not valid JSON.")
_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def parse_new_task(body: bytes, timeout_max: int) -> NewTask:
    """Return the task that the body asks for; ``timeout_max`` is in microseconds."""
    fields = parse_object(body)
    try:
        return _new_task(fields, "", timeout_max)
    except Invalid as error:
        raise _refusal(fields, error.faults) from None


def parse_new_tasks(body: bytes, timeout_max: int, batch_max: int) -> list[NewTask]:
    """Return the tasks that the body of a batch asks for, 1 to ``batch_max``."""
    size = Fault("/tasks", f"Must be a list of 1 to {batch_max} tasks.")
    # Two braces or brackets and a colon are around the tasks, a brace and two colons are in each.
    # More would have the garbage collector stop the event loop for up to a second while decoding.
    if sum(map(body.count, (b"{", b"[", b":"))) > 3 * (batch_max + 1):
        raise Invalid(size)
    fields = parse_object(body)
    faults = _unknown_fields(fields, {"tasks"}, "")
    items = fields.get("tasks")
    if "tasks" not in fields:
        faults.append(Fault("/tasks", "This field is required."))
    elif not isinstance(items, list) or not 1 <= len(items) <= batch_max:
        faults.append(size)
    if faults:
        raise _refusal(fields, faults)
    tasks: list[NewTask] = []
    for index, item in enumerate(items or ()):
        try:
            tasks.append(_new_task(item, f"/tasks/{index}", timeout_max))
        except Invalid as error:
            faults += error.faults
            if len(faults) >= FAULTS_MAX:
                break
    if faults:
        raise _refusal(fields, faults)
    return tasks


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the body's JSON object, its decimals as ``Decimal``."""
    try:
        text = body.decode()
        try:
            value = _decoder.decode(text)
        except _KeyTwice:
            pairs = _pairs_decoder.decode(text)
            if _too_deep(pairs):
                raise Invalid(_NOT_JSON) from None
            pointers = islice(_keys_twice(pairs), FAULTS_MAX)
            raise Invalid(*(Fault(each, "This key stands twice.") for each in pointers)) from None
    except UnicodeDecodeError:
        raise Invalid(Fault("", "The body is not UTF-8.")) from None
    except (ValueError, InvalidOperation, RecursionError):
        # Also numbers that no decimal can hold, and integers with thousands of digits.
        raise Invalid(_NOT_JSON) from None
    if not isinstance(value, dict):
        raise _refusal(value, [Fault("", "The body must be a JSON object.")])
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _KeyTwice
    return fields


def _refusal(value: Any, faults: Sequence[Fault]) -> Invalid:
    """Return the refusal of a decoded body. Its depth is checked only now.

    Deep values are never valid, so an accepted body needs no check.
    """
    return Invalid(*([_NOT_JSON] if _too_deep(value) else faults[:FAULTS_MAX]))


def _too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(NESTING_MAX):
        level = [
            inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)
        ]
    return bool(level)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, _Pairs):
        return [inner for _, inner in value]
    return value.values() if isinstance(value, dict) else value


class _KeyTwice(Exception):
    """An object has a duplicate key. A second parse finds out where."""


class _Pairs(list[tuple[str, Any]]):
    """The fields of an object, with duplicates."""


def _keys_twice(value: Any, pointer: str = "") -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for name, inner in value:
            here = _below(pointer, name)
            if name in seen:
                yield here
            seen.add(name)
            yield from _keys_twice(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys_twice(inner, _below(pointer, str(index)))


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
    faults = _unknown_fields(fields, _READERS, pointer)
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
        # Compare before multiplying: the number may have thousands of digits.
        micros = value * SECOND if 0 <= value <= timeout_max else -1
    elif isinstance(value, Decimal) and 0 <= value <= timeout_max:
        # The default context would round to 28 digits.
        micros = int(_EXACT.scaleb(value, 6).to_integral_value(ROUND_CEILING, _EXACT))
    else:
        micros = -1
    if not 0 <= micros <= timeout_max:
        raise ValueError(f"Must be a number of seconds from 0 to {seconds(timeout_max)}.")
    return micros


_READERS: Final[Mapping[str, Callable[[Any, int], int]]] = {"num": _num, "timeout": _timeout}
"""The parsers of the fields. Each gets the value and the greatest timeout."""


def _unknown_fields(fields: Mapping[str, Any], known: Container[str], pointer: str) -> list[Fault]:
    unknown = (name for name in fields if name not in known)
    return [Fault(_below(pointer, name), "Unknown field.") for name in islice(unknown, FAULTS_MAX)]


class _Ancestor(str):
    """A pointer to what lies above the place that is meant, which would be too long."""

    __slots__ = ()


def _below(pointer: str, name: str) -> str:
    """Return a JSON pointer to a field or an item (RFC 6901), escaped and short."""
    below = f"{pointer}/{printable(name).replace('~', '~0').replace('/', '~1')}"
    if isinstance(pointer, _Ancestor) or len(below) > POINTER_MAX:
        return _Ancestor(pointer)
    return below
