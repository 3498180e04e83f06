"""What schemathesis does to a request before it is sent: see schemathesis.toml."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Write integers as integers: JSON Schema counts 1.0 among them, and this service does not."""
    body = case.body
    if isinstance(body, dict) and isinstance(num := body.get("num"), float) and num.is_integer():
        body["num"] = int(num)
