"""What travels as JSON, and its limits.

Parsing is strict: what JSON leaves open (duplicate keys, numbers that are not finite, integers
written as ``1.0``) is refused here, and a decimal timeout is read as the decimal that was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_CEILING, Context, Decimal, InvalidOperation
from functools import lru_cache
from hashlib import sha256
from math import ceil
from typing import Any, NoReturn

from sanic_app.errors import Fault, Invalid, NotFound
from sanic_app.store import Added, Figures
from sanic_app.task import HISTORY_NUM_MAX, SECOND, NewTask, Task
from sanic_app.task import date as format_date

NUM_MIN, NUM_MAX = -(2**63), 2**63 - 1
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
PAGE_DEFAULT, PAGE_MAX = 100, 1_000
WAIT_MAX = 60
"""The longest that an answer may be held, in seconds."""
DATE_MAX = 253_402_300_799_999_999
"""The last stamp of the year 9999."""
KEY_MAX = 255
NESTING_MAX = 64
"""What is nested more deeply is no JSON to this service, whatever an interpreter can decode."""
FAULTS_MAX = 20
"""So many faults of a batch are told."""
_NOT_JSON = Fault("", "The body is not valid JSON.")

date = lru_cache(maxsize=1_024)(format_date)
"""A stamp as a date; many tasks of one commit share theirs."""


# What comes in.


def parse_new_task(body: bytes, timeout_max: int) -> NewTask:
    """Return the task that the body asks for; ``timeout_max`` is in microseconds.

    Raises:
        Invalid: with a fault for each thing that is wrong.
    """
    fields = parse_object(body)
    try:
        return _new_task(fields, "", timeout_max)
    except Invalid as error:
        raise _refusal(fields, error.faults) from None


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
        raise _refusal(fields, faults[:FAULTS_MAX])
    tasks: list[NewTask] = []
    for index, item in enumerate(items or ()):
        try:
            if type(item) is not dict:
                raise Invalid(Fault(f"/tasks/{index}", "Must be a JSON object."))  # noqa: TRY301
            tasks.append(_new_task(item, f"/tasks/{index}", timeout_max))
        except Invalid as error:
            faults += error.faults
            if len(faults) >= FAULTS_MAX:
                break
    if faults:
        raise _refusal(fields, faults[:FAULTS_MAX])
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
            pairs = _pairs_decoder.decode(text)
            if _too_deep(pairs):
                raise Invalid(_NOT_JSON) from None
            pointers = _keys_twice(pairs)
            raise Invalid(*(Fault(each, "This key stands twice.") for each in pointers)) from None
    except UnicodeDecodeError:
        raise Invalid(Fault("", "The body is not UTF-8.")) from None
    except (ValueError, InvalidOperation, RecursionError):
        # Among them numbers that no decimal can hold, and integers of thousands of digits.
        raise Invalid(_NOT_JSON) from None
    if not isinstance(value, dict):
        raise _refusal(value, [Fault("", "The body must be a JSON object.")])
    return value


def parse_key(values: Sequence[str]) -> str | None:
    """Return the idempotency key of a request's header lines, if there is one.

    Raises:
        Invalid: two keys, or one that is not 1 to 255 visible ASCII characters.
    """
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch(rf"[\x21-\x7e]{{1,{KEY_MAX}}}", values[0]):
        raise Invalid(
            Fault(
                "", f"Idempotency-Key must be one value of 1 to {KEY_MAX} visible ASCII characters."
            )
        )
    return values[0]


def parse_cursor(values: Sequence[str]) -> tuple[int, int] | None:
    """Return the cursor of a listener's header lines, if there is one: adds and finishes told.

    Raises:
        Invalid: two of them, or one that was no message's id.
    """
    if not values or values == [""]:
        return None
    found = re.fullmatch(r"([0-9]{1,19})\.([0-9]{1,19})", values[0]) if len(values) == 1 else None
    if found is None or max(int(found[1]), int(found[2])) > HISTORY_NUM_MAX:
        raise Invalid(Fault("", "Last-Event-ID must be the id of a message of this stream."))
    return int(found[1]), int(found[2])


def parse_page(query: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Return ``after`` and ``limit`` of a page.

    Raises:
        Invalid: with a fault for each parameter that is wrong, unknown or given twice.
    """
    numbers = _whole_parameters(
        query, {"after": (0, HISTORY_NUM_MAX, 0), "limit": (1, PAGE_MAX, PAGE_DEFAULT)}
    )
    return numbers["after"], numbers["limit"]


