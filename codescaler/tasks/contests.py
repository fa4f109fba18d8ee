"""Problems of programming contests: LiveCodeBench, CodeContests, TACO.

Most ask for a program from standard input to output. Some of the first and the last call a function on values written
in JSON; those become asserts.
"""

import hashlib
from collections.abc import Iterable
from string import ascii_uppercase
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.tasks.own import parse_stdio_case
from codescaler.tasks.packed import unpack_text
from codescaler.tasks.row import Row, parse_json
from codescaler.text.extract import parse_syntax_tree
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


def parse_livecodebench_task(row: Row) -> Task:
    """A row of LiveCodeBench, with its public tests first and then its private ones."""
    tests = [
        test for key in ("public_test_cases", "private_test_cases") for test in _parse_livecodebench_tests(row, key)
    ]
    kinds = {test.read_text("testtype") for test in tests}
    if not kinds <= {"stdin", "functional"} or len(kinds) > 1:
        seen = ", ".join(sorted(map(repr, kinds)))
        raise InvalidInput(f"{row.name} has tests of testtype {seen:.80}; give 'stdin' or 'functional' throughout")
    starter = row.read_text_or_none("starter_code")
    return Task(
        f"livecodebench/{row.read_text('question_id')}",
        _add_starter(row.read_text("question_content"), starter),
        _parse_function_tests(row, tests) if kinds == {"functional"} else _parse_stdio_tests(tests),
        difficulty=row.read_text_or_none("difficulty"),
        split=row.read_text_or_none("split"),
        name=row.name,
    )


def _parse_livecodebench_tests(row: Row, key: str) -> list[Row]:
    value = row.values.get(key)
    if isinstance(value, str) and value and not value.lstrip().startswith("["):
        value = unpack_text(value, f"{row.name}: {key}")
    return row.read_objects(
        key, parse_json(value, f"{row.name}: {key}") if isinstance(value, str) and value else value or []
    )


def _parse_function_tests(row: Row, tests: Iterable[Row]) -> CallTests:
    """Each line of an input is one argument, in JSON."""
    metadata = Row({"metadata": row.read_parsed("metadata")}, row.name).read_object("metadata")
    call = _parse_call(metadata, "func_name", is_method=True)
    statements = []
    for test in tests:
        arguments = [parse_json(line, test.name) for line in test.read_text("input").splitlines() if line.strip()]
        statements.append(_write_assertion(call, arguments, "==", parse_json(test.read_text("output"), test.name)))
    return CallTests(tuple(statements), ("Solution",), _PRELUDE, classes=("Solution",))


def _parse_stdio_tests(tests: Iterable[Row]) -> StdioTests | None:
    cases = tuple((test.read_text("input"), test.read_text("output")) for test in tests)
    return StdioTests(cases) if cases else None


def parse_codecontests_task(row: Row) -> Task:
    """A row of CodeContests as published, or {name, statement, solution, tests: [[stdin, stdout], ...]}.

    Tests are public, private and generated ones, in this order; the reference is the first solution in Python 3.
    """
    tests: StdioTests | None
    if "statement" in row.values:
        pairs = row.values.get("tests")
        if not isinstance(pairs, list):
            raise row.make_error("tests", "give a list of [stdin, stdout]")
        tests = StdioTests(tuple(parse_stdio_case(case, f"{row.name}: tests[{i}]") for i, case in enumerate(pairs)))
        prompt, reference = row.read_text("statement"), row.read_text_or_none("solution")
    else:
        kinds = ("public_tests", "private_tests", "generated_tests")
        tests = _parse_stdio_tests([test for key in kinds for test in _parse_rows(row, key, ("input", "output"))])
        prompt, solutions = row.read_text("description"), _parse_rows(row, "solutions", ("language", "solution"))
        reference = next((s.read_text("solution") for s in solutions if s.values.get("language") in _PYTHON3), None)
    return Task(
        f"codecontests/{row.read_text('name')}",
        prompt,
        tests if tests and tests.cases else None,
        reference=reference,
        difficulty=_parse_difficulty(row),
        split=row.read_text_or_none("split"),
        name=row.name,
    )


