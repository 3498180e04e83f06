"""What travels as JSON, and its limits: one statement of each shape.

Handlers call a shape to make an answer. The OpenAPI document gets its schemas and examples from the
shapes, and the parsers get their limits and patterns from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from sanic_app.errors import Fault
from sanic_app.http.shape import Field, Json, Shape, list_of, or_null, ref, string
from sanic_app.queue.outlook import Outlook, PlacedTask
from sanic_app.settings import TIMEOUT_LIMIT
from sanic_app.store import Added
from sanic_app.task import HISTORY_NUM_MAX, SECOND, STAMP_MAX, NewTask, State, Task
from sanic_app.task import date as format_date

NUM_MIN, NUM_MAX = -(2**63), 2**63 - 1
PAGE_DEFAULT, PAGE_MAX = 100, 1_000
WAIT_MAX = 60
"""The longest wait that may be asked for, in seconds."""
HOLD_MAX = 55
"""The longest that an answer is held, in seconds: proxies give up after 60."""
FAULTS_MAX = 20
"""The most faults that an answer reports."""
POINTER_MAX = 500
"""The longest JSON pointer in an answer. A fault that lies deeper is reported above."""
KEY_MAX = 255
"""The longest idempotency key, in characters."""

KEY_PATTERN: Final = "[!-~]+"
CURSOR_PATTERN: Final = r"(([0-9a-f]{32}\.)?[0-9]{1,19}\.[0-9]{1,19})?"
HISTORY_NUM_PATTERN: Final = "[1-9][0-9]*"
DATE_PATTERN: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"


@lru_cache(maxsize=1_024)
def date(stamp: int | None) -> str | None:
    """Return a stamp as a date. Cached, because the tasks of one commit share theirs."""
    return None if stamp is None else format_date(stamp)


def seconds(micros: int) -> int | float:
    """Return a timeout in seconds; a whole number comes back as one."""
    whole, remainder = divmod(micros, SECOND)
    return micros / SECOND if remainder else whole


CREATED: Final = 1_795_468_508_359_203
HEAD: Final = Task(1, 5, 3 * SECOND, CREATED, State.WAITING, CREATED)
DONE: Final = HEAD._replace(state=State.DONE, finished_at=CREATED + HEAD.timeout)
"""The task of the examples."""

# Values.

INTEGER: Final[Json] = {"type": "integer", "format": "int64"}
COUNT: Final[Json] = {**INTEGER, "minimum": 0}
SECONDS: Final[Json] = {"type": "number", "minimum": 0}
LIMIT: Final[Json] = {**INTEGER, "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT}
AFTER: Final[Json] = {**COUNT, "maximum": HISTORY_NUM_MAX, "default": 0}
WAIT: Final[Json] = {**SECONDS, "maximum": WAIT_MAX, "default": 0}
KEY: Final[Json] = string(KEY_PATTERN, minLength=1, maxLength=KEY_MAX)
CURSOR: Final[Json] = string(CURSOR_PATTERN)

HISTORY_NUM: Final[Json] = {
    **INTEGER,
    "description": "The task's place in the history: from 1, gapless, never reused.",
    "minimum": 1,
    "maximum": HISTORY_NUM_MAX,
    "examples": [HEAD.history_num],
}
NUM: Final[Json] = {
    **INTEGER,
    "description": "The number to append to the result list.",
    "minimum": NUM_MIN,
    "maximum": NUM_MAX,
    "examples": [HEAD.num],
}
TIMEOUT: Final[Json] = {
    **SECONDS,
    "description": "The wait in seconds from the task's start, rounded up to the microsecond.",
    "maximum": TIMEOUT_LIMIT,
    "examples": [seconds(HEAD.timeout)],
}
DATE: Final[Json] = {
    **string(DATE_PATTERN, format="date-time"),
    "examples": [date(CREATED)],
}
STATE: Final[Json] = {
    "type": "string",
    "description": "`waiting` is the head: the only task whose wait is running.",
    "enum": [str(state) for state in State],
    "examples": [str(HEAD.state)],
}

# Tasks.

task_object: Final = Shape(
    HEAD,
    Field("history_num", ref("HistoryNum")),
    Field("date_created", ref("Date"), lambda task: date(task.created_at)),
    Field("num", ref("Num")),
    Field("timeout", ref("Timeout"), lambda task: seconds(task.timeout)),
    Field("state", ref("State"), lambda task: str(task.state)),
    Field("date_started", or_null(ref("Date")), lambda task: date(task.started_at)),
    Field("date_finished", or_null(ref("Date")), lambda task: date(task.finished_at)),
)
queue_item: Final = Shape(HEAD, *task_object.fields[:4])
"""A task in the whole queue. The store writes this one itself, in SQL."""

result_object: Final = Shape(
    DONE,
    Field("history_num", ref("HistoryNum")),
    Field("num", ref("Num")),
    Field("date_finished", ref("Date"), lambda task: date(task.finished_at)),
)

_TASK_TEXT: Final = "{" + ",".join(f'"{field.name}":%s' for field in task_object.fields) + "}"
_WAITING_TEXT: Final = _TASK_TEXT % ("%s", '"%s"', "%s", "%s", '"waiting"', '"%s"', "null")
_QUEUED_TEXT: Final = _TASK_TEXT % ("%s", '"%s"', "%s", "%s", '"queued"', "null", "null")


def added_body(added: Added, task: NewTask) -> str:
    """Return the JSON of a task just added, as its commit left it.

    The same as ``task_object`` gives, but faster: this is the most frequent answer.
    """
    created = date(added.created_at)
    if added.started:
        return _WAITING_TEXT % (added.first, created, task.num, seconds(task.timeout), created)
    return _QUEUED_TEXT % (added.first, created, task.num, seconds(task.timeout))


def _date_due(placed: PlacedTask) -> str | None:
    due_at = placed.due_at
    return date(due_at if due_at is not None and due_at <= STAMP_MAX else None)


def _field_of_the_task(field: Field[Task]) -> Field[PlacedTask]:
    return Field(field.name, field.schema, lambda placed: field.reader(placed.task))


placed_object: Final = Shape(
    PlacedTask(HEAD, 0, 1.75, CREATED + HEAD.timeout),
    *map(_field_of_the_task, task_object.fields),
    Field(
        "position",
        or_null(COUNT),
        description="The tasks before it in the queue; null when it is finished.",
    ),
    Field(
        "seconds_until_due",
        or_null(SECONDS),
        lambda placed: placed.seconds_until_due and round(placed.seconds_until_due, 6),
        "Until the earliest moment at which it can be done; null when it is finished, and while a"
        " pause keeps it from starting.",
    ),
    Field(
        "date_due",
        or_null(ref("Date")),
        _date_due,
        "That moment; null beyond the year 9999 as well.",
    ),
)

# What is sent.


def new_task(timeout_max: int) -> Shape[NewTask]:
    """Return the shape of a task to add; ``timeout_max`` is in microseconds."""
    example = NewTask(HEAD.num, min(HEAD.timeout, timeout_max))
    shown = seconds(example.timeout)
    timeout = {**TIMEOUT, "maximum": seconds(timeout_max), "examples": [shown]}
    return Shape(
        example,
        Field("num", ref("Num")),
        Field("timeout", timeout, lambda task: seconds(task.timeout)),
    )


def new_batch(timeout_max: int, batch_max: int) -> Shape[None]:
    """Return the shape of a batch to add."""
    example = new_task(timeout_max).example
    schema = list_of("NewTask", minItems=1, maxItems=batch_max)
    return Shape(None, Field("tasks", schema, lambda _: [example]))


# What is answered.

batch_object: Final = Shape(
    Added(1, 3, CREATED, started=True),
    Field("first", ref("HistoryNum")),
    Field("last", ref("HistoryNum")),
    Field(
        "count",
        {**COUNT, "minimum": 1},
        lambda added: added.last - added.first + 1,
        "How many tasks were added.",
    ),
    Field("date_created", ref("Date"), lambda added: date(added.created_at)),
)
cancelled_object: Final = Shape(3, Field("count", COUNT, int, "How many tasks were cancelled."))


def _tasks(
    name: str, schema: Json, show: Callable[[Task], object], example: Task
) -> Shape[Sequence[Task]]:
    return Shape([example], Field(name, schema, lambda tasks: [show(task) for task in tasks]))


queue_list: Final = _tasks("tasks", list_of("QueueItem"), queue_item, HEAD)
result_list: Final = _tasks("result", list_of("Num"), lambda task: task.num, DONE)
queue_page: Final = _tasks("tasks", list_of("Task", maxItems=PAGE_MAX), task_object, HEAD)
result_page: Final = _tasks("results", list_of("Result", maxItems=PAGE_MAX), result_object, DONE)


queue_object: Final = Shape(
    Outlook(1, 1.25, 1.75, paused=False, head=HEAD, pruned=0),
    Field("depth", COUNT, description="Tasks in the queue, the head included."),
    Field(
        "oldest_task_age_seconds",
        SECONDS,
        lambda queue: round(queue.oldest_task_age, 6),
        "The age of the first task, 0 when the queue is empty.",
    ),
    Field(
        "backlog_seconds",
        SECONDS,
        lambda queue: round(queue.backlog, 6),
        "The sum of the waits still ahead, the rest of the head's included.",
    ),
    Field(
        "paused",
        {"type": "boolean"},
        description="Whether no further task is started.",
    ),
    Field("head", or_null(ref("Task")), lambda queue: queue.head and task_object(queue.head)),
    Field("pruned", COUNT, description="Finished tasks that retention has removed."),
)


liveness_object: Final = Shape(
    None, Field("status", {"type": "string", "const": "live"}, lambda _: "live")
)
readiness_object: Final = Shape(
    (True, "ok"),
    Field(
        "status",
        {"type": "string", "enum": ["ready", "unready"]},
        lambda readiness: "ready" if readiness[0] else "unready",
    ),
    Field("reason", {"type": "string"}, lambda readiness: readiness[1], "Why, in a few words."),
)
fault_object: Final = Shape(
    Fault("/timeout", "This field is required."),
    Field(
        "pointer",
        {"type": "string"},
        description="Where: a JSON pointer (RFC 6901); empty when it is not in the body.",
    ),
    Field("message", {"type": "string"}, description="What is wrong."),
)

SCHEMAS: Final[Mapping[str, Json]] = {
    "HistoryNum": HISTORY_NUM,
    "Num": NUM,
    "Timeout": TIMEOUT,
    "Date": DATE,
    "State": STATE,
    "Task": task_object.schema,
    "PlacedTask": placed_object.schema,
    "Cancelled": cancelled_object.schema,
    "Batch": batch_object.schema,
    "QueueItem": queue_item.schema,
    "Result": result_object.schema,
    "QueueList": queue_list.schema,
    "ResultList": result_list.schema,
    "QueuePage": queue_page.schema,
    "ResultPage": result_page.schema,
    "Queue": queue_object.schema,
    "Liveness": liveness_object.schema,
    "Readiness": readiness_object.schema,
    "Fault": fault_object.schema,
}
"""Everything that needs no settings, by its name in the OpenAPI document."""
