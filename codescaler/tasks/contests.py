"""Problems of programming contests: LiveCodeBench, CodeContests, TACO.

Most ask for a program from standard input to output. Some of the first and the last call a function on values written
in JSON; those become asserts.
"""

import hashlib
from collections.abc import Iterable
from string import ascii_uppercase
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.tasks.own import stdio_case
from codescaler.tasks.packed import unpacked_text
from codescaler.tasks.row import Row, parsed_json
from codescaler.text.extract import syntax_tree
from codescaler.types import CallTests, StdioTests, Task, Tests

# Solutions to function problems count on these names, as they do on the sites that the problems are from.
_PRELUDE = (
    "".join(
        f"from {module} import *\n"
        for module in (
            "typing",
            "collections",
            "functools",
            "itertools",
            "heapq",
            "bisect",
            "string",
            "operator",
            "math",
        )
    )
    + "import math\n"
)

# CodeContests' names of difficulties by number; the letters are Codeforces' places in a contest.
_DIFFICULTIES = ("UNKNOWN_DIFFICULTY", "EASY", "MEDIUM", "HARD", "HARDER", "HARDEST", "EXTERNAL", *ascii_uppercase[:22])
_PYTHON3 = (3, "PYTHON3")  # in CodeContests' list of languages


def livecodebench_task(row: Row) -> Task:
    """A row of LiveCodeBench, with its public tests first and then its private ones."""
    tests = [test for key in ("public_test_cases", "private_test_cases") for test in _livecodebench_tests(row, key)]
    kinds = {test.text("testtype") for test in tests}
    if not kinds <= {"stdin", "functional"} or len(kinds) > 1:
        seen = ", ".join(sorted(map(repr, kinds)))
        raise InvalidInput(f"{row.name} has tests of testtype {seen:.80}; give 'stdin' or 'functional' throughout")
    starter = row.text_or_none("starter_code")
    return Task(
        f"livecodebench/{row.text('question_id')}",
        _with_starter(row.text("question_content"), starter),
        _function_tests(row, tests) if kinds == {"functional"} else _stdio_tests(tests),
        difficulty=row.text_or_none("difficulty"),
        split=row.text_or_none("split"),
        name=row.name,
    )


def _livecodebench_tests(row: Row, key: str) -> list[Row]:
    value = row.values.get(key)
    if isinstance(value, str) and value and not value.lstrip().startswith("["):
        value = unpacked_text(value, f"{row.name}: {key}")
    return row.objects(
        key, parsed_json(value, f"{row.name}: {key}") if isinstance(value, str) and value else value or []
    )


def _function_tests(row: Row, tests: Iterable[Row]) -> CallTests:
    """Each line of an input is one argument, in JSON."""
    metadata = Row({"metadata": row.parsed("metadata")}, row.name).object("metadata")
    call = _call(metadata, "func_name", is_method=True)
    statements = []
    for test in tests:
        arguments = [parsed_json(line, test.name) for line in test.text("input").splitlines() if line.strip()]
        statements.append(_assertion(call, arguments, "==", parsed_json(test.text("output"), test.name)))
    return CallTests(tuple(statements), ("Solution",), _PRELUDE, classes=("Solution",))


def _stdio_tests(tests: Iterable[Row]) -> StdioTests | None:
    cases = tuple((test.text("input"), test.text("output")) for test in tests)
    return StdioTests(cases) if cases else None


def codecontests_task(row: Row) -> Task:
    """A row of CodeContests as published, or {name, statement, solution, tests: [[stdin, stdout], ...]}.

    Tests are public, private and generated ones, in this order; the reference is the first solution in Python 3.
    """
    tests: StdioTests | None
    if "statement" in row.values:
        pairs = row.values.get("tests")
        if not isinstance(pairs, list):
            raise row.wrong("tests", "give a list of [stdin, stdout]")
        tests = StdioTests(tuple(stdio_case(case, f"{row.name}: tests[{i}]") for i, case in enumerate(pairs)))
        prompt, reference = row.text("statement"), row.text_or_none("solution")
    else:
        kinds = ("public_tests", "private_tests", "generated_tests")
        tests = _stdio_tests([test for key in kinds for test in _rows(row, key, ("input", "output"))])
        prompt, solutions = row.text("description"), _rows(row, "solutions", ("language", "solution"))
        reference = next((s.text("solution") for s in solutions if s.values.get("language") in _PYTHON3), None)
    return Task(
        f"codecontests/{row.text('name')}",
        prompt,
        tests if tests and tests.cases else None,
        reference=reference,
        difficulty=_difficulty(row),
        split=row.text_or_none("split"),
        name=row.name,
    )


