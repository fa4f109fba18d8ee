"""`Row`: typed look-ups in one record of a file. All errors are `InvalidInput` and name the record and the value."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.json import parse_json as parse_json_text
from codescaler.io.literals import write_literal


@dataclass(frozen=True)
class Row:
    """The fields of one record; `name` says where it stands, such as "tasks.jsonl, line 3"."""

    values: Mapping[str, Any]
    name: str

    def make_error(self, key: str, advice: str) -> InvalidInput:
        """The error for a field that cannot be used."""
        return InvalidInput(f"{self.name}: {key} is {write_literal(self.values.get(key))[:80]}; {advice}")

    def read_text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.make_error(key, "give a string")
        return value

    def find_first(self, *keys: str) -> str:
        """The first of several names of a field that is there; the first of all if none is."""
        return next((key for key in keys if key in self.values), keys[0])

    def read_text_or_none(self, key: str) -> str | None:
        """The text; None if the field is absent, null or empty."""
        return (self.read_text(key) or None) if self.values.get(key) is not None else None

    def read_texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if the field is absent or null."""
        value = self.values.get(key)
        if not isinstance(value, list | tuple | None) or not all(isinstance(text, str) for text in value or ()):
            raise self.make_error(key, "give a list of strings")
        return tuple(value or ())

    def read_tags(self, *keys: str) -> tuple[str, ...]:
        """Distinct names of several fields, each a list of strings, or the text of a list of Python."""
        found: dict[str, None] = {}
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, str) and value.strip():
                try:
                    value = ast.literal_eval(value)
                except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                    raise self.make_error(key, "give a list of strings") from error
            if value and not (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)):
                raise self.make_error(key, "give a list of strings")
            found |= dict.fromkeys(name.strip() for name in value or () if name.strip())
        return tuple(found)

    def read_rating(self, key: str) -> int | None:
        """A number of difficulty above 0; None if the field is absent, null or 0."""
        value = self.values.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise self.make_error(key, "give a whole number")
        return value or None

    def read_object(self, key: str) -> "Row":
        """An object inside; empty if the field is absent or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.make_error(key, "give an object")
        return Row(value or {}, f"{self.name}: {key}")

    def read_objects(self, key: str, values: Any) -> list["Row"]:
        """The objects of a list that was made of a field's value."""
        if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
            raise self.make_error(key, "give a list of objects")
        return [Row(value, f"{self.name}: {key}[{index}]") for index, value in enumerate(values)]

    def read_parsed(self, key: str) -> Any:
        """A value that is published as JSON inside a string; None if the field is absent, null or empty."""
        value = self.values.get(key)
        return parse_json(value, f"{self.name}: {key}") if isinstance(value, str) and value.strip() else value or None


def parse_rows(row: Row, key: str, columns: tuple[str, ...]) -> list[Row]:
    """Rows that are written as a list of objects, or as an object of lists of one length."""
    value = row.values.get(key)
    if isinstance(value, dict):
        lists = [column for name in columns if isinstance(column := value.get(name), list)]
        if len(lists) != len(columns) or len(set(map(len, lists))) != 1:
            raise row.make_error(key, f"give lists {' and '.join(columns)} of one length")
        value = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
    return row.read_objects(key, value or [])


def parse_json(text: str, where: str) -> Any:
    """Returns the value of a JSON text; NaN and infinities, which are no JSON, are refused."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return parse_json_text(text, refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is {text!r:.80}, which is not JSON ({error}); fix it") from error
