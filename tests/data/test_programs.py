"""Labelled groups as problems: which programs are the same, and what has no label."""

import json
from collections import Counter

import pytest

from codescaler.data.programs import (
    LabelledProblem,
    Program,
    compute_form,
    drop_duplicates,
    read_labelled_problems,
)
from codescaler.errors import InvalidInput

ADD = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    "other",
    [
        "def add(x, y):\n  # the sum\n  return x + y",
        'def add(first, second):\n    """Adds."""\n    return (first + second)',
        '"""A module."""\ndef add(b, a): return b + a',
        "async_ = 1\ndef add(a, b):\n    return a + b".partition("\n")[2],
    ],
)
def test_the_same_steps_under_other_names_are_the_same(other):
    assert compute_form(other) == compute_form(ADD)


@pytest.mark.parametrize(
    "other",
    [
        "def add(a, b):\n    return b + a",
        "def plus(a, b):\n    return a + b",  # tests call it by name
        "def add(a, b=1):\n    return a + b",
        "def add(a, b):\n    return a - b",
        "def add(a, b):\n    return a + len(b)",
        "def add(a, b):\n    return 'a' + b",
        "add = lambda a, b: a + b",
    ],
)
def test_other_steps_are_not(other):
    assert compute_form(other) != compute_form(ADD)


def test_names_are_told_apart_where_they_must_be():
    def same(first, second):
        return compute_form(first) == compute_form(second)

    assert same("for i in x:\n    print(i)", "for j in x:\n    print(j)")
    assert not same("for i in x:\n    print(i)", "for i in y:\n    print(i)")  # x and y are somebody else's
    assert not same("f = lambda x: x", "g = lambda x: x")
    assert same(
        "def f(n):\n    def g(k): return k\n    return g(n)", "def f(a):\n    def h(a1): return a1\n    return h(a)"
    )
    assert not same("import math\nx = math.pi", "import cmath\nx = cmath.pi")
    assert same("class A:\n    def m(self): return 1", "class A:\n    def m(this): return 1")
    assert not same("class A:\n    def m(self): return 1", "class A:\n    def n(self): return 1")
    assert not same(
        "def f(a, b): return a - b\nx = f(a=1, b=2)", "def f(b, a): return b - a\nx = f(a=1, b=2)"
    )  # keywords follow their parameters
    assert same("n = 0\ndef f():\n    global n\n    n = 1", "k = 0\ndef f():\n    global k\n    k = 1")


def test_text_that_does_not_parse_is_stripped():
    assert compute_form("  int main() {\n   }\n") == compute_form("int main() {\n}")
    assert compute_form("(" * 10_000) == "(" * 10_000
    assert compute_form("x = '\\d'") == compute_form("y = '\\d'")  # a warning, which is an error here


def program(code, passed=True):
    return Program(code, passed, compute_form(code))


def test_the_first_of_each_form_stays_and_all_others_are_counted():
    programs = [
        program("x = 1"), program("x = 1"), program("y = 1"), program("x = 2", False),
        program("x = 3"), program("x = 3", False), program("z = 4", False), program("w = 4"),
    ]  # fmt: skip
    counts = Counter()
    kept = drop_duplicates(LabelledProblem("t", "p", None, tuple(programs)), counts).programs
    assert [item.code for item in kept] == ["x = 1", "x = 2"]
    assert counts == {"exact_duplicates": 2, "near_duplicates": 2, "contradictory_programs": 2}


def write(path, *records):
    path.write_text("\n".join(map(json.dumps, records)))
    return path


GROUP = {
    "task_id": "t/1", "prompt": "p", "split": "train", "license": "MIT", "generator": {"model": "m"},
    "verifier": {"isolation": "namespaces"},
    "candidates": [
        {"code": "x = 1", "passed": True, "passed_tests": 3, "num_tests": 3, "cost_seconds": [0.1, 2]},
        {"code": None, "passed": False},
        {"code": "x = 2", "passed": None},
    ],
}  # fmt: skip


def test_records_become_problems(tmp_path):
    problems, counts = read_labelled_problems([write(tmp_path / "a.jsonl", GROUP)])
    (problem,) = problems
    assert (problem.task_id, problem.split, problem.license, problem.isolations) == (
        "t/1", "train", "MIT", ("namespaces",)
    )  # fmt: skip
    assert problem.programs == (Program("x = 1", True, compute_form("x = 1"), 3, 3, (0.1, 2), "m"),)
    assert counts == {"invalid_programs": 1, "unjudged_programs": 1, "unlabelled_groups": 0}


def test_one_task_in_several_files_is_one_problem(tmp_path):
    bare = {"task_id": "t/1", "prompt": "p", "split": "train", "candidates": [{"code": "y = 5", "passed": False}]}
    paths = [write(tmp_path / "a.jsonl", bare), write(tmp_path / "b.jsonl", GROUP)]
    (problem,), _ = read_labelled_problems(paths)
    assert [item.code for item in problem.programs] == ["y = 5", "x = 1"]
    assert [item.generator for item in problem.programs] == ["unknown", "m"]
    assert problem.isolations == ("namespaces", "unknown")
    assert problem.license == "MIT"


@pytest.mark.parametrize(
    "records, message",
    [
        ([GROUP, GROUP | {"prompt": "q"}], "line 2: the task 't/1' has the prompt 'q', and before 'p'"),
        ([GROUP, GROUP | {"split": None}], "has the split None, and before 'train'"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "line 1 is a pair"),
        ([GROUP | {"candidates": [{"code": "x"}]}], "no program with a label"),
        ([GROUP | {"candidates": [{"code": "x", "passed": True, "num_tests": "3"}]}], "num_tests is '3'"),
        ([GROUP | {"candidates": [{"code": "x", "passed": True, "passed_tests": -1}]}], "passed_tests is -1"),
        (
            [GROUP | {"candidates": [{"code": "x", "passed": True, "passed_tests": 4, "num_tests": 3}]}],
            "passed_tests is 4 of num_tests 3",
        ),
        ([GROUP | {"candidates": [{"code": "x", "passed": True, "cost_seconds": [0]}]}], r"cost_seconds is \[0\]"),
        ([GROUP | {"candidates": [{"code": "x", "passed": True, "cost_seconds": 3}]}], "cost_seconds is 3"),
    ],
)
def test_records_that_say_nothing_usable_are_refused(tmp_path, records, message):
    with pytest.raises(InvalidInput, match=message):
        read_labelled_problems([write(tmp_path / "a.jsonl", *records)])


def test_names_at_top_level_count_unless_they_are_left_out():
    first, second = (
        "def f(a):\n    return a * g(a)\ndef g(x): return x",
        "def h(b):\n    return b * k(b)\ndef k(y): return y",
    )
    assert compute_form(first) != compute_form(second)
    assert compute_form(first, keeps_names=False) == compute_form(second, keeps_names=False)
    assert compute_form(first, keeps_names=False) != compute_form("def f(a):\n    return a * a", keeps_names=False)