def _rows(row: Row, key: str, columns: tuple[str, ...]) -> list[Row]:
    """Rows that are written as a list of objects, or as an object of lists of one length."""
    value = row.values.get(key)
    if isinstance(value, dict):
        lists = [column for name in columns if isinstance(column := value.get(name), list)]
        if len(lists) != len(columns) or len(set(map(len, lists))) != 1:
            raise row.wrong(key, f"give lists {' and '.join(columns)} of one length")
        value = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
    return row.objects(key, value or [])


def _difficulty(row: Row) -> str | None:
    value = row.values.get("difficulty")
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(_DIFFICULTIES):
            raise row.wrong("difficulty", f"give a number from 0 to {len(_DIFFICULTIES) - 1}, or a name")
        value = _DIFFICULTIES[value]
    if value is not None and not isinstance(value, str):
        raise row.wrong("difficulty", "give a number or a name")
    return None if value in (None, "", _DIFFICULTIES[0]) else value


def taco_task(row: Row) -> Task:
    """A row of TACO. It has no id there: a hash of question and tests serves, which no filter of the file changes."""
    question, tests = row.text("question"), row.values.get("input_output")
    starter, solutions = row.text_or_none("starter_code"), row.parsed("solutions") or []
    if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
        raise row.wrong("solutions", "give a list of programs, in JSON")
    digest = hashlib.sha256(f"{question}\0{tests}".encode(errors="surrogatepass")).hexdigest()
    reference = next((solution for solution in solutions if syntax_tree(solution)), None)  # some are of Python 2
    return Task(
        f"taco/{digest[:16]}",
        _with_starter(question, starter),
        _taco_tests(row, is_method="class Solution" in (starter or reference or "")),
        reference=reference,
        difficulty=row.text_or_none("difficulty"),
        split=row.text_or_none("split"),
        name=row.name,
    )


def _taco_tests(row: Row, is_method: bool) -> Tests | None:
    """The expected value of a call stands in the file itself or in a list of one; as with TACO's authors, both pass."""
    inside = Row({"input_output": row.parsed("input_output")}, row.name).object("input_output")
    tests = _rows(Row({"tests": inside.values or None}, inside.name), "tests", ("inputs", "outputs"))
    if not tests:
        return None
    if inside.values.get("fn_name") is None:
        return StdioTests(tuple((_lines(test, "inputs"), _lines(test, "outputs")) for test in tests))
    call = _call(inside, "fn_name", is_method)
    statements = []
    for test in tests:
        arguments, expected = test.values["inputs"], test.values["outputs"]
        if not isinstance(arguments, list):
            raise test.wrong("inputs", "give a list of arguments")
        if isinstance(expected, list) and expected:
            statements.append(_assertion(call, arguments, "in", (expected, expected[0])))
        else:
            statements.append(_assertion(call, arguments, "==", expected))
    name, classes = ("Solution", ("Solution",)) if is_method else (inside.text("fn_name"), ())
    return CallTests(tuple(statements), (name,), _PRELUDE, classes=classes)


def _lines(row: Row, key: str) -> str:
    """Text of a program's input or output, which some rows give as a list of lines."""
    return "\n".join(row.texts(key)) if isinstance(row.values[key], list) else row.text(key)


def _call(row: Row, key: str, is_method: bool) -> str:
    name = row.text(key)
    if not name.isidentifier():
        raise row.wrong(key, "give the name of a function")
    return f"Solution().{name}" if is_method else name


def _assertion(call: str, arguments: list[Any], relation: str, expected: Any) -> str:
    return f"assert {call}({', '.join(map(repr, arguments))}) {relation} {expected!r}"


def _with_starter(question: str, starter: str | None) -> str:
    return question if starter is None else f"{question}\n\nComplete this code:\n```python\n{starter}\n```"
