"""The shapes of what travels as JSON, said once more as clients know them: a contract."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sanic_app.errors import Invalid
from sanic_app.http.bodies import parse_object
from sanic_app.http.schemas import (
    AFTER,
    CREATED,
    CURSOR,
    HOLD_MAX,
    KEY,
    LIMIT,
    SCHEMAS,
    WAIT,
    batch_object,
    cancelled_object,
    fault_object,
    liveness_object,
    new_batch,
    new_task,
    placed_object,
    queue_item,
    queue_list,
    queue_object,
    queue_page,
    readiness_object,
    result_list,
    result_object,
    result_page,
    task_object,
)
from sanic_app.queue.outlook import Outlook, PlacedTask
from sanic_app.task import SECOND, State, Task

INTEGER = {"type": "integer", "format": "int64"}
COUNT = {**INTEGER, "minimum": 0}
SECONDS = {"type": "number", "minimum": 0}
LARGEST = 9_223_372_036_854_775_807


def one(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def listed(name: str, **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": one(name), **limits}


VALUES: dict[str, dict[str, Any]] = {
    "HistoryNum": {**INTEGER, "minimum": 1, "maximum": LARGEST},
    "Num": {**INTEGER, "minimum": -LARGEST - 1, "maximum": LARGEST},
    "Timeout": {**SECONDS, "maximum": 31_536_000},
    "Date": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
    },
    "State": {"type": "string", "enum": ["queued", "waiting", "done", "cancelled"]},
}
ITEM: dict[str, dict[str, Any]] = {
    "history_num": one("HistoryNum"),
    "date_created": one("Date"),
    "num": one("Num"),
    "timeout": one("Timeout"),
}
TASK: dict[str, dict[str, Any]] = {
    **ITEM,
    "state": one("State"),
    "date_started": nullable(one("Date")),
    "date_finished": nullable(one("Date")),
}
OBJECTS: dict[str, dict[str, dict[str, Any]]] = {
    "Task": TASK,
    "PlacedTask": {
        **TASK,
        "position": nullable(COUNT),
        "seconds_until_due": nullable(SECONDS),
        "date_due": nullable(one("Date")),
    },
    "QueueItem": ITEM,
    "Result": {
        "history_num": one("HistoryNum"),
        "num": one("Num"),
        "date_finished": one("Date"),
    },
    "QueueList": {"tasks": listed("QueueItem")},
    "ResultList": {"result": listed("Num")},
    "QueuePage": {"tasks": listed("Task", maxItems=1_000)},
    "ResultPage": {"results": listed("Result", maxItems=1_000)},
    "Batch": {
        "first": one("HistoryNum"),
        "last": one("HistoryNum"),
        "count": {**COUNT, "minimum": 1},
        "date_created": one("Date"),
    },
    "Cancelled": {"count": COUNT},
    "Queue": {
        "depth": COUNT,
        "oldest_task_age_seconds": SECONDS,
        "backlog_seconds": SECONDS,
        "paused": {"type": "boolean"},
        "head": nullable(one("Task")),
        "pruned": COUNT,
    },
    "Liveness": {"status": {"type": "string", "const": "live"}},
    "Readiness": {
        "status": {"type": "string", "enum": ["ready", "unready"]},
        "reason": {"type": "string"},
    },
    "Fault": {"pointer": {"type": "string"}, "message": {"type": "string"}},
}


def bare(node: Any) -> Any:
    """Return a schema without what it says to people."""
    if isinstance(node, dict):
        said = ("description", "examples")
        return {name: bare(part) for name, part in node.items() if name not in said}
    return [bare(part) for part in node] if isinstance(node, list) else node


def of(fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of an object with these fields, all of them and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def test_each_schema_is_in_the_contract_and_in_the_document() -> None:
    assert SCHEMAS.keys() == VALUES.keys() | OBJECTS.keys()


@pytest.mark.parametrize("name", VALUES)
def test_values_have_their_types_and_limits(name: str) -> None:
    assert bare(SCHEMAS[name]) == VALUES[name]


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_have_their_fields_in_order(name: str) -> None:
    assert bare(SCHEMAS[name]) == of(OBJECTS[name])
    assert list(SCHEMAS[name]["properties"]) == list(OBJECTS[name])


def test_what_is_sent_has_its_limits() -> None:
    num, timeout = one("Num"), {**SECONDS, "maximum": 1.5}
    assert bare(new_task(1_500_000).schema) == of({"num": num, "timeout": timeout})
    batch = {"tasks": listed("NewTask", minItems=1, maxItems=7)}
    assert bare(new_batch(1_500_000, 7).schema) == of(batch)
    assert LIMIT == {**INTEGER, "minimum": 1, "maximum": 1_000, "default": 100}
    assert AFTER == {**COUNT, "maximum": LARGEST, "default": 0}
    assert WAIT == {**SECONDS, "maximum": 60, "default": 0}
    assert HOLD_MAX == 55
    assert KEY == {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    cursor = r"^(([0-9a-f]{32}\.)?[0-9]{1,19}\.[0-9]{1,19})?$"
    assert {"type": "string", "pattern": cursor} == CURSOR


def descriptions(node: Any) -> list[str]:
    """Return what schemas say to people."""
    if isinstance(node, list):
        return [text for part in node for text in descriptions(part)]
    if not isinstance(node, dict):
        return []
    own = [node["description"]] if isinstance(node.get("description"), str) else []
    return own + [text for part in node.values() for text in descriptions(part)]


def test_what_schemas_say_are_sentences() -> None:
    found = descriptions(list(SCHEMAS.values()))
    assert len(found) > 15
    for text in found:
        assert re.fullmatch(r"[A-Z`].*[^.]\.", text), text
        assert not re.search(r"[A-Z]{2,} [A-Z]{2,}", text), text


def test_what_a_name_does_not_say_is_said() -> None:
    said = {
        (name, field)
        for name, schema in SCHEMAS.items()
        for field, part in schema.get("properties", {}).items()
        if "description" in part
    }
    assert said == {
        *(("PlacedTask", field) for field in ("position", "seconds_until_due", "date_due")),
        *(("Queue", field) for field in OBJECTS["Queue"] if field != "head"),
        *(("Batch", "count"), ("Cancelled", "count"), ("Readiness", "reason")),
        *(("Fault", "pointer"), ("Fault", "message")),
    }
    values = {name for name in VALUES if "description" in SCHEMAS[name]}
    assert values == {"HistoryNum", "Num", "Timeout", "State"}


def test_the_examples_tell_of_one_task() -> None:
    """A reader of the documentation can follow it from its add to the result list."""
    created, due = "2026-11-23T21:15:08.359203Z", "2026-11-23T21:15:11.359203Z"
    sent = {"num": 5, "timeout": 3}
    item = {"history_num": 1, "date_created": created, **sent}
    head = {**item, "state": "waiting", "date_started": created, "date_finished": None}
    assert new_task(86_400 * SECOND).example == sent
    assert new_task(SECOND).example == {"num": 5, "timeout": 1}
    assert new_batch(86_400 * SECOND, 9).example == {"tasks": [sent]}
    assert queue_list.example == {"tasks": [item]}
    assert task_object.example == head
    assert queue_page.example == {"tasks": [head]}
    later = {"position": 0, "seconds_until_due": 1.75, "date_due": due}
    assert placed_object.example == {**head, **later}
    result = {"history_num": 1, "num": 5, "date_finished": due}
    assert result_object.example == result
    assert result_page.example == {"results": [result]}
    assert result_list.example == {"result": [5]}
    state = {"depth": 1, "oldest_task_age_seconds": 1.25, "backlog_seconds": 1.75}
    assert queue_object.example == {**state, "paused": False, "head": head, "pruned": 0}
    batch = {"first": 1, "last": 3, "count": 3, "date_created": created}
    assert batch_object.example == batch
    assert cancelled_object.example == {"count": 3}
    assert liveness_object.example == {"status": "live"}
    assert readiness_object.example == {"status": "ready", "reason": "ok"}
    assert fault_object.example == {"pointer": "/timeout", "message": "This field is required."}
    values = {"HistoryNum": 1, "Num": 5, "Timeout": 3, "Date": created, "State": "waiting"}
    assert {name: SCHEMAS[name]["examples"] for name in VALUES} == {
        name: [value] for name, value in values.items()
    }
    fewer = new_task(SECOND).schema["properties"]["timeout"]
    assert fewer["examples"] == [1]
    assert fewer["description"] == SCHEMAS["Timeout"]["description"]


# What goes out.


def test_a_place_goes_out_to_the_microsecond() -> None:
    task = Task(2, 5, 3 * SECOND, CREATED, State.QUEUED)
    placed = placed_object(PlacedTask(task, 1, 1.234_567_89, CREATED + 1))
    assert placed == {
        **task_object(task),
        "position": 1,
        "seconds_until_due": 1.234_568,
        "date_due": "2026-11-23T21:15:08.359204Z",
    }
    due = placed_object(PlacedTask(task, 0, 0.0, CREATED))
    assert (due["position"], due["seconds_until_due"]) == (0, 0.0)
    kept = placed_object(PlacedTask(task, 1))
    assert (kept["position"], kept["seconds_until_due"], kept["date_due"]) == (1, None, None)


@pytest.mark.parametrize(
    ("due_at", "date"),
    [(253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"), (253_402_300_800_000_000, None)],
)
def test_the_last_date_is_that_of_the_year_9999(due_at: int, date: str | None) -> None:
    task = Task(2, 5, 3 * SECOND, CREATED, State.QUEUED)
    assert placed_object(PlacedTask(task, 1, 9.0, due_at))["date_due"] == date


def test_figures_go_out_to_the_microsecond() -> None:
    shown = queue_object(Outlook(5, 1.234_567_89, 2.345_678_91, False, None, 0))
    assert shown["oldest_task_age_seconds"] == 1.234_568
    assert shown["backlog_seconds"] == 2.345_679


def test_readiness_goes_out_with_its_reason() -> None:
    assert readiness_object((False, "stopping")) == {"status": "unready", "reason": "stopping"}


def test_a_list_of_the_queue_goes_out_item_by_item() -> None:
    tasks = [Task(n, n, n * SECOND, CREATED, State.QUEUED) for n in (1, 2)]
    assert queue_list(tasks) == {"tasks": [queue_item(task) for task in tasks]}
    assert queue_list([]) == {"tasks": []}


def test_a_pointer_of_more_than_five_hundred_characters_is_that_of_the_object() -> None:
    # Seven keys of 64 characters, each with its slash.
    outer = "/" + "/".join(["k" * 64] * 7)
    for length, pointer in ((44, f"{outer}/{'l' * 44}"), (45, outer)):
        inner = f'{{"{"l" * length}":1,"{"l" * length}":1}}'
        body = f'{{"{"k" * 64}":' * 7 + inner + "}" * 7
        with pytest.raises(Invalid) as refused:
            parse_object(body.encode())
        assert [fault.pointer for fault in refused.value.faults] == [pointer]
