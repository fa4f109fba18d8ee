"""Problems of LiveCodeBench: whole programs, and functions on values written in JSON.

The rules are those of the benchmark's own grader. Source: github.com/LiveCodeBench/LiveCodeBench, testing_util.py.
"""

from collections.abc import Iterable

from codescaler.errors import InvalidInput
from codescaler.tasks.json_calls import add_starter, parse_call, write_assertion
from codescaler.tasks.packed import unpack_text
from codescaler.tasks.row import Row, parse_json
from codescaler.types import CallTests, StdioTests, Task

_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json"),
)
# The grader imports all names of these modules before the modules themselves. `builtins` is late in the list, so that
# `pow` and `open` are Python's own.
_PRELUDE = (
    "".join(f"from {module} import *\n" for module in (*_MODULES, "builtins", "typing"))
    + "".join(f"import {module}\n" for module in _MODULES)
    + "sys.setrecursionlimit(50000)\n"
)
_CPU_SECONDS = 6  # of a test


def parse_livecodebench_task(row: Row) -> Task:
    """A row of LiveCodeBench, with its public tests first and then its private ones."""
    tests = [test for key in ("public_test_cases", "private_test_cases") for test in _parse_tests(row, key)]
    kinds = {test.read_text("testtype") for test in tests}
    if not kinds <= {"stdin", "functional"} or len(kinds) > 1:
        seen = ", ".join(sorted(map(repr, kinds)))
        raise InvalidInput(f"{row.name} has tests of testtype {seen:.80}; give 'stdin' or 'functional' throughout")
    starter = row.read_text_or_none("starter_code")
    return Task(
        f"livecodebench/{row.read_text('question_id')}",
        add_starter(row.read_text("question_content"), starter),
        _make_function_tests(row, tests) if kinds == {"functional"} else _make_stdio_tests(tests),
        difficulty=row.read_text_or_none("difficulty"),
        split=row.read_text_or_none("split"),
        name=row.name,
    )


def _parse_tests(row: Row, key: str) -> list[Row]:
    value = row.values.get(key)
    if isinstance(value, str) and value and not value.lstrip().startswith("["):
        value = unpack_text(value, f"{row.name}: {key}")
    return row.read_objects(
        key, parse_json(value, f"{row.name}: {key}") if isinstance(value, str) and value else value or []
    )


def _make_function_tests(row: Row, tests: Iterable[Row]) -> CallTests:
    """Each line of an input is one argument, in JSON."""
    metadata = Row({"metadata": row.read_parsed("metadata")}, row.name).read_object("metadata")
    call = parse_call(metadata, "func_name", is_method=True)
    statements = []
    for test in tests:
        arguments = [parse_json(line, test.name) for line in test.read_text("input").splitlines() if line.strip()]
        statements.append(write_assertion(call, arguments, parse_json(test.read_text("output"), test.name)))
    return CallTests(
        tuple(statements),
        ("Solution",),
        _PRELUDE,
        classes=("Solution",),
        comparison="livecodebench",
        cpu_seconds=_CPU_SECONDS,
    )


def _make_stdio_tests(tests: Iterable[Row]) -> StdioTests | None:
    cases = tuple((test.read_text("input"), test.read_text("output")) for test in tests)
    return StdioTests(cases, _PRELUDE, "livecodebench", True, _CPU_SECONDS) if cases else None
