"""Tests that call functions: that what is made of each harness runs, passes for the reference and fails for others."""

import pytest

from codescaler.errors import InvalidInput
from codescaler.types import CallTests

from .plain import passes, read

MBPP = {
    "task_id": 601,
    "text": "Find the longest chain of pairs.",
    "code": "import math\nclass Pair: ...\nLIMIT = 3\ndef helper(): ...\ndef chain(pairs):\n    return len(pairs)\n",
    "test_list": ["assert chain([Pair(), Pair()]) == 2", "assert chain([]) == math.floor(0.5)"],
    "test_setup_code": "import math",
    "challenge_test_list": [],
}


def test_mbpp(tmp_path):
    task = read(tmp_path, MBPP)
    assert task.task_id == "mbpp/601"
    assert task.prompt == (
        "Find the longest chain of pairs.\nYour code should pass this test:\nassert chain([Pair(), Pair()]) == 2"
    )
    assert task.tests == CallTests(tuple(MBPP["test_list"]), ("Pair", "chain"), "", "import math", ("Pair",))
    assert passes(task.tests, task.reference) == [True, True]
    assert passes(task.tests, task.reference + "    \ndef chain(pairs): return 0") == [False, True]


def test_mbpp_sanitized(tmp_path):
    record = {key: value for key, value in MBPP.items() if key not in ("text", "test_setup_code")}
    task = read(tmp_path, record, prompt="Find it.", test_imports=["import math", "import re"])
    assert task.prompt.startswith("Find it.\nYour")
    assert (task.tests.prelude, task.tests.setup) == ("import math\nimport re", "")


@pytest.mark.parametrize(
    "number, split",
    [(1, "train"), (10, "train"), (11, "test"), (510, "test"), (511, "validation"), (600, "validation"),
     (601, "train"), (974, "train"), (975, None)],
)  # fmt: skip
def test_mbpp_splits(tmp_path, number, split):
    assert read(tmp_path, MBPP, task_id=number).split == split


def test_a_reference_that_is_no_python_3_has_no_entry_points(tmp_path):
    assert read(tmp_path, MBPP, code="def f():\n  print 1").tests.entry_points == ()
    assert read(tmp_path, MBPP, code="x" + ".a" * 40_000).tests.entry_points == ()


LEETCODE = {
    "task_id": "next-letter",
    "difficulty": "Easy",
    "query": "Return the next letter.",
    "prelude": "from typing import *\n",
    "entry_point": "Solution().f",
    "completion": "class Solution:\n    def f(self, letter: Optional[str]):\n        return chr(ord(letter) + 1)",
    "test": "START = 'a'\ndef check(candidate):\n    # é\n    assert candidate(letter = START) == 'b', 'é'; "
    "assert candidate('b') == (\n        'c')\n\n    assert candidate('é') == '''\nê'''[1:]\n",
}


def test_each_assert_of_a_harness_is_a_statement(tmp_path):
    task = read(tmp_path, LEETCODE)
    assert task.tests.statements == (
        "candidate = Solution().f\nassert candidate(letter = START) == 'b', 'é'",
        "candidate = Solution().f\nassert candidate('b') == (\n        'c')",
        "candidate = Solution().f\nassert candidate('é') == '''\nê'''[1:]",
    )
    assert (task.tests.setup, task.tests.entry_points) == ("START = 'a'\n", ("Solution",))
    assert passes(task.tests, task.reference) == [True, True, True]
    assert passes(task.tests, task.reference.replace("+ 1", "- 1")) == [False, False, False]
    assert (task.task_id, task.difficulty) == ("leetcode/next-letter", "Easy")


def test_the_prelude_may_be_named_as_published(tmp_path):
    record = {key: value for key, value in LEETCODE.items() if key != "prelude"}
    assert read(tmp_path, record, prompt="import math\n").tests.prelude == "import math\n"


@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    for letter in 'ab':\n        assert candidate(letter) == chr(ord(letter) + 1)",
        "def check(candidate):\n    assert candidate('a') == 'b'\n\nLATER = 1",
        "import functools\n@functools.cache\ndef check(candidate):\n    assert candidate('a') == 'b'",
        "def check(candidate):\n    assert candidate('a') == 'b'  " + "#" * 70_000,
    ],
)
def test_another_harness_is_one_statement(tmp_path, test):
    task = read(tmp_path, LEETCODE, test=test)
    assert len(task.tests.statements) == 1
    assert passes(task.tests, task.reference) == [True]
    assert passes(task.tests, task.reference.replace("+ 1", "- 1")) == [False]


@pytest.mark.parametrize("entry_point", ["f(); import os", "", "f()()", "Solution().f()"])
def test_an_entry_point_is_a_name(tmp_path, entry_point):
    with pytest.raises(InvalidInput, match=r"line 1: entry_point is .*; give a name, such as 'f'"):
        read(tmp_path, LEETCODE, entry_point=entry_point)


def test_humaneval(tmp_path):
    helper = "import math\n\ndef poly(x):\n    return math.floor(x)\n\n\n"
    record = {
        "task_id": "HumanEval/32",
        "prompt": helper + 'def zero(x):\n    """Find a zero."""\n',
        "canonical_solution": "    return poly(x)\n",
        "test": "\nMETADATA = {}\n\ndef check(candidate):\n    assert candidate(1.5) == poly(1.5)\n",
        "entry_point": "zero",
    }
    task = read(tmp_path, record)
    assert (task.task_id, task.tests.prelude, task.tests.entry_points) == ("HumanEval/32", helper, ("zero",))
    assert passes(task.tests, task.reference) == [True]
    assert passes(task.tests, "def zero(x):\n    return 7") == [False]
    assert task.tests.setup == "\nMETADATA = {}\n\n"


def test_the_tests_of_mbpp_plus_follow_the_published_ones(tmp_path):
    more = """import math

def assertion(out, exp):
    assert out == exp

inputs = [[1], [2], [5]]
results = [2, 3, 6]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(f(*inp), exp)
"""
    record = {"task_id": 2, "prompt": "Add.", "code": "def f(a): return a + 1", "test_list": ["assert f(1) == 2"]}
    tests = read(tmp_path, record, test=more).tests
    assert len(tests.statements) == 4 and tests.entry_points == ("f",)
    assert passes(tests, "def f(a): return a + 1") == [True] * 4
    assert passes(tests, "def f(a): return min(a + 1, 5)") == [True, True, True, False]
    one = read(tmp_path, record, test="assert f(7) == 8").tests
    assert one.statements == ("assert f(1) == 2", "assert f(7) == 8")


@pytest.mark.parametrize(
    "before, start",
    [
        ("import functools\n\n", "@functools.cache\ndef zero(x):\n"),
        ("import functools\n", "@functools.lru_cache(\n    maxsize=None)\n@functools.cache\ndef zero(x):\n"),
        ("def zero_of(x): ...\n\n", "async def zero(x):\n"),
        ("class Zero:\n    def zero(x): return 1\n\n", "def  zero (x):\n"),
        ("", "class zero:\n    def f(self): ...\n    def __new__(cls, x):\n        'def zero('\n"),
    ],
)
def test_a_prelude_ends_before_decorators_and_async(tmp_path, before, start):
    body = "        return 3\n" if "class zero" in start else "    return 3\n"
    record = {"task_id": "HumanEval/0", "prompt": before + start, "canonical_solution": body, "entry_point": "zero"}
    task = read(tmp_path, record, test="def check(candidate):\n    assert candidate(1) == 3\n")
    assert task.tests.prelude == before
    if "async" not in start:
        assert passes(task.tests, task.reference) == [True]
