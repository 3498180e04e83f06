"""The result list in pages."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.http import routes
from sanic_app.http.blueprints import parts_of, query_of, readable
from sanic_app.http.blueprints.tasks import answer_page
from sanic_app.http.parameters import parse_page
from sanic_app.http.schemas import result_page

blueprint = Blueprint("results")


@readable(blueprint, routes.RESULTS)
async def page_of_results(request: Request) -> HTTPResponse:
    """Show a page of the result list."""
    after, limit = parse_page(query_of(request))
    parts = parts_of(request)
    tasks = await parts.view.results_page(after, limit + 1)
    return answer_page(parts.base_path + routes.RESULTS, result_page, tasks, limit)
