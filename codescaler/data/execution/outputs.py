"""Untrusted programs on inputs, to outputs that can be compared. Knows no test, and what is correct for nobody.

An input of a call is the text of its arguments, such as "[1, 2], 3". An input of a whole program is what it reads.
"""

import ast
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from codescaler.types import CallTests, Capture, StdioTests, Task

CALL_DRIVER = Path(__file__).with_name("call_driver.py").read_text(encoding="utf-8")
_ANY_PROGRAM = StdioTests(())
_MAX_STARTS = 3  # of a program that runs out of time: each may use up its limit
_DIGITS = 9  # of a float: programs add up in different orders


@dataclass(frozen=True)
class Interface:
    """How a program takes an input. `call` is the text of what is called, None for a whole program."""

    call: str | None = None
    prelude: str = ""
    settings: StdioTests = _ANY_PROGRAM


@dataclass(frozen=True)
class Output:
    """What a program gave for an input: its text, and a key that is equal for equal outputs."""

    text: str
    key: Any


class Capturer(Protocol):
    """What runs programs: `codescaler.sandbox.Sandbox`."""

    def capture(self, code: str, tests: StdioTests) -> list[Capture]:
        """What a program prints for each input."""
        ...

    def capture_many(self, jobs: Iterable[tuple[str, StdioTests]]) -> Iterator[list[Capture]]:
        """Yields the same of one job after the other, in order."""
        ...


def find_interface(task: Task) -> Interface | None:
    """How programs of a task take an input, as far as its tests tell: one function or one method of one class."""
    tests = task.tests
    if isinstance(tests, StdioTests):
        return Interface(settings=tests)
    if not isinstance(tests, CallTests) or len(tests.entry_points) != 1:
        return None
    name = tests.entry_points[0]
    if name in tests.classes:
        bound = {_find_method(statement, name) for statement in tests.statements}
        call = bound.pop() if len(bound) == 1 else None
        return None if call is None else Interface(call, tests.prelude)
    return Interface(name, tests.prelude)


def _find_method(statement: str, name: str) -> str | None:
    """The text "Solution().f" from a test that makes an object and calls one of its methods, or binds it first."""
    start = statement.find(f"{name}().")
    if start < 0:
        return None
    method = statement[start + len(name) + 3 :]
    end = next((i for i, char in enumerate(method) if not (char.isalnum() or char == "_")), len(method))
    return f"{name}().{method[:end]}" if end else None


def collect_outputs(
    runner: Capturer, jobs: Iterable[tuple[str, Interface, Sequence[str]]]
) -> Iterator[list[Output | None]]:
    """Yields the outputs of each (program, interface, inputs), None where a program gives nothing plain."""
    asked: list[tuple[str, Interface, Sequence[str]]] = []

    def list_runs() -> Iterator[tuple[str, StdioTests]]:
        for job in jobs:
            asked.append(job)
            yield _make_run(*job)

    for number, captures in enumerate(runner.capture_many(list_runs())):
        code, interface, inputs = asked[number]
        asked[number] = ("", interface, ())  # a program may be large
        if interface.call is None:
            yield [_read_printed(capture) for capture in captures]
        else:
            yield _collect_calls(runner, code, interface, inputs, captures[0])


def _make_run(code: str, interface: Interface, inputs: Sequence[str]) -> tuple[str, StdioTests]:
    settings = interface.settings
    if interface.call is None:
        cases = tuple((text, "") for text in inputs)
        return code, StdioTests(cases, **{k: v for k, v in vars(settings).items() if k != "cases"})
    calls = [f"{interface.call}({arguments})" for arguments in inputs]
    asked = json.dumps({"prelude": interface.prelude, "code": code, "calls": calls})
    return CALL_DRIVER, StdioTests(((asked, ""),), cpu_seconds=settings.cpu_seconds)


def _collect_calls(
    runner: Capturer, code: str, interface: Interface, inputs: Sequence[str], capture: Capture
) -> list[Output | None]:
    """The outputs of calls. A call that ends the process gives nothing, and the rest is asked in a new one."""
    outputs = _read_answers(capture.output, len(inputs))
    for _ in range(_MAX_STARTS - 1):
        if len(outputs) >= len(inputs) - 1:
            break
        outputs.append(None)
        left = inputs[len(outputs) :]
        (capture,) = runner.capture(*_make_run(code, interface, left))
        outputs += _read_answers(capture.output, len(left))
    return outputs + [None] * (len(inputs) - len(outputs))


def _read_answers(printed: str, count: int) -> list[Output | None]:
    outputs: list[Output | None] = []
    for line in printed.splitlines()[:count]:
        try:
            kind, text = json.loads(line)
            outputs.append(parse_output(text) if kind == "value" else None)
        except (ValueError, TypeError):  # the process ended in this line, or the program wrote it
            break
    return outputs


def parse_output(text: str) -> Output | None:
    """The output that a text of Python writes, None if it does not."""
    try:
        return Output(text, compute_key(ast.literal_eval(text)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # nan and inf are none, or it is forged
        return None


def compute_key(value: Any) -> Any:
    """A value that can be hashed, equal for values that Python's `==` takes for equal, floats to nine digits."""
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, dict):
        return "dict", frozenset((compute_key(key), compute_key(part)) for key, part in value.items())
    if isinstance(value, (set, frozenset)):
        return "set", frozenset(map(compute_key, value))
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(compute_key, value))
    return value


def _read_printed(capture: Capture) -> Output | None:
    if capture.outcome != "passed":
        return None
    lines = [line.rstrip() for line in capture.output.rstrip().split("\n")]
    return Output(capture.output, tuple(tuple(map(_read_word, line.split())) for line in lines))


def _read_word(word: str) -> Any:
    if "." in word:
        try:
            return compute_key(float(word))
        except (ValueError, OverflowError):
            return word
    return word
