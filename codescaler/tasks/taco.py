"""Problems of APPS, and of TACO, which took over the format and the grader of APPS.

Source: github.com/hendrycks/apps, eval/testing_util.py, and github.com/FlagOpen/TACO, metrics/testing_util.py.
"""

import hashlib
from typing import Any

from codescaler.tasks.json_calls import add_starter, parse_call, write_assertion
from codescaler.tasks.row import Row, parse_rows
from codescaler.text.extract import is_compilable
from codescaler.types import CallTests, StdioTests, Task, Tests

# What both graders put before a program. numpy is there where programs may import site packages.
_PRELUDE = """import sys
import time
import itertools
from itertools import accumulate, product, permutations, combinations
import collections
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
import math
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
import fractions
from typing import List, Tuple
try:
    import numpy as np
except ImportError:
    pass
import random
import heapq
from heapq import *
"""
_STREAMS = "stdin, stdout = sys.stdin, sys.stdout\n"  # of programs, whose text may become a function's body
_CPU_SECONDS = 4  # of a test


def parse_apps_task(row: Row) -> Task:
    """A row of APPS."""
    number = row.values.get("problem_id", row.values.get("id"))
    if not isinstance(number, int | str) or isinstance(number, bool):
        raise row.make_error("problem_id", "give a whole number")
    return _parse_task(row, f"apps/{number}")


def parse_taco_task(row: Row) -> Task:
    """A row of TACO. It has no id there: a hash of question and tests serves, which no filter of the file changes."""
    question, tests = row.read_text("question"), row.values.get("input_output")
    digest = hashlib.sha256(f"{question}\0{tests}".encode(errors="surrogatepass")).hexdigest()
    return _parse_task(row, f"taco/{digest[:16]}")


def _parse_task(row: Row, task_id: str) -> Task:
    starter, solutions = row.read_text_or_none("starter_code"), row.read_parsed("solutions") or []
    if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
        raise row.make_error("solutions", "give a list of programs, in JSON")
    # Some are of Python 2. A program that returns at top level is one, since its text becomes a function's body.
    reference = next((solution for solution in solutions if is_compilable(solution, allows_return=True)), None)
    return Task(
        task_id,
        add_starter(row.read_text("question"), starter),
        _parse_tests(row, is_method="class Solution" in (starter or reference or "")),
        reference=reference,
        difficulty=row.read_text_or_none("difficulty"),
        split=row.read_text_or_none("split"),
        name=row.name,
        tags=row.read_tags("tags", "skill_types"),
    )


def _parse_tests(row: Row, is_method: bool) -> Tests | None:
    inside = Row({"input_output": row.read_parsed("input_output")}, row.name).read_object("input_output")
    tests = parse_rows(Row({"tests": inside.values or None}, inside.name), "tests", ("inputs", "outputs"))
    if not tests:
        return None
    if inside.values.get("fn_name") is None:
        cases = tuple((_join_lines(test, "inputs"), _join_lines(test, "outputs")) for test in tests)
        return StdioTests(cases, _PRELUDE + _STREAMS, "apps", True, _CPU_SECONDS)
    call = parse_call(inside, "fn_name", is_method=is_method)
    name, classes = ("Solution", ("Solution",)) if is_method else (inside.read_text("fn_name"), ())
    statements = tuple(_write_test(call, test) for test in tests)
    return CallTests(statements, (name,), _PRELUDE, "", classes, "apps", _CPU_SECONDS)


def _write_test(call: str, test: Row) -> str:
    """JSON has no keys but strings: of a first argument, and of what is expected, whole numbers become numbers."""
    arguments, expected = test.values["inputs"], test.values["outputs"]
    if not isinstance(arguments, list):
        raise test.make_error("inputs", "give a list of arguments")
    if isinstance(expected, dict):
        expected = _restore_first_keys([expected]) or expected
    return write_assertion(call, _restore_first_keys(arguments) or arguments, _restore_first_keys(expected) or expected)


def _restore_first_keys(values: Any) -> list[Any] | None:
    """The list with numbers for the keys of its first part; None if they are not all whole numbers."""
    if not isinstance(values, list) or not values or not isinstance(values[0], dict):
        return None
    try:
        return [{int(key): value for key, value in values[0].items()}, *values[1:]]
    except ValueError:
        return None


def _join_lines(row: Row, key: str) -> str:
    """Text of a program's input or output, which some rows give as a list of lines."""
    return "\n".join(row.read_texts(key)) if isinstance(row.values[key], list) else row.read_text(key)
