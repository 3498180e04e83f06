"""Shapes: kinds of JSON objects, each with its schema and the way to make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

Json = dict[str, Any]
T = TypeVar("T")


class Field(NamedTuple, Generic[T]):
    """One field: its schema, and how its value is read from a ``T``.

    By default it is the attribute with the field's name.
    """

    name: str
    schema: Json
    read: Callable[[T], object] | None = None
    description: str = ""

    @property
    def reader(self) -> Callable[[T], object]:
        """What reads the value."""
        return self.read or attrgetter(self.name)

    @property
    def described(self) -> Json:
        """The schema with the description, if there is one."""
        return {**self.schema, "description": self.description} if self.description else self.schema


class Shape(Generic[T]):
    """One kind of JSON object. Call it with a ``T`` to make an object."""

    def __init__(self, example: T, *fields: Field[T], optional: Sequence[str] = ()) -> None:
        """Take an example for the documentation. ``optional`` fields can be missing."""
        self.fields = fields
        self._example = example
        self._optional = optional
        self._readers = [(field.name, field.reader) for field in fields]

    def __call__(self, shown: T) -> Json:
        """Return the object."""
        return {name: read(shown) for name, read in self._readers}

    @property
    def example(self) -> Json:
        """The object in the documentation."""
        return self(self._example)

    @property
    def schema(self) -> Json:
        """The schema of the objects."""
        return {
            "type": "object",
            "properties": {field.name: field.described for field in self.fields},
            "required": [f.name for f in self.fields if f.name not in self._optional],
            "additionalProperties": False,
            "examples": [self.example],
        }


def ref(name: str, place: str = "schemas") -> Json:
    """Return a reference to a component of the OpenAPI document."""
    return {"$ref": f"#/components/{place}/{name}"}


def list_of(name: str, **limits: Any) -> Json:
    """Return the schema of a list of that component."""
    return {"type": "array", "items": ref(name), **limits}


def string(pattern: str, **limits: Any) -> Json:
    """Return the schema of a string that matches the whole pattern."""
    return {"type": "string", **limits, "pattern": f"^{pattern}$"}


def or_null(schema: Json) -> Json:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def printable(name: str) -> str:
    """Return a name that a client sent as short ASCII text, to be quoted in an answer."""
    return name.encode("ascii", "backslashreplace").decode()[:64]
