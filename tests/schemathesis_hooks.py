"""What schemathesis does to a request before it is sent: see schemathesis.toml."""

from __future__ import annotations

from typing import Any

import schemathesis

from sanic_app.http.schemas import WAIT_MAX


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Write integers as integers: JSON Schema counts 1.0 among them, and this service does not."""
    body = case.body
    tasks = body.get("tasks") if isinstance(body, dict) else None
    for task in (body, *(tasks if isinstance(tasks, list) else ())):
        if isinstance(task, dict) and isinstance(num := task.get("num"), float):
            task["num"] = int(num) if num.is_integer() else num
    query = kwargs.get("params") or case.query
    if not isinstance(query, dict):
        return
    # A wait is as good when it is short, and the run sees more.
    if isinstance(wait := query.get("wait"), int | float) and 0 < wait <= WAIT_MAX:
        query["wait"] = wait / 1_000
    # A schema cannot say that a range does not go backwards.
    first, last = (str(query.get(name, "")) for name in ("from", "to"))
    if first.isdecimal() and last.isdecimal() and int(first) > int(last) > 0:
        query["from"], query["to"] = last, first
