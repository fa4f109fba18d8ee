"""More tests for problems that have few: inputs made from a problem's own, and the reference program for the correct
outputs.

Inputs are varied step by step. What holds in all calls of the problem's own tests counts as a condition of its
statement, and is kept. Such conditions are types, the range of numbers and the characters of strings. A list may be
sorted, not empty, or without duplicates. Its parts may be not empty, or of one length. Two arguments may have the same
length, or a number may be the length of another argument. A test asks the program and the reference the same, and
compares. The reference has to pass it twice, within the limits.

The statement may make more conditions. So a program may fail on an input that the problem does not allow.
"""

import ast
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from codescaler.sandbox import Sandbox
from codescaler.text.extract import parse_syntax_tree
from codescaler.types import CallTests, Task

Call = tuple[Any, ...]

SAME = """
import math
def _same(a, b):
    if isinstance(a, float) or isinstance(b, float):
        try:
            return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) or (a != a and b != b)
        except (TypeError, OverflowError):
            return False
    if type(a) is type(b) and isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if type(a) is type(b) and isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a == b
"""
_REFERENCE = """\
_reference = {{"__name__": "reference"}}
exec({prelude!r}, _reference)
exec({code!r}, _reference)
_expected = _reference[{name!r}]
"""


def strengthen_tasks(
    sandbox: Sandbox, tasks: Iterable[Task], *, num_tests: int = 20, seed: int = 0
) -> Iterator[tuple[Task, int]]:
    """Yields each task with generated tests in place of its own, and how many were made before the reference was asked.

    A task without a reference, or whose tests are not calls with plain values, or whose reference fails, has none.
    """
    asked = [(task, _generate_tests(task, num_tests, seed)) for task in tasks]
    jobs = ((task.reference or "", task.tests) for _, task in asked if task is not None and task.tests is not None)
    verdicts = iter(sandbox.run_many(job for job in jobs for _ in range(2)))
    for task, made in asked:
        if made is None or not isinstance(made.tests, CallTests):
            yield replace(task, tests=None), 0
            continue
        first, second = next(verdicts), next(verdicts)
        kept = tuple(
            statement
            for statement, *outcomes in zip(made.tests.statements, first.outcomes, second.outcomes, strict=True)
            if outcomes == ["passed", "passed"]
        )
        yield replace(made, tests=replace(made.tests, statements=kept) if kept else None), len(made.tests.statements)


def _generate_tests(task: Task, num_tests: int, seed: int) -> Task | None:
    """The task with tests that its reference has not met yet."""
    tests = task.tests
    if task.reference is None or not isinstance(tests, CallTests) or len(tests.entry_points) != 1 or tests.setup:
        return None
    name = tests.entry_points[0]
    calls = [call for statement in tests.statements if (call := _parse_call(statement, name)) is not None]
    if not calls or len({len(call) for call in calls}) != 1:
        return None
    made = vary_calls(calls, num_tests, random.Random(f"{seed} {task.task_id}"))
    statements = tuple(
        f"assert _same({name}({arguments}), _expected({arguments}))"
        for arguments in (", ".join(map(repr, call)) for call in made)
    )
    setup = SAME + _REFERENCE.format(prelude=tests.prelude, code=task.reference, name=name)
    return replace(task, tests=replace(tests, statements=statements, setup=setup)) if statements else None


def _parse_call(statement: str, name: str) -> Call | None:
    """The arguments of the one call of `name` in an assertion, if they are plain values."""
    nodes = ast.walk(parse_syntax_tree(statement) or ast.Module([], []))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    try:
        (call,) = (node for node in calls if isinstance(node.func, ast.Name) and node.func.id == name)
        return tuple(map(ast.literal_eval, call.args)) if call.args and not call.keywords else None
    except (ValueError, TypeError, RecursionError, MemoryError):  # not one call, or not of plain values
        return None


def vary_calls(calls: Sequence[Call], count: int, source: random.Random) -> list[Call]:
    """Up to `count` new calls, each at most six steps away from one of these, and with all that holds in them."""
    kept = set.intersection(*map(list_facts, calls))
    pools = [_Pool(values) for values in zip(*calls, strict=True)]
    seen, made = {repr(call) for call in calls}, []
    for _ in range(40 * count):
        arguments = list(source.choice(calls))
        for _ in range(source.randint(1, 6)):
            place = source.randrange(len(arguments))
            arguments[place] = pools[place].vary(arguments[place], source)
        _restore_facts(arguments, kept)
        call = tuple(arguments)
        if repr(call) not in seen and kept <= list_facts(call):
            seen.add(repr(call))
            made.append(call)
            if len(made) == count:
                break
    return made


