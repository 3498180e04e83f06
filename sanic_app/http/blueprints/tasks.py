"""Tasks: add, look at and cancel them, one or many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import json

from sanic_app.http import routes
from sanic_app.http.blueprints import parts_of, query_of, readable
from sanic_app.http.blueprints.adding import answer_add, read_add, replay_headers
from sanic_app.http.parameters import (
    parse_history_num,
    parse_page,
    parse_range,
    parse_wait,
    refuse_query,
)
from sanic_app.http.schemas import (
    batch_object,
    cancelled_object,
    placed_object,
    queue_page,
    task_object,
)
from sanic_app.http.shape import Shape
from sanic_app.task import Task

blueprint = Blueprint("tasks")


@blueprint.post(routes.TASKS, ignore_body=True)
async def add_task(request: Request) -> HTTPResponse:
    """Add a task to the end of the queue."""
    new = await read_add(request)
    parts = parts_of(request)
    added = await parts.queue.add(*new)
    response = answer_add(new, added, 201)
    response.headers["Location"] = f"{parts.base_path}{routes.TASKS}/{added.first}"
    return response


@blueprint.post(routes.BATCH, ignore_body=True)
async def add_tasks(request: Request) -> HTTPResponse:
    """Add a batch of tasks to the end of the queue, all or none."""
    new = await read_add(request, batch=True)
    added = await parts_of(request).queue.add(*new)
    return json(batch_object(added), 201, replay_headers(added))


@readable(blueprint, routes.TASKS)
async def get_queue_page(request: Request) -> HTTPResponse:
    """Show a page of the queue."""
    read = parts_of(request).view.queue_page
    return await answer_page(request, routes.TASKS, queue_page, read)


@blueprint.delete(routes.TASKS)
async def cancel_tasks(request: Request) -> HTTPResponse:
    """Cancel the tasks with history numbers in a range."""
    first, last = parse_range(query_of(request))
    return json(cancelled_object(await parts_of(request).queue.cancel_range(first, last)))


@readable(blueprint, routes.TASK)
async def get_task(request: Request, history_num: str) -> HTTPResponse:
    """Show a task and its place in the queue; with ``wait``, not before it is finished."""
    wait = parse_wait(query_of(request))
    if request.method == "HEAD":
        wait = 0
    number = parse_history_num(history_num)
    return json(placed_object(await parts_of(request).view.task(number, wait)))


@blueprint.delete(routes.TASK)
async def cancel_task(request: Request, history_num: str) -> HTTPResponse:
    """Cancel one task."""
    refuse_query(query_of(request))
    return json(task_object(await parts_of(request).queue.cancel(parse_history_num(history_num))))


async def answer_page(
    request: Request,
    route: str,
    shape: Shape[Sequence[Task]],
    read: Callable[[int, int], Awaitable[Sequence[Task]]],
) -> HTTPResponse:
    """Answer with the page that the query asks for, and with a link while there are more tasks."""
    after, limit = parse_page(query_of(request))
    # One more than is shown means that there is a next page.
    tasks = await read(after, limit + 1)
    shown = tasks[:limit]
    response = json(shape(shown))
    if len(tasks) > limit:
        path = parts_of(request).base_path + route
        after = shown[-1].history_num
        response.headers["Link"] = f'<{path}?limit={limit}&after={after}>; rel="next"'
    return response
