"""Outputs of programs in the real sandbox: in one form, and whatever a program does meanwhile."""

import pytest

from codescaler.data.execution.call_driver import make_plain
from codescaler.data.execution.outputs import Interface, collect_outputs, compute_key, find_interface
from codescaler.sandbox import Limits, Sandbox
from codescaler.types import CallTests, StdioTests, Task


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=1) as sandbox:
        yield sandbox


def collect(sandbox, code, inputs, interface=None):
    (outputs,) = collect_outputs(sandbox, [(code, interface or Interface("f"), inputs)])
    return [None if output is None else output.text for output in outputs]


def test_calls_give_plain_values(sandbox):
    code = """
import sys
from collections import Counter, deque
print("noise"); sys.stdout.write("more\\n")
def f(kind):
    print("noise")
    return {1: Counter("aa"), 2: deque([1, (2,)]), 3: object(), 4: frozenset([1]), 5: 1 / 0 if kind else 0}[kind]
"""
    assert collect(sandbox, code, ["1"]) == [None]  # the table divides by zero
    code = code.replace("1 / 0 if kind else 0", "None")
    assert collect(sandbox, code, ["1", "2", "3", "4", "5", "6"]) == [
        "{'a': 2}", "[1, (2,)]", None, "{1}", "None", None,
    ]  # fmt: skip


def test_a_call_that_ends_the_process_costs_itself_alone(sandbox):
    code = "import os\ndef f(x):\n    while x == 1: pass\n    if x == 3: os._exit(1)\n    return x"
    assert collect(sandbox, code, ["0", "1", "2", "3", "4"]) == ["0", None, "2", None, "4"]


@pytest.mark.parametrize("code", ["def f(:", "raise SystemExit", "import absent", "x = 1"])
def test_a_program_that_does_not_run_gives_nothing(sandbox, code):
    assert collect(sandbox, code, ["1", "2"]) == [None, None]


def test_methods_and_preludes(sandbox):
    task = Task(
        "t", "p", CallTests(("candidate = Solution().g\nassert candidate(a=1) == 2",), ("Solution",), "K = 1",
                            classes=("Solution",)),
    )  # fmt: skip
    interface = find_interface(task)
    assert interface.call == "Solution().g"
    code = "class Solution:\n    def g(self, a):\n        return a + K"
    assert collect(sandbox, code, ["a=1", "5"], interface) == ["2", "6"]
    assert find_interface(Task("t", "p", CallTests(("assert f() == g()",), ("f", "g")))) is None
    assert find_interface(Task("t", "p")) is None


def test_whole_programs_are_compared_by_words(sandbox):
    interface = find_interface(Task("t", "p", StdioTests((), "K = 2")))
    programs = ("print(int(input()) * K, 0.5)", "print(int(input()) * 2, '0.50 ')\nprint()", "print(input() + ' .5')")
    jobs = [(code, interface, ["1\n", "2\n"]) for code in programs]
    first, second, third = collect_outputs(sandbox, jobs)
    assert [output.key for output in first] == [output.key for output in second]
    assert first[0].key != first[1].key and third[0].key != first[0].key
    assert collect(sandbox, "print(1 // int(input()))", ["0\n", "1\n"], interface) == [None, "1\n"]


@pytest.mark.parametrize(
    "left, right, same",
    [
        (1, True, True), (1, 1.0, True), (0.1 + 0.2, 0.3, True), (1, "1", False), ([1], (1,), False),
        ([True], [1], True), ({1, 2}, {2, 1.0}, True), ({"a": [1]}, {"a": [1.0]}, True), ({}, set(), False),
        (0.3, 0.30001, False), (None, 0, False), (10**30, float(10**30), False),
    ],
)  # fmt: skip
def test_keys_are_equal_where_values_are(left, right, same):
    assert (compute_key(left) == compute_key(right)) is same


def test_an_object_that_says_it_is_equal_is_not_plain():
    class Sly:
        def __eq__(self, other):
            return True

        __hash__ = None

    with pytest.raises(TypeError, match="a Sly is not plain"):
        make_plain([1, (Sly(),)])
