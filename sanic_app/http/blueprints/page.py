"""The page that shows the live queue in a browser."""

from __future__ import annotations

from typing import Final

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.http import routes
from sanic_app.http.blueprints import readable
from sanic_app.http.blueprints.files import (
    CSS,
    HTML,
    JAVASCRIPT,
    STATIC,
    page_headers,
    serve,
    tagged,
)

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
    return serve(request, _FILES.get(file), HEADERS)


# Read now: later, clients may have taken all descriptors.
_INDEX: Final = tagged((STATIC / "index.html").read_bytes(), HTML)
_FILES: Final = {name: tagged((STATIC / name).read_bytes(), kind) for name, kind in FILES.items()}
