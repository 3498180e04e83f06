"""The log: one JSON object a line, whatever is in a record."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from sanic_app import log
from sanic_app.log import JsonLines, accept_request_id, request_id


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def written(message: object, *arguments: object, **options: Any) -> dict[str, Any]:
    """Return the object of the one line that a record becomes."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.getLogger("test.logger")
    logger.propagate = False
    handler = Collector()
    handler.setFormatter(JsonLines())
    logger.handlers[:] = [handler]
    logger.error(message, *arguments, **options)
    (line,) = lines
    assert line.isascii()
    assert line.isprintable()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    fields: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return fields


def test_a_line_has_time_level_logger_and_message() -> None:
    line = written("%s of %d", "one", 2)
    assert line.keys() == {"time", "level", "logger", "message"}
    assert line["time"].endswith("Z")
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "test.logger", "one of 2")


@pytest.mark.parametrize(
    "text",
    ['\n{"level": "FORGED"}', "\r", "\x00", "\x1b[2J", "\u2028", "\u2029", "\x85", "\ud800", "é"],
)
def test_no_text_breaks_or_forges_a_line(text: str) -> None:
    line = written(text, extra={"field": text, f"name{text}": 1})
    assert line["message"] == text
    assert line["field"] == text
    assert line["level"] == "ERROR"


def test_what_comes_along_is_a_field() -> None:
    line = written("x", extra={"port": 80, "path": ["a"], "object": logging.Handler})
    assert line["port"] == 80
    assert line["path"] == ["a"]
    assert line["object"] == "<class 'logging.Handler'>"


def test_an_exception_is_a_field_of_the_same_line() -> None:
    try:
        raise ValueError("first\nsecond")  # noqa: TRY301 - to be caught
    except ValueError:
        line = written("failed", exc_info=True)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: first\nsecond")


def _circle() -> list[object]:
    circle: list[object] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    ("message", "arguments", "extra"),
    [
        ("%d", ["x"], {}),
        ("%s", ["too", "many"], {}),
        (Unspeakable(), [], {}),
        ("%s", [Unspeakable()], {}),
        ("x", [], {"field": Unspeakable()}),
        ("x", [], {"field": {(1, 2): 3}}),
        ("x", [], {"field": float("nan")}),
        ("x", [], {"field": float("inf")}),
        ("x", [], {"field": _circle()}),
    ],
)
def test_a_record_that_cannot_be_written_is_still_one_line(
    message: object, arguments: list[object], extra: dict[str, object]
) -> None:
    line = written(message, *arguments, extra=extra)
    assert line["level"] == "ERROR"
    assert line["message"].startswith("a record could not be written: ")
    assert "test_log.py:" in line["place"]


# Request ids.


@pytest.mark.parametrize("given", ["a", "A-z.0_9~+/=:", "x" * 128, "4711"])
def test_a_plain_request_id_is_taken_over(given: str) -> None:
    assert accept_request_id(given) == given


@pytest.mark.parametrize(
    "given", [None, "", " ", "a b", "a\n", "\n", "a\r\nx: y", "é", "x" * 129, '"', "<a>", "\x00"]
)
def test_anything_else_gets_an_id_of_ours(given: str | None) -> None:
    ours = accept_request_id(given)
    assert ours != given
    assert accept_request_id(ours) == ours


def test_no_two_requests_get_the_same_id() -> None:
    assert len({accept_request_id(None) for _ in range(1_000)}) == 1_000


def test_the_line_says_which_request_it_belongs_to() -> None:
    token = request_id.set("abc-1")
    try:
        assert written("x")["request_id"] == "abc-1"
    finally:
        request_id.reset(token)
    assert "request_id" not in written("x")


# The whole process.

LOGGERS = ("", "aiosqlite", "sanic.root", "sanic.server", "sanic.error", "sanic.access")


@pytest.fixture
def restored() -> Iterator[None]:
    """Put all loggers back as they were."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(each.handlers), each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def test_every_logger_writes_the_same_lines_to_standard_error(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("INFO")
    logging.getLogger("sanic.error").error("from %s", "sanic")
    logging.getLogger("sanic.root").info("Goin' Fast")
    logging.getLogger("anything").info("from elsewhere")
    logging.getLogger("anything").debug("too much")
    output, lines = capsys.readouterr()
    assert output == ""
    found = [json.loads(line) for line in lines.splitlines()]
    assert [(each["logger"], each["message"]) for each in found] == [
        ("sanic.error", "from sanic"),
        ("anything", "from elsewhere"),
    ]


def test_no_level_shows_the_values_of_statements(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("DEBUG")
    logging.getLogger("aiosqlite").debug("executing %s", "INSERT")
    logging.getLogger("anything").debug("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "shown"


def test_configuring_twice_writes_each_line_once(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("INFO")
    log.configure("WARNING")
    logging.getLogger("anything").warning("once")
    logging.getLogger("anything").info("never")
    assert len(capsys.readouterr().err.splitlines()) == 1
