"""Our own record of a task, in both directions: what `make_task_record` writes, `parse_own_task` reads.

{"task_id": ..., "prompt": ..., "tests": null
    or {"statements": [...], "entry_points": [...], "prelude": "", "setup": "", "classes": [...],
        "comparison": null, "cpu_seconds": null}
    or {"cases": [[stdin, stdout], ...], "prelude": "", "comparison": "lines", "allows_return": false,
        "cpu_seconds": null, "input_file": "", "output_file": "", "language": "python", "harness": ""},
 "reference": ..., "difficulty": ..., "split": ..., "license": ..., "domain": ...}

"tags": [...] and "rating": a whole number stand where the source has them.
"""

import json
from typing import Any

from codescaler.tasks.row import Row
from codescaler.text.extract import read_language
from codescaler.types import COMPARISONS, CallTests, Comparison, StdioTests, Task, Tests

_OPTIONAL = ("reference", "difficulty", "split", "license", "domain")


def make_task_record(task: Task) -> dict[str, Any]:
    """Returns the record of a task, from which `read_tasks` makes an equal one but for its `name`."""
    tests = None if task.tests is None else json.loads(json.dumps(vars(task.tests)))  # tuples become lists
    fields = {key: getattr(task, key) for key in _OPTIONAL}
    known: dict[str, Any] = {"tags": list(task.tags)} if task.tags else {}
    known |= {} if task.rating is None else {"rating": task.rating}
    return {"task_id": task.task_id, "prompt": task.prompt, "tests": tests, **fields, **known}


def parse_own_task(row: Row) -> Task:
    """Returns the task of one of our own records."""
    fields = {key: None if row.values.get(key) is None else row.read_text(key) for key in _OPTIONAL}
    return Task(
        row.read_text("task_id"),
        row.read_text("prompt"),
        _parse_tests(row),
        name=row.name,
        tags=row.read_tags("tags"),
        rating=row.read_rating("rating"),
        **fields,
    )


def _parse_tests(row: Row) -> Tests | None:
    tests = row.read_object("tests")
    if not tests.values:
        return None
    if ("statements" in tests.values) == ("cases" in tests.values):
        raise row.make_error("tests", "give an object with statements, or one with cases")
    if "statements" in tests.values:
        prelude, setup = (tests.read_text_or_none(key) or "" for key in ("prelude", "setup"))
        statements, entry_points, classes = (tests.read_texts(key) for key in ("statements", "entry_points", "classes"))
        comparison, seconds = _read_comparison(tests), _read_seconds(tests)
        return CallTests(statements, entry_points, prelude, setup, classes, comparison, seconds)
    cases = tests.values["cases"]
    if not isinstance(cases, list):
        raise tests.make_error("cases", "give a list of [stdin, stdout]")
    prelude, input_file, output_file, harness = (
        tests.read_text_or_none(key) or "" for key in ("prelude", "input_file", "output_file", "harness")
    )
    return StdioTests(
        tuple(parse_stdio_case(case, f"{tests.name}.cases[{index}]") for index, case in enumerate(cases)),
        prelude,
        _read_comparison(tests) or "lines",
        tests.values.get("allows_return") is True,
        _read_seconds(tests),
        input_file,
        output_file,
        read_language(tests.values, tests.name) or "python",
        harness,
    )


def _read_comparison(tests: Row) -> Comparison | None:
    name = tests.read_text_or_none("comparison")
    if name is not None and name not in COMPARISONS:
        raise tests.make_error("comparison", f"give one of {', '.join(COMPARISONS)}")
    return name


def _read_seconds(tests: Row) -> int | None:
    seconds = tests.values.get("cpu_seconds")
    if seconds is not None and (type(seconds) is not int or seconds < 1):
        raise tests.make_error("cpu_seconds", "give a whole number of at least 1")
    return seconds


def parse_stdio_case(case: Any, where: str) -> tuple[str, str]:
    """Returns (standard input, expected standard output) after a check."""
    pair = dict(zip(("stdin", "stdout"), case, strict=False)) if isinstance(case, list) and len(case) == 2 else {}
    row = Row(pair, where)
    return row.read_text("stdin"), row.read_text("stdout")
