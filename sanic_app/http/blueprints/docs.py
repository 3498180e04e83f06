"""The OpenAPI document, and the page that shows it.

The page is Swagger UI. Its files come from the package swagger-ui-py, so it works without internet.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.http import routes
from sanic_app.http.blueprints import App, page, readable
from sanic_app.http.blueprints.files import (
    CSS,
    HTML,
    JAVASCRIPT,
    STATIC,
    File,
    page_headers,
    serve,
    tagged,
)
from sanic_app.http.openapi import document
from sanic_app.settings import Settings

# The style sheet has its arrows and check marks as data: images.
HEADERS: Final = page_headers(images="'self' data:")

# A proxy may serve the page below a path of its own, so every address is relative.
# Read now: later, clients may have taken all descriptors.
PAGE: Final = (STATIC / "docs.html").read_text(encoding="utf-8")
# The page's policy allows no inline script, so this is a file of its own. The validator is switched
# off because it is a service on the internet.
INITIALIZER: Final = (STATIC / "initializer.js").read_bytes()

SWAGGER_UI: Final = {
    "swagger-ui-bundle.js": JAVASCRIPT,
    "swagger-ui.css": CSS,
    "favicon-32x32.png": "image/png",
}

blueprint = Blueprint("docs")


def attach(app: App, settings: Settings) -> None:
    """Add the documentation to the application."""
    files = {"File": list(_files()), "PageFile": list(page.FILES)}
    app.blueprint(blueprint)

    @app.before_server_start
    async def make_document(app: App) -> None:
        """Build the document."""
        text = json.dumps(document(app, settings, files))
        app.ctx.document = tagged(text.encode(), "application/json")


@readable(blueprint, routes.DOCS)
async def get_docs(request: Request) -> HTTPResponse:
    """Serve the page."""
    # Without the slash at the end, the page's address is one step further up.
    return serve(request, _page("" if request.path.endswith("/") else "docs/"), HEADERS)


@readable(blueprint, routes.DOCUMENT)
async def get_document(request: Request) -> HTTPResponse:
    """Serve the document."""
    return serve(request, request.app.ctx.document, HEADERS)


@readable(blueprint, routes.DOCS_FILE)
async def get_docs_file(request: Request, file: str) -> HTTPResponse:
    """Serve a script, the style sheet or the icon."""
    return serve(request, _files().get(file), HEADERS)


@cache
def _page(files: str) -> File:
    """Return the page; its files are at this address, seen from its own."""
    return tagged(PAGE.format(files=files).encode(), HTML)


@cache
def _files() -> dict[str, File]:
    """Read the files of the page. Their package is not imported, because its code isn't needed."""
    package = find_spec("swagger_ui")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package swagger-ui-py is not installed")
    static = Path(package.origin).parent / "static"
    files = {name: tagged((static / name).read_bytes(), kind) for name, kind in SWAGGER_UI.items()}
    files["initializer.js"] = tagged(INITIALIZER, JAVASCRIPT)
    return files
