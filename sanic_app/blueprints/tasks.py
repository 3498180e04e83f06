"""Tasks: add one, look at one, look at a page of the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import json

from sanic_app.blueprints import parts_of, query_of
from sanic_app.blueprints.adding import add_one
from sanic_app.errors import Gone, NotFound
from sanic_app.schemas import parse_history_num, parse_page, refuse_query, task_object
from sanic_app.task import Task

TASKS = "/api/v1/tasks"

blueprint = Blueprint("tasks")


@blueprint.post(TASKS)
async def add(request: Request) -> HTTPResponse:
    """Add a task to the end of the queue."""
    added, response = await add_one(request, 201)
    response.headers["Location"] = f"{TASKS}/{added.first}"
    return response


@blueprint.get(TASKS)
async def page_of_queue(request: Request) -> HTTPResponse:
    """Show a page of the queue."""
    after, limit = parse_page(query_of(request))
    tasks = await parts_of(request).store.queue_page(after, limit + 1)
    return page(TASKS, "tasks", tasks, limit, task_object)


@blueprint.get(f"{TASKS}/<history_num:str>")
async def one(request: Request, history_num: str) -> HTTPResponse:
    """Show one task, in any state."""
    refuse_query(query_of(request))
    number = parse_history_num(history_num)
    parts = parts_of(request)
    # Taken before the look: a task that is added meanwhile is not gone.
    last = parts.queue.figures.last_history_num
    task = await parts.store.task(number)
    if task is None:
        if number <= last:
            raise Gone
        raise NotFound
    return json(task_object(task))


def page(
    path: str,
    name: str,
    tasks: Sequence[Task],
    limit: int,
    shape: Callable[[Task], dict[str, Any]],
) -> HTTPResponse:
    """Answer with the first ``limit`` of the tasks; one more than that means a next page."""
    shown = tasks[:limit]
    response = json({name: [shape(task) for task in shown]})
    if len(tasks) > limit:
        after = shown[-1].history_num
        response.headers["Link"] = f'<{path}?limit={limit}&after={after}>; rel="next"'
    return response
