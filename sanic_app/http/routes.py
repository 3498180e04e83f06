"""Every path of the service, in the framework's notation."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

ADD_TASK: Final = "/add_task"
GET_QUEUE_WORK: Final = "/get_queue_work"
GET_RESULT: Final = "/get_result"

TASKS: Final = "/api/v1/tasks"
TASK: Final = f"{TASKS}/<history_num:str>"
BATCH: Final = f"{TASKS}/batch"
RESULTS: Final = "/api/v1/results"
QUEUE: Final = "/api/v1/queue"
PAUSE: Final = f"{QUEUE}/pause"
RESUME: Final = f"{QUEUE}/resume"
EVENTS: Final = "/api/v1/events"

METRICS: Final = "/metrics"
LIVE: Final = "/health/live"
READY: Final = "/health/ready"

PAGE: Final = "/"
PAGE_FILES: Final = "/page/"
PAGE_FILE: Final = f"{PAGE_FILES}<file:str>"

DOCS: Final = "/api/docs"
DOCS_FILES: Final = f"{DOCS}/"
DOCS_FILE: Final = f"{DOCS_FILES}<file:str>"
DOCUMENT: Final = f"{DOCS_FILES}openapi.json"

ADDS: Final = frozenset({ADD_TASK, TASKS, BATCH})
"""The routes whose POST adds tasks."""
HEALTH: Final = frozenset({LIVE, READY})


@lru_cache(maxsize=64)
def template(path: str) -> str:
    """Return a path in the notation of OpenAPI: ``{name}`` in place of ``<name:type>``."""
    return re.sub(r"<(\w+)[^>]*>", r"{\1}", path)
