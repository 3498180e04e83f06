"""The log: one JSON object on each line. Input cannot break or forge a line."""

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
"""The id of the request that the current asyncio task handles."""

ACCEPTED: Final = re.compile("[A-Za-z0-9._~+/=:-]{1,128}")
"""The request ids that are accepted from clients."""
_PROCESS: Final = token_hex(6)
_numbers = count(1)

# The attributes of every record. All others were passed as ``extra``, and are logged.
_STANDARD: Final = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName"}
)


def accept_request_id(given: str | None) -> str:
    """Return the client's request id if it is acceptable, else a new one."""
    if given is not None and ACCEPTED.fullmatch(given):
        return given
    return f"{_PROCESS}-{next(_numbers):x}"


def configure(level: str) -> None:
    """Log everything of this level or above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Its debug messages contain every statement with its values.
    logging.getLogger("aiosqlite").setLevel(max(logging.INFO, root.level))
    for name in ("sanic.root", "sanic.server", "sanic.error", "sanic.access"):
        framework = logging.getLogger(name)
        framework.handlers.clear()
        framework.propagate = True
        # Its INFO messages describe modes of Sanic that this service does not use.
        framework.setLevel(max(logging.WARNING, root.level))


class JsonLines(logging.Formatter):
    """Formats a record as JSON: time, level, logger, message, extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. JSON escapes line breaks and control characters."""
        line: dict[str, object] = {
            "time": date(int(record.created * 1_000_000)),
            "level": record.levelname,
            "logger": record.name,
        }
        try:
            return json.dumps({**line, **_fields(record)}, default=str, allow_nan=False)
        except Exception as error:  # noqa: BLE001 - any record must give one line
            line["message"] = f"a record could not be written: {type(error).__name__}"
            line["place"] = f"{record.pathname}:{record.lineno}"
            return json.dumps(line)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = {"message": record.getMessage()}
    if (identity := request_id.get()) is not None:
        fields["request_id"] = identity
    fields.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields
