"""The OpenAPI document, and the page that shows it.

The page is Swagger UI from files of the package swagger-ui-py, so that it works without internet.
Everything is read or made once, before the service serves, and answered from memory.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.blueprints import App
from sanic_app.errors import NotFound
from sanic_app.openapi import document
from sanic_app.settings import Settings

DOCS = "/api/docs"

HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        # The style sheet draws its arrows and check marks as data: images.
        " img-src 'self' data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

PAGE: Final = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sanic-app: documentation</title>
<link rel="icon" type="image/png" href="{DOCS}/favicon-32x32.png">
<link rel="stylesheet" href="{DOCS}/swagger-ui.css">
<script defer src="{DOCS}/swagger-ui-bundle.js"></script>
<script defer src="{DOCS}/initializer.js"></script>
</head>
<body>
<div id="swagger-ui"></div>
</body>
</html>
"""

# A file of its own, because the page's policy allows no script in the page. The validator is a
# service elsewhere.
INITIALIZER: Final = f"""\
SwaggerUIBundle({{
  url: "{DOCS}/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
}});
"""

JAVASCRIPT: Final = "text/javascript; charset=utf-8"
SWAGGER_UI: Final = {
    "swagger-ui-bundle.js": JAVASCRIPT,
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}

blueprint = Blueprint("docs", url_prefix=DOCS)


class File(NamedTuple):
    """What a request is answered, and the tag that changes with it."""

    body: bytes
    content_type: str
    etag: str


def attach(app: App, settings: Settings) -> None:
    """Add the routes of the documentation to the application."""
    app.ctx.page = _file(PAGE.encode(), "text/html; charset=utf-8")
    app.ctx.page_files = _files()
    app.blueprint(blueprint)

    @app.before_server_start
    async def make_document(app: App) -> None:
        """Make the document of all routes, once all are there."""
        text = json.dumps(document(app, settings, app.ctx.page_files))
        app.ctx.document = _file(text.encode(), "application/json")


@blueprint.get("/")
async def page(request: Request) -> HTTPResponse:
    """Show this documentation as a page."""
    return _answer(request, request.app.ctx.page)


@blueprint.get("/openapi.json")
async def openapi(request: Request) -> HTTPResponse:
    """Show this documentation as OpenAPI 3.1."""
    return _answer(request, request.app.ctx.document)


@blueprint.get("/<file:str>")
async def page_file(request: Request, file: str) -> HTTPResponse:
    """Show a script, the style sheet or the icon of the page."""
    files: dict[str, File] = request.app.ctx.page_files
    if file not in files:
        raise NotFound
    return _answer(request, files[file])


def _answer(request: Request, file: File) -> HTTPResponse:
    """Answer with the file, or 304 to a client that has it."""
    headers = {**HEADERS, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return HTTPResponse(status=304, headers=headers)
    return HTTPResponse(file.body, headers=headers, content_type=file.content_type)


def _file(body: bytes, content_type: str) -> File:
    return File(body, content_type, f'"{sha256(body).hexdigest()[:16]}"')


@cache
def _files() -> dict[str, File]:
    """Read what the page loads; the package is found, not imported: its code is not needed."""
    package = find_spec("swagger_ui")
    if package is None or package.origin is None:
        msg = "the package swagger-ui-py is not installed"
        raise ModuleNotFoundError(msg)
    static = Path(package.origin).parent / "static"
    files = {name: _file((static / name).read_bytes(), kind) for name, kind in SWAGGER_UI.items()}
    files["initializer.js"] = _file(INITIALIZER.encode(), JAVASCRIPT)
    return files
