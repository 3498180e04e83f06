"""The page that shows the live queue in a browser."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.errors import NotFound
from sanic_app.http import routes
from sanic_app.http.blueprints import readable
from sanic_app.http.blueprints.files import CSS, HTML, JAVASCRIPT, File, page_headers, serve, tagged

FILES: Final = {
    "page.css": CSS,
    "page.js": JAVASCRIPT,
    "chart.js": JAVASCRIPT,
    "service.js": JAVASCRIPT,
    "icon.svg": "image/svg+xml",
}
HEADERS: Final = page_headers()

blueprint = Blueprint("page")


@readable(blueprint, routes.PAGE)
async def get_page(request: Request) -> HTTPResponse:
    """Serve the page."""
    return serve(request, _INDEX, HEADERS)


@readable(blueprint, routes.PAGE_FILE)
async def get_page_file(request: Request, file: str) -> HTTPResponse:
    """Serve a script, the style sheet or the icon."""
    if file not in FILES:
        raise NotFound
    return serve(request, _FILES[file], HEADERS)


def _read(name: str, content_type: str) -> File:
    return tagged((files("sanic_app.http") / "static" / name).read_bytes(), content_type)


# Read now: later, clients may have taken all descriptors.
_INDEX: Final = _read("index.html", HTML)
_FILES: Final = {name: _read(name, content_type) for name, content_type in FILES.items()}
