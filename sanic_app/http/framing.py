"""What is a valid request, byte by byte (RFC 9112).

A proxy before the service may see where a doubtful request ends differently, and let the rest of it
pass as a request of its own. So the service accepts nothing that is doubtful.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_NAME: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_FIELDS: Final = rb"(?:\r\n%b:[\t\x20-\x7e\x80-\xff]*+)*+" % _NAME
"""Names and values. The tab is the only control character in a value, and no name is empty."""
_TARGET: Final = rb"(?!\* )[\x21\x22\x24-\x7e]++"
"""A target is never followed by a fragment, and ``*`` is one of OPTIONS alone (RFC 9112, 3.2)."""
_HEAD: Final = re.compile(rb"(?:OPTIONS \*|%b %b) HTTP/1\.[01]%b" % (_NAME, _TARGET, _FIELDS))
_PLAIN: Final = re.compile(
    rb"([A-Z]++) (/[\x21\x22\x24-\x7e]*+) HTTP/1\.1"
    rb"((?:\r\n(?!(?i:transfer-encoding|expect|upgrade):)%b:(?:[\t\x20]*+[\x21-\x7e]++)*+)*+)"
    rb"\r\n\r\n" % _NAME
)
_PLAIN_FIELD: Final = re.compile(r"\r\n([^:]++):[\t ]*+([^\r]*+)")
_TRAILER: Final = re.compile(_FIELDS)
_STRAY: Final = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]|(?<!\r)\n|\r(?!\n|\Z)")
_CHUNKED: Final = re.compile("chunked", re.ASCII | re.IGNORECASE)
_CHUNK_LINE: Final = re.compile(rb"\r\n([0-9A-Fa-f]++)[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")


def plain_head(buffer: bytearray) -> re.Match[bytes] | None:
    """Return the whole head that it begins with: method, target, and fields behind line ends.

    None if it is not plain: invalid, or with a field that changes how the rest is read. Nearly all
    heads are plain. It takes one microsecond.
    """
    return _PLAIN.match(buffer)


def plain_fields(fields: bytes) -> list[tuple[str, str]]:
    """Return the fields of a plain head, their names as they were sent."""
    return _PLAIN_FIELD.findall(fields.decode())


def is_head(head: bytes) -> bool:
    """Return whether this is a request line and its fields, without the empty line behind them."""
    return _HEAD.fullmatch(head) is not None


def goes_on(options: Sequence[str], version: str) -> bool:
    """Return whether a connection goes on after a request with these lines of ``Connection``.

    So it does unless it is to be closed; one of HTTP/1.0 must ask for it (RFC 9112, 9.3).
    """
    found = {option.strip(" \t").lower() for line in options for option in line.split(",")}
    return "close" not in found and (version == "1.1" or "keep-alive" in found)


def has_stray(begin: bytearray, checked: int = 0) -> bool:
    """Return whether something in the beginning of a head or of a chunk's line spoils it.

    So many of the bytes have been checked before.
    """
    return _STRAY.search(begin, checked) is not None


def is_trailer(fields: bytes) -> bool:
    """Return whether these are fields, each with a line end before it."""
    return _TRAILER.fullmatch(fields) is not None


def chunk_line(data: bytearray) -> tuple[int, int] | None:
    """Return the size of a chunk, and where its data begins.

    The line end behind the head, or behind the last chunk, comes before the size. None means that
    the line is not valid.
    """
    line = _CHUNK_LINE.match(data)
    return None if line is None else (int(line[1], 16), line.end())


def fields(head: bytes) -> list[tuple[str, str]]:
    """Return the fields of a head. Blanks around values are no part of them (RFC 9110, 5.5).

    Bytes that are not ASCII are opaque, also those that Unicode would call blanks. ``chunked`` is
    the one coding that there is, and codings have no case (RFC 9112, 7).
    """
    lines = head.decode(errors="surrogateescape").split("\r\n")[1:]
    parts = (line.partition(":") for line in lines)
    found = [(name.lower(), value.strip(" \t")) for name, _, value in parts]
    return [
        (name, "chunked" if name == "transfer-encoding" and _CHUNKED.fullmatch(value) else value)
        for name, value in found
    ]
