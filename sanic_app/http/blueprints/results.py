"""Results: a page of the result list."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.http import routes
from sanic_app.http.blueprints import parts_of, query_of
from sanic_app.http.blueprints.tasks import page
from sanic_app.http.schemas import parse_page, result_object

blueprint = Blueprint("results")


@blueprint.get(routes.RESULTS)
async def page_of_results(request: Request) -> HTTPResponse:
    """Show a page of the result list."""
    after, limit = parse_page(query_of(request))
    tasks = await parts_of(request).store.results_page(after, limit + 1)
    return page(routes.RESULTS, "results", tasks, limit, result_object)