def parse_range(query: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Return ``from`` and ``to`` of a range of history numbers, both inclusive.

    Raises:
        Invalid: with a fault for each parameter that is missing, wrong, unknown or given twice.
    """
    limits = (1, HISTORY_NUM_MAX, None)
    numbers = _whole_parameters(query, {"from": limits, "to": limits})
    if numbers["from"] > numbers["to"]:
        raise Invalid(Fault("", "The query parameter from must not be greater than to."))
    return numbers["from"], numbers["to"]


def parse_wait(query: Sequence[tuple[str, str]]) -> float:
    """Return for how many seconds the answer may be held; 0 when nothing was said of it.

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
        raise Invalid(
            Fault("", f"The query parameter wait must be a number of seconds from 0 to {WAIT_MAX}.")
        )
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
    if not re.fullmatch(r"[1-9][0-9]{0,18}", text) or int(text) > HISTORY_NUM_MAX:
        raise NotFound
    return int(text)


# What goes out.


def task_object(task: Task) -> dict[str, Any]:
    """Return a task as its JSON object."""
    return {
        "history_num": task.history_num,
        "date_created": date(task.created_at),
        "num": task.num,
        "timeout": seconds(task.timeout),
        "state": str(task.state),
        "date_started": None if task.started_at is None else date(task.started_at),
        "date_finished": None if task.finished_at is None else date(task.finished_at),
    }


def placed_object(
    task: Task, position: int | None, until_due: float | None, now: int
) -> dict[str, Any]:
    """Return a task with its place, and when it can be done, in seconds from the stamp now on."""
    due = None if until_due is None else now + ceil(until_due * SECOND)
    return {
        **task_object(task),
        "position": position,
        "seconds_until_due": None if until_due is None else round(until_due, 6),
        "date_due": None if due is None or due > DATE_MAX else format_date(due),
    }


def added_body(added: Added, task: NewTask) -> str:
    """Return the JSON of a task just added, as it was when its commit ended.

    The same as ``task_object`` gives, written without a detour, because it is written often.
    """
    created = date(added.created_at)
    state, started = ("waiting", f'"{created}"') if added.started else ("queued", "null")
    return (
        f'{{"history_num":{added.first},"date_created":"{created}","num":{task.num},'
        f'"timeout":{seconds(task.timeout)},"state":"{state}","date_started":{started},'
        f'"date_finished":null}}'
    )


def result_object(task: Task) -> dict[str, Any]:
    """Return a done task as an item of the result pages."""
    return {
        "history_num": task.history_num,
        "num": task.num,
        "date_finished": date(task.finished_at or 0),
    }


def queue_object(
    figures: Figures, head: Task | None, oldest_task_age: float, backlog: float
) -> dict[str, Any]:
    """Return what the queue is doing; age and backlog in seconds."""
    return {
        "depth": figures.depth,
        "oldest_task_age_seconds": round(oldest_task_age, 6),
        "backlog_seconds": round(backlog, 6),
        "paused": bool(figures.paused),
        "head": None if head is None else task_object(head),
        "pruned": figures.pruned,
    }


def seconds(micros: int) -> int | float:
    """Return a timeout in seconds; a whole number comes back as one."""
    whole, rest = divmod(micros, SECOND)
    return micros / SECOND if rest else whole


def batch_object(added: Added) -> dict[str, Any]:
    """Return what a batch is answered."""
    return {
        "first": added.first,
        "last": added.last,
        "count": added.last - added.first + 1,
        "date_created": date(added.created_at),
    }


def batch_text(tasks: Sequence[NewTask]) -> str:
    """Return a parsed batch as a short text: no two batches that can be found share one."""
    return f"batch {sha256(request_text('', tasks).encode()).hexdigest()}"


def request_text(kind: str, tasks: Sequence[NewTask]) -> str:
    """Return a parsed request as text that is equal exactly when the requests are."""
    return f"{kind} {' '.join(f'{num}:{timeout}' for num, timeout in tasks)}"


# Below: the parts.


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _KeyTwice
    return fields


def _refusal(value: Any, faults: Sequence[Fault]) -> Invalid:
    """Return the refusal of what was decoded, which is looked at for its depth only now.

    A deep value is a fault wherever it stands, so what is accepted need not be searched for one.
    """
    return Invalid(*([_NOT_JSON] if _too_deep(value) else faults))


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


def _new_task(fields: Mapping[str, Any], pointer: str, timeout_max: int) -> NewTask:
    num, timeout = fields.get("num"), fields.get("timeout")
    if (
        len(fields) == 2  # noqa: PLR2004 - num and timeout, and no other
        and type(num) is int
        and type(timeout) is int
        and NUM_MIN <= num <= NUM_MAX
        and 0 <= timeout * SECOND <= timeout_max
    ):
        return NewTask(num, timeout * SECOND)
    faults = [
        Fault(pointer + _pointer(name), "Unknown field.")
        for name in fields
        if name not in ("num", "timeout")
    ]
    values: dict[str, int] = {}
    readers: dict[str, Callable[[Any], int]] = {
        "num": _num,
        "timeout": lambda value: _timeout(value, timeout_max),
    }
    for name, read in readers.items():
        try:
            values[name] = read(fields[name])
        except KeyError:
            faults.append(Fault(f"{pointer}/{name}", "This field is required."))
        except ValueError as error:
            faults.append(Fault(f"{pointer}/{name}", str(error)))
    if faults:
        raise Invalid(*faults)
    return NewTask(**values)


def _num(value: Any) -> int:
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


def _whole_parameters(
    query: Sequence[tuple[str, str]], limits: Mapping[str, tuple[int, int, int | None]]
) -> dict[str, int]:
    """Return whole numbers by their least, their greatest and their default, None for none."""
    given: dict[str, str] = {}
    faults = []
    for name, value in query:
        if name not in limits:
            faults.append(Fault("", f"Unknown query parameter {_shown(name)}."))
        elif name in given:
            faults.append(Fault("", f"The query parameter {name} is given twice."))
        given[name] = value
    numbers = {}
    for name, (low, high, default) in limits.items():
        text = given.get(name, default)
        if text is None:
            faults.append(Fault("", f"The query parameter {name} is required."))
        elif isinstance(text, int):
            numbers[name] = text
        elif _whole(text, low, high):
            numbers[name] = int(text)
        else:
            message = f"The query parameter {name} must be a whole number from {low} to {high}."
            faults.append(Fault("", message))
    if faults:
        raise Invalid(*faults)
    return numbers


def _whole(text: str, low: int, high: int) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,19}", text)) and low <= int(text) <= high


def _pointer(name: str) -> str:
    """Return a JSON pointer to a field (RFC 6901), made harmless and short."""
    return "/" + _shown(name).replace("~", "~0").replace("/", "~1")


def _shown(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode()[:64]