def _parse_rows(row: Row, key: str, columns: tuple[str, ...]) -> list[Row]:
    """Rows that are written as a list of objects, or as an object of lists of one length."""
    value = row.values.get(key)
    if isinstance(value, dict):
        lists = [column for name in columns if isinstance(column := value.get(name), list)]
        if len(lists) != len(columns) or len(set(map(len, lists))) != 1:
            raise row.make_error(key, f"give lists {' and '.join(columns)} of one length")
        value = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
    return row.read_objects(key, value or [])


def _parse_difficulty(row: Row) -> str | None:
    value = row.values.get("difficulty")
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(_DIFFICULTIES):
            raise row.make_error("difficulty", f"give a number from 0 to {len(_DIFFICULTIES) - 1}, or a name")
        value = _DIFFICULTIES[value]
    if value is not None and not isinstance(value, str):
        raise row.make_error("difficulty", "give a number or a name")
    return None if value in (None, "", _DIFFICULTIES[0]) else value


def parse_taco_task(row: Row) -> Task:
    """A row of TACO. It has no id there: a hash of question and tests serves, which no filter of the file changes."""
    question, tests = row.read_text("question"), row.values.get("input_output")
    starter, solutions = row.read_text_or_none("starter_code"), row.read_parsed("solutions") or []
    if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
        raise row.make_error("solutions", "give a list of programs, in JSON")
    digest = hashlib.sha256(f"{question}\0{tests}".encode(errors="surrogatepass")).hexdigest()
    reference = next((solution for solution in solutions if parse_syntax_tree(solution)), None)  # some are of Python 2
    return Task(
        f"taco/{digest[:16]}",
        _add_starter(question, starter),
        _parse_taco_tests(row, is_method="class Solution" in (starter or reference or "")),
        reference=reference,
        difficulty=row.read_text_or_none("difficulty"),
        split=row.read_text_or_none("split"),
        name=row.name,
    )


def _parse_taco_tests(row: Row, is_method: bool) -> Tests | None:
    """The expected value of a call stands in the file itself or in a list of one; as with TACO's authors, both pass."""
    inside = Row({"input_output": row.read_parsed("input_output")}, row.name).read_object("input_output")
    tests = _parse_rows(Row({"tests": inside.values or None}, inside.name), "tests", ("inputs", "outputs"))
    if not tests:
        return None
    if inside.values.get("fn_name") is None:
        return StdioTests(tuple((_join_lines(test, "inputs"), _join_lines(test, "outputs")) for test in tests))
    call = _parse_call(inside, "fn_name", is_method)
    statements = []
    for test in tests:
        arguments, expected = test.values["inputs"], test.values["outputs"]
        if not isinstance(arguments, list):
            raise test.make_error("inputs", "give a list of arguments")
        if isinstance(expected, list) and expected:
            statements.append(_write_assertion(call, arguments, "in", (expected, expected[0])))
        else:
            statements.append(_write_assertion(call, arguments, "==", expected))
    name, classes = ("Solution", ("Solution",)) if is_method else (inside.read_text("fn_name"), ())
    return CallTests(tuple(statements), (name,), _PRELUDE, classes=classes)


def _join_lines(row: Row, key: str) -> str:
    """Text of a program's input or output, which some rows give as a list of lines."""
    return "\n".join(row.read_texts(key)) if isinstance(row.values[key], list) else row.read_text(key)


def _parse_call(row: Row, key: str, is_method: bool) -> str:
    name = row.read_text(key)
    if not name.isidentifier():
        raise row.make_error(key, "give the name of a function")
    return f"Solution().{name}" if is_method else name


def _write_assertion(call: str, arguments: list[Any], relation: str, expected: Any) -> str:
    return f"assert {call}({', '.join(map(repr, arguments))}) {relation} {expected!r}"


def _add_starter(question: str, starter: str | None) -> str:
    return question if starter is None else f"{question}\n\nComplete this code:\n```python\n{starter}\n```"
