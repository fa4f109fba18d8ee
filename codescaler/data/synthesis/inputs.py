"""Inputs of a problem, made by programs that a language model wrote. The programs run in the sandbox."""

import ast
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import codescaler.data.execution
from codescaler.data.execution.outputs import Capturer
from codescaler.types import StdioTests

_DRIVER = Path(codescaler.data.execution.__file__).with_name("input_driver.py").read_text(encoding="utf-8")


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
