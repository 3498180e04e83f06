"""The YAML file with settings: what it says, provided that YAML reads it as a person does."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sanic_app.errors import SettingsError

NUMBER = re.compile(
    r"[-+]?(0|[1-9][0-9]*|[0-9]*\.[0-9]*([eE][-+][0-9]+)?|\.(inf|nan))", re.IGNORECASE
)
"""What YAML 1.1 and a person read alike. 010 is 8 in YAML, 1:30 is 90, 0x10 is 16, 1_0 is 10."""


class Entry(NamedTuple):
    """One key of the file with its value, and where it stands."""

    name: Any
    value: Any
    text: str
    """The value as it is written, when it is a single word."""
    line: int


def read(path: Path) -> list[Entry]:
    """Return the entries in their order, each key once.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it cannot be read, or can be misread; the text is one line with the place.
    """
    source = f"file {path}"
    try:
        return list(_entries(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"{source}: {error.strerror}") from None
    except _Refused as error:
        raise SettingsError(f"{source}{error}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):
        # PyYAML also raises what its conversions raise: `PORT: !!timestamp x`, `!!bool x`.
        raise SettingsError(f"{source}: is not valid YAML") from None


class _Refused(Exception):
    """The text follows the name of the file."""


def _entries(text: str) -> Iterator[Entry]:
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None or loader.construct_object(root, deep=True) is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise _Refused(": must hold keys and values")
    lines: dict[Any, int] = {}
    for key, value in root.value:
        line = key.start_mark.line + 1
        name = loader.construct_object(key, deep=True)
        if name in lines:
            raise _Refused(f", line {line}: {name} is given twice, first in line {lines[name]}")
        lines[name] = line
        written = value.value if isinstance(value, yaml.ScalarNode) else ""
        yield Entry(name, loader.construct_object(value, deep=True), written, line)


class _Loader(yaml.SafeLoader):
    """Refuses what YAML takes for a number or a date, but a person does not."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        plain = not isinstance(value, int | float | dt.date) or isinstance(value, bool)
        if not plain and not NUMBER.fullmatch(str(node.value)):
            line = node.start_mark.line + 1
            raise _Refused(
                f", line {line}: YAML reads {node.value} as {value}: write a plain number,"
                " or put it in quotes"
            )
        return value
