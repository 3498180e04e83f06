"""The OpenAPI document, and the page that shows it.

The page is Swagger UI from files of the package swagger-ui-py, so that it works without internet.
Everything is read or made once, before the service serves, and answered from memory.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sanic import Blueprint, HTTPResponse, Request

from sanic_app.errors import NotFound
from sanic_app.http import routes
from sanic_app.http.blueprints import App, page
from sanic_app.http.blueprints.files import CSS, HTML, JAVASCRIPT, File, answer, file, headers
from sanic_app.http.openapi import document
from sanic_app.settings import Settings

# The style sheet draws its arrows and check marks as data: images.
HEADERS: Final = headers(images="'self' data:")

PAGE: Final = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sanic-app: documentation</title>
<link rel="icon" type="image/png" href="{routes.DOCS_FILES}favicon-32x32.png">
<link rel="stylesheet" href="{routes.DOCS_FILES}swagger-ui.css">
<script defer src="{routes.DOCS_FILES}swagger-ui-bundle.js"></script>
<script defer src="{routes.DOCS_FILES}initializer.js"></script>
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
  url: "{routes.DOCUMENT}",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
}});
"""

SWAGGER_UI: Final = {
    "swagger-ui-bundle.js": JAVASCRIPT,
    "swagger-ui.css": CSS,
    "favicon-32x32.png": "image/png",
}

blueprint = Blueprint("docs")


def attach(app: App, settings: Settings) -> None:
    """Add the routes of the documentation to the application."""
    app.ctx.docs = file(PAGE.encode(), HTML)
    app.ctx.docs_files = _files()
    app.blueprint(blueprint)

    @app.before_server_start
    async def make_document(app: App) -> None:
        """Make the document of all routes, once all are there."""
        files = {"File": list(app.ctx.docs_files), "PageFile": list(page.FILES)}
        text = json.dumps(document(app, settings, files))
        app.ctx.document = file(text.encode(), "application/json")


@blueprint.get(routes.DOCS)
async def docs(request: Request) -> HTTPResponse:
    """Show this documentation as a page."""
    return answer(request, request.app.ctx.docs, HEADERS)


@blueprint.get(routes.DOCUMENT)
async def openapi(request: Request) -> HTTPResponse:
    """Show this documentation as OpenAPI 3.1."""
    return answer(request, request.app.ctx.document, HEADERS)


@blueprint.get(routes.DOCS_FILE)
async def docs_file(request: Request, file: str) -> HTTPResponse:
    """Show a script, the style sheet or the icon of the page."""
    files: dict[str, File] = request.app.ctx.docs_files
    if file not in files:
        raise NotFound
    return answer(request, files[file], HEADERS)


@cache
def _files() -> dict[str, File]:
    """Read what the page loads; the package is found, not imported: its code is not needed."""
    package = find_spec("swagger_ui")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package swagger-ui-py is not installed")
    static = Path(package.origin).parent / "static"
    files = {name: file((static / name).read_bytes(), kind) for name, kind in SWAGGER_UI.items()}
    files["initializer.js"] = file(INITIALIZER.encode(), JAVASCRIPT)
    return files
