"""Calls of functions on values written in JSON, as contests have them, to statements of tests."""

from typing import Any

from codescaler.io.literals import write_literal
from codescaler.tasks.row import Row

_RULE = "_is_expected"  # what the tests' rule of comparison is called where they run


def parse_call(row: Row, key: str, *, is_method: bool) -> str:
    """Returns the text that stands for a function, from its name."""
    name = row.read_text(key)
    if not name.isidentifier() or name == _RULE:
        raise row.make_error(key, "give the name of a function")
    return f"Solution().{name}" if is_method else name


def write_assertion(call: str, arguments: list[Any], expected: Any) -> str:
    """Returns the statement that a call gives what is expected, by the tests' rule of comparison."""
    return f"assert {_RULE}({call}({', '.join(map(write_literal, arguments))}), {write_literal(expected)})"


def add_starter(question: str, starter: str | None) -> str:
    """Returns a question with the code that is to be completed, if there is some."""
    return question if starter is None else f"{question}\n\nComplete this code:\n```python\n{starter}\n```"