def list_facts(call: Call) -> set[tuple[str, int, Any]]:
    """What holds of the arguments of a call, by their places."""
    facts: set[tuple[str, int, Any]] = set()
    for i, value in enumerate(call):
        facts.add(("type", i, type(value)))
        if _is_sized(value) and value:
            facts.add(("not empty", i, None))
        if isinstance(value, str) and len(value) == 1:
            facts.add(("one character", i, None))
        if isinstance(value, (list, tuple)):
            facts |= {(name, i, None) for name, holds in _FACTS_OF_LISTS.items() if holds(value)}
        for j, other in enumerate(call):
            if _is_sized(value) and _is_sized(other) and len(value) == len(other):
                facts.add(("same length", i, j))
            if type(value) is int and _is_sized(other):
                facts |= {("length of", i, j)} if value == len(other) else set()
                facts |= {("index of", i, j)} if value < len(other) else set()
            if _is_number(value) and _is_number(other) and value <= other:
                facts.add(("at most", i, j))
    return facts


def _restore_facts(arguments: list[Any], kept: set[tuple[str, int, Any]]) -> None:
    """Makes true again what a step mostly breaks: the order of a sorted list, and a length that is an argument."""
    for name, i, j in sorted(kept, key=repr):
        if name == "sorted" and isinstance(arguments[i], list):
            arguments[i] = sorted(arguments[i])
        elif name == "length of":
            arguments[i] = len(arguments[j])


def _is_sized(value: Any) -> bool:
    return isinstance(value, (list, tuple, str, dict, set))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_sorted(value: Sequence[Any]) -> bool:
    try:
        return list(value) == sorted(value)
    except TypeError:
        return False


_FACTS_OF_LISTS: dict[str, Callable[[Sequence[Any]], bool]] = {
    "sorted": _is_sorted,
    "distinct": lambda value: len({repr(item) for item in value}) == len(value),
    "parts not empty": lambda value: all(item for item in value if _is_sized(item)),
    "parts of one length": lambda value: len({len(item) for item in value if _is_sized(item)}) == 1,
}


class _Pool:
    """What one argument is made of in the calls that are there: numbers, characters, parts."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._leaves: dict[type, list[Any]] = {}
        for value in values:
            self._add(value)

    def _add(self, value: Any) -> None:
        if isinstance(value, dict):
            for pair in value.items():
                self._add(pair)
        elif isinstance(value, (list, tuple, set)):
            for part in value:
                self._add(part)
        else:
            self._leaves.setdefault(type(value), []).append(value)

    def vary(self, value: Any, source: random.Random) -> Any:
        """Returns a value of the same type, one step away."""
        if isinstance(value, dict):
            items = self._vary_list(list(value.items()), source)
            return dict(item for item in items if isinstance(item, tuple) and len(item) == 2)
        if isinstance(value, set):
            return set(self._vary_list(sorted(value, key=repr), source))
        if isinstance(value, list):
            return self._vary_list(value, source)
        if isinstance(value, tuple):  # mostly a record: as long as it was
            place = source.randrange(len(value)) if value else 0
            return (*value[:place], self.vary(value[place], source), *value[place + 1 :]) if value else value
        if isinstance(value, str):
            return "".join(self._vary_list(list(value), source, "".join(self._leaves[str]) or " "))
        if isinstance(value, bool) or value is None:
            return value if value is None else not value
        return self._vary_number(value, source) if isinstance(value, (int, float)) else value

    def _vary_number(self, value: Any, source: random.Random) -> Any:
        seen = self._leaves[type(value)]
        low, high = min(seen), max(seen)
        if isinstance(value, float):
            return source.choice([source.choice(seen), round(source.uniform(low, high), 2)])
        return source.choice(
            [source.choice(seen), source.randint(low, high), min(high, value + 1), max(low, value - 1)]
        )

    def _vary_list(self, value: list[Any], source: random.Random, characters: str | None = None) -> list[Any]:
        parts = list(value)
        step = source.choice(("drop", "double", "swap", "change", "change"))
        place = source.randrange(len(parts)) if parts else 0
        if not parts:
            return [source.choice(characters)] if characters else parts
        if step == "drop":
            del parts[place]
        elif step == "double":
            parts.insert(source.randrange(len(parts) + 1), parts[place])
        elif step == "swap":
            other = source.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        else:
            parts[place] = source.choice(characters) if characters else self.vary(parts[place], source)
        return parts
