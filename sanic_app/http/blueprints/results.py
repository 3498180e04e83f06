"""The result list in pages."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.http import routes
from sanic_app.http.blueprints import parts_of, readable
from sanic_app.http.blueprints.tasks import answer_page
from sanic_app.http.schemas import result_page

blueprint = Blueprint("results")


@readable(blueprint, routes.RESULTS)
async def get_result_page(request: Request) -> HTTPResponse:
    """Show a page of the result list."""
    read = parts_of(request).view.results_page
    return await answer_page(request, routes.RESULTS, result_page, read)
