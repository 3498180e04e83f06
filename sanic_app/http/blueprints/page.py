"""The page: the queue, live, in a browser."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.errors import NotFound
from sanic_app.http import routes
from sanic_app.http.blueprints.files import CSS, HTML, JAVASCRIPT, File, answer, file, headers

FILES: Final = {
    "page.css": CSS,
    "page.js": JAVASCRIPT,
    "chart.js": JAVASCRIPT,
    "service.js": JAVASCRIPT,
    "icon.svg": "image/svg+xml",
}
HEADERS: Final = headers()

blueprint = Blueprint("page")


@blueprint.get(routes.PAGE)
async def page(request: Request) -> HTTPResponse:
    """Show the queue as a page that follows it."""
    return answer(request, _read("index.html", HTML), HEADERS)


@blueprint.get(routes.PAGE_FILE)
async def page_file(request: Request, file: str) -> HTTPResponse:
    """Show a script, the style sheet or the icon of the page."""
    if file not in FILES:
        raise NotFound
    return answer(request, _read(file, FILES[file]), HEADERS)


@cache
def _read(name: str, content_type: str) -> File:
    return file((files("sanic_app.http") / "static" / name).read_bytes(), content_type)
