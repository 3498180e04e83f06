"""JSON lines with a request id, one object a line, which input cannot forge."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from itertools import count
from secrets import token_hex
from typing import Final

from sanic_app.task import date

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the current task works for."""

ACCEPTED: Final = re.compile("[A-Za-z0-9._~+/=:-]{1,128}")
"""The request ids that are taken over from a client."""
_PROCESS: Final = token_hex(6)
_numbers = count(1)

# What every record has; anything else came in through ``extra`` and is a field of the line.
_STANDARD: Final = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName"}
)


def accept_request_id(given: str | None) -> str:
    """Return the client's own request id if it is a plain one, else a new one."""
    if given is not None and ACCEPTED.fullmatch(given):
        return given
    return f"{_PROCESS}-{next(_numbers):x}"


def configure(level: str) -> None:
    """Write every logger's lines of at least this level to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Its debug lines show every statement with its values.
    logging.getLogger("aiosqlite").setLevel(max(logging.INFO, root.level))
    for name in ("sanic.root", "sanic.server", "sanic.error", "sanic.access"):
        framework = logging.getLogger(name)
        framework.handlers.clear()
        framework.propagate = True
        # Its information lines describe its own modes, which are not this service's.
        framework.setLevel(max(logging.WARNING, root.level))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what came along."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; JSON escapes whatever could break or forge one."""
        line: dict[str, object] = {
            "time": date(int(record.created * 1_000_000)),
            "level": record.levelname,
            "logger": record.name,
        }
        try:
            return json.dumps({**line, **_what_came(record)}, default=str, allow_nan=False)
        except Exception as error:  # noqa: BLE001 - whatever the record holds, it is one line
            line["message"] = f"a record could not be written: {type(error).__name__}"
            line["place"] = f"{record.pathname}:{record.lineno}"
            return json.dumps(line)


def _what_came(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = {"message": record.getMessage()}
    if (identity := request_id.get()) is not None:
        fields["request_id"] = identity
    fields.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields
