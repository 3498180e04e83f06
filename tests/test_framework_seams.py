"""Where we rely on the inside of a framework: what we override, and the private parts we use.

A new version of a framework may change these without a word in its change log. Each has a
fingerprint of the framework's own source here. When one differs, read what changed there, look at
the files of ours that the test names, and take over the new fingerprint.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from aiosqlite import Connection

import sanic_app

PACKAGE = Path(sanic_app.__file__).parent
FRAMEWORKS = {"sanic", "sanic_ext", "sanic_routing", "aiosqlite", "prometheus_client"}

FINGERPRINTS: dict[str, dict[str, str]] = {
    "aiosqlite.core:Connection": {
        "_conn": "3f7e8d3c6e38e218",
        "_execute": "8c831f8c23e31b20",
        "_thread": "f519d51ff20bca3b",
    },
    "prometheus_client.registry:Collector": {
        "collect": "02bee7dc22077970",
    },
    "sanic.http.http1:Http": {
        "_receive_more": "402d8b4d77d74d24",
        "_safe_int": "aa5b647def065987",
        "_send": "bf1831d448f8b73b",
        "create_empty_request": "15b4c275437446ac",
        "expecting_continue": "3013e45351798d4b",
        "head_only": "c8706d8f1e7422a5",
        "http1_request_header": "12ca456d9fc73cb5",
        "http1_response_chunked": "fb69726e8d539632",
        "http1_response_header": "6a75f7775b2f21c8",
        "keep_alive": "00ed853420ddf96c",
        "read": "ba80b303f965a6d0",
        "request": "6cece5c56ae7e4b1",
        "request_body": "20483a7a5a4a4b3f",
        "request_bytes": "4108774d88f0249d",
        "request_bytes_left": "1971761c617705d4",
        "request_max_size": "b88aa25ccdd8aba5",
        "respond": "af23839ecf3dc598",
        "response_func": "6f858f74c02ca369",
        "response_size": "40abbde72739e51a",
        "stage": "bca4cf084d2b3715",
        "upgrade_websocket": "65900476f2479aa6",
        "url": "577076bed5c35307",
    },
    "sanic.request.types:Request": {
        "__init__": "fab4b3419b6590ee",
        "_parsed_url": "c255e346cc92ed7c",
        "body": "85b2b63272abc01d",
        "path": "6d017876de420ee9",
        "receive_body": "6754601d7899b95a",
    },
    "sanic.server.protocols.http_protocol:HttpProtocol": {
        "HTTP_CLASS": "d3ed297c5264d311",
        "_callback_check_timeouts": "010c67998dad54e1",
        "_data_received": "47124467f07e2a1c",
        "_http": "272df1c0c1930715",
        "_setup": "0d37dfbab67810b8",
        "_task": "df8458d3f58fecce",
        "_time": "1632bf67beee01c5",
        "check_timeouts": "e60a4b6f8102f32c",
        "close": "c3f94d649bb44734",
        "data_received": "ae5127a21bc55c6f",
        "receive_more": "c4ce026ba796a566",
        "request_class": "f4798a0ac1ea7a0c",
        "request_handler": "fa0b2220306ff545",
        "request_max_size": "f17b750426c51d27",
    },
}
"""By the class that we derive from, and the name."""
SEAMS = {
    f"{cls}.{name}": fingerprint
    for cls, names in FINGERPRINTS.items()
    for name, fingerprint in names.items()
}

# Names that every class has of its own.
_OF_EVERY_CLASS = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__"),
    *("__abstractmethods__", "_abc_impl", "_is_protocol", "__firstlineno__"),
    *("__static_attributes__", "__orig_bases__", "__parameters__"),
}
_OF_NAMED_TUPLES = {"_replace", "_fields", "_make", "_asdict"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_a_framework(part: object) -> bool:
    return str(getattr(part, "__module__", "")).partition(".")[0] in FRAMEWORKS


def defines(base: type, name: str) -> bool:
    """Return whether the class has the name from its framework, and not from a standard base."""
    part = vars(base).get(name)
    part = getattr(part, "__func__", part)
    return name in vars(base) and (not inspect.isfunction(part) or of_a_framework(part))


def bases(cls: type) -> list[type]:
    """Return the classes of frameworks that the class is derived from."""
    return [base for base in cls.__mro__ if of_a_framework(base)]


@cache
def code(part: object) -> str:
    """Return source without comments, blank lines and indentation of the whole."""
    text = textwrap.dedent(inspect.getsource(part))  # type: ignore[arg-type]
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def mentions(cls: type, name: str) -> list[str]:
    """Return the lines of the framework that have to do with an attribute."""
    found = (line for base in bases(cls) for line in code(base).splitlines())
    return [line.strip() for line in found if re.search(rf"\b{name}\b", line)]


def method(cls: type, name: str) -> str:
    """Return the source of a method from its file: Sanic replaces some methods when it starts."""
    for base in bases(cls):
        text = code(base)
        found = [
            ast.get_source_segment(text, node) or ""
            for node in ast.parse(text).body[0].body  # type: ignore[attr-defined]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
        ]
        if found:
            return "\n".join(found)
    return ""


def fingerprint(seam: str) -> str:
    """Return that of a method's source, or of all lines that mention an attribute."""
    module, _, path = seam.partition(":")
    cls_name, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), cls_name)
    text = method(cls, name) or "\n".join(mentions(cls, name))
    return sha256(text.encode()).hexdigest()[:16] if text else "not there"


def our_classes() -> Iterator[type]:
    for info in pkgutil.walk_packages([str(PACKAGE)], "sanic_app."):
        if not info.name.endswith("__main__"):
            for cls in vars(importlib.import_module(info.name)).values():
                if inspect.isclass(cls) and cls.__module__ == info.name and bases(cls):
                    yield cls


def used_through_self(cls: type) -> Iterator[str]:
    """Return private attributes of ``self`` or ``super()``, and the attributes that are set."""
    for node in ast.walk(ast.parse(code(cls))):
        match node:
            case ast.Attribute(value, name) if ast.unparse(value) in ("self", "super()"):
                if is_private(name) or isinstance(node.ctx, ast.Store):
                    yield name


def found_seams() -> dict[str, set[str]]:
    """Return every seam that our classes show, with the files that it is in."""
    found: dict[str, set[str]] = {}
    for cls in our_classes():
        overridden = set(vars(cls)) - _OF_EVERY_CLASS
        names = {name for name in overridden if any(defines(base, name) for base in bases(cls))}
        names |= {name for name in used_through_self(cls) if mentions(cls, name)}
        file = str(Path(inspect.getfile(cls)).relative_to(PACKAGE.parent))
        of = bases(cls)[0]
        for name in names:
            found.setdefault(f"{of.__module__}:{of.__qualname__}.{name}", set()).add(file)
    return found


FOUND = found_seams()


@pytest.mark.parametrize("seam", SEAMS)
def test_the_framework_is_what_we_rely_on(seam: str) -> None:
    files = ", ".join(sorted(FOUND.get(seam, {"nothing of ours"})))
    now = fingerprint(seam)
    assert now == SEAMS[seam], f"{seam} is {now} now: look at {files}"


def test_every_seam_has_its_fingerprint() -> None:
    assert {seam: fingerprint(seam) for seam in FOUND.keys() - SEAMS.keys()} == {}
    assert SEAMS.keys() - FOUND.keys() == set()


def private_names(path: Path) -> Iterator[str]:
    """Return the private names that a file takes from somewhere else than ``self``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module, names) if str(module).partition(".")[0] in FRAMEWORKS:
                yield from (alias.name for alias in names if is_private(alias.name))
            case ast.Attribute(value, name) if is_private(name):
                if ast.unparse(value) not in ("self", "cls", "super()", "os"):
                    yield name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_private_is_used_from_outside(path: Path) -> None:
    assert set(private_names(path)) <= _OF_NAMED_TUPLES


# The controls.


def test_the_search_finds_what_it_should() -> None:
    class Ours(Connection):
        async def close(self) -> None:
            self._tx = self._mine = None  # type: ignore[assignment]

    assert {name for name in used_through_self(Ours) if mentions(Ours, name)} == {"_tx"}
    assert bases(Ours)[0] is Connection


def test_a_change_and_a_loss_are_seen() -> None:
    seam = "aiosqlite.core:Connection.close"
    assert fingerprint(seam) != fingerprint("aiosqlite.core:Connection.commit")
    assert fingerprint("aiosqlite.core:Connection._nothing") == "not there"
