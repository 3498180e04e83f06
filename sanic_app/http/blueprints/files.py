"""Files that are read once and served from memory."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

from sanic import HTTPResponse, Request

from sanic_app.errors import NotFound

HTML: Final = "text/html; charset=utf-8"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"


STATIC: Final = files("sanic_app.http") / "static"
"""The folder with the files of this package."""


class File(NamedTuple):
    """A file with its content type and its ETag."""

    body: bytes
    content_type: str
    etag: str


def tagged(body: bytes, content_type: str) -> File:
    """Return a file whose ETag changes with its content."""
    return File(body, content_type, f'"{sha256(body).hexdigest()[:16]}"')


def page_headers(images: str = "'self'") -> Mapping[str, str]:
    """Return headers that let a page load only files of this service."""
    return {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
            f" img-src {images};"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def serve(request: Request, file: File | None, headers: Mapping[str, str]) -> HTTPResponse:
    """Answer with the file, or with 304 if the client has it already.

    Raises:
        NotFound: there is no file.
    """
    if file is None:
        raise NotFound
    headers = {**headers, "ETag": file.etag}
    known = request.headers.getall("if-none-match", ())
    if known == ["*"] or any(file.etag in each for each in known):
        return HTTPResponse(status=304, headers=headers)
    return HTTPResponse(file.body, headers=headers, content_type=file.content_type)
