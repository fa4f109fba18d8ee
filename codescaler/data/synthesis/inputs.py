"""Inputs of a problem that a language model wrote: calls, or programs that make inputs, which run in the sandbox."""

import ast
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import codescaler.data.execution
from codescaler.data.execution.examples import Examples, read_call
from codescaler.data.execution.outputs import Capturer
from codescaler.types import StdioTests

_DRIVER = Path(codescaler.data.execution.__file__).with_name("input_driver.py").read_text(encoding="utf-8")


def read_calls(text: str, name: str) -> Examples | None:
    """The calls of a function in a text, one a line, of the most frequent form. None if there is none.

    Arguments are numbers, texts, truth values, None, and lists, tuples and dicts of such.
    """
    found = [call for line in text.splitlines() if (call := read_call(line.strip(), {name})) is not None]
    plain = [(values, names) for values, names in found if all(map(_is_plain, values))]
    forms = Counter((len(values), names) for values, names in plain)
    if not forms:
        return None
    form = max(forms, key=lambda form: forms[form])  # the first of equals
    calls = {repr(values): values for values, names in plain if (len(values), names) == form}
    return Examples(tuple(calls.values()), form[1])


def _is_plain(value: Any) -> bool:
    """Whether its text gives it again, and always in the same order."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or (isinstance(value, (str, int, float)) and (isinstance(value, str) or math.isfinite(value)))


def make_inputs(runner: Capturer, codes: Iterable[str], count: int, seed: int, *, is_call: bool) -> list[str]:
    """Up to `count` distinct inputs of several programs that define `generate_input(rng)`, which take turns.

    An input of a call is the text of its arguments, that of a whole program a text that ends with a newline. What is of
    another kind is left out. The same seed gives the same inputs.
    """
    asked = [json.dumps({"code": code, "seeds": [f"{seed}|{number}" for number in range(count)]}) for code in codes]
    runs = runner.capture_many((_DRIVER, StdioTests(((text, ""),))) for text in asked)
    made = [list(_read_inputs(capture.output, is_call)) for (capture,) in runs]
    turns = (column[turn] for turn in range(count) for column in made if turn < len(column))
    return list(dict.fromkeys(turns))[:count]


def _read_inputs(printed: str, is_call: bool) -> Iterable[str]:
    for line in printed.splitlines():
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            kind, text = json.loads(line)
            value = ast.literal_eval(text) if kind == "value" else None
            if is_call and isinstance(value, (tuple, list)):
                yield write_arguments(value)
            elif not is_call and isinstance(value, str) and value.strip():
                yield value if value.endswith("\n") else f"{value}\n"


def write_arguments(values: Sequence[Any]) -> str:
    """The text of the arguments of a call."""
    return ", ".join(map(repr, values))
