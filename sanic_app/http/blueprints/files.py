"""Files that are read once, before the service serves, and answered from memory."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from sanic import HTTPResponse, Request

HTML: Final = "text/html; charset=utf-8"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"


class File(NamedTuple):
    """What a request is answered, and the tag that changes with it."""

    body: bytes
    content_type: str
    etag: str


def file(body: bytes, content_type: str) -> File:
    """Return the file with its tag."""
    return File(body, content_type, f'"{sha256(body).hexdigest()[:16]}"')


def headers(images: str = "'self'") -> Mapping[str, str]:
    """Return the headers of a page that loads its own files and nothing else."""
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


def answer(request: Request, asked: File, more: Mapping[str, str]) -> HTTPResponse:
    """Answer with the file, or 304 to a client that has it."""
    told = {**more, "ETag": asked.etag}
    if asked.etag in request.headers.get("if-none-match", ""):
        return HTTPResponse(status=304, headers=told)
    return HTTPResponse(asked.body, headers=told, content_type=asked.content_type)
