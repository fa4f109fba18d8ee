"""Tests that find incorrect programs which a problem's own tests let pass, and keep the problem's conditions."""

import random

import pytest

from codescaler.data.label.generated_tests import _parse_call, list_facts, strengthen_tasks, vary_calls
from codescaler.sandbox import Limits, Sandbox
from codescaler.types import CallTests, StdioTests, Task

REFERENCE = "def first_odd(nums, n):\n    return next((x for x in nums if x % 2), -1)"


def task(reference=REFERENCE, *, name="first_odd", setup="", statements=None):
    statements = statements or ("assert first_odd([1, 3, 5], 3) == 1", "assert first_odd([2, 4, 1, 3], 4) == 1")
    return Task("t/1", "p", CallTests(tuple(statements), (name,), setup=setup), reference)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=1) as sandbox:
        yield sandbox


def test_they_find_what_the_own_tests_do_not(sandbox):
    ((stronger, made),) = strengthen_tasks(sandbox, [task()])
    assert 5 < len(stronger.tests.statements) <= made <= 20
    assert sandbox.run(REFERENCE, stronger.tests).passed
    for wrong in ("def first_odd(nums, n): return 1", "def first_odd(nums, n): return min(x for x in nums if x % 2)"):
        assert sandbox.run(wrong, task().tests).passed
        assert sandbox.run(wrong, stronger.tests).passed is False
    again = next(strengthen_tasks(sandbox, [task()]))[0]
    assert again == stronger
    assert next(strengthen_tasks(sandbox, [task()], seed=1))[0] != stronger


def test_floats_may_differ_in_the_last_digits(sandbox):
    reference = "def mean(a): return {'m': [sum(a) / len(a)]}"
    asked = task(reference, name="mean", statements=("assert mean([1.5, 2.0]) == {'m': [1.75]}",) * 2)
    ((stronger, _),) = strengthen_tasks(sandbox, [asked])
    other = "def mean(a): return {'m': [sum(x / len(a) for x in a) + 1e-12]}"
    assert sandbox.run(other, stronger.tests).passed
    assert sandbox.run(other.replace("1e-12", "1e-2"), stronger.tests).passed is False


def test_a_program_cannot_ask_the_reference(sandbox):
    ((stronger, _),) = strengthen_tasks(sandbox, [task()])
    for cheat in ("_expected", "_reference['first_odd']"):
        assert sandbox.run(f"def first_odd(nums, n): return {cheat}(nums, n)", stronger.tests).passed is False


@pytest.mark.parametrize(
    "hopeless",
    [
        Task("a", "p", None, REFERENCE),
        Task("b", "p", StdioTests((("1", "2"),)), "print(2)"),
        task(None),
        task(setup="x = 1"),
        task(statements=("assert first_odd(x, 3) == 1",)),
        task(statements=("assert first_odd([1], 1) == first_odd([3], 1)",)),
        task("def first_odd(nums, n): raise ValueError"),
        task("import random\ndef first_odd(nums, n): return random.random()"),
    ],
    ids=["no tests", "output", "no reference", "setup", "names", "two calls", "raises", "differs"],
)
def test_where_nothing_can_be_made_there_are_no_tests(sandbox, hopeless):
    ((stronger, _), (fine, _)) = strengthen_tasks(sandbox, [hopeless, task()])
    assert stronger.tests is None
    assert stronger.task_id == hopeless.task_id
    assert fine.tests is not None


@pytest.mark.parametrize(
    ("calls", "holds"),
    [
        ([([1, 2, 5], 3), ([2, 7], 2)], lambda a, n: a == sorted(a) and n == len(a) and len(set(a)) == len(a)),
        ([([3, 1], [4, 5]), ([1, 0, 2], [4, 4, 4])], lambda a, b: len(a) == len(b) and set(b) <= {4, 5}),
        ([("abc", "b"), ("ca", "a")], lambda a, b: len(b) == 1 and a and set(a) <= set("abc") and b in "ba"),
        ([([[1, 2], [3, 4]],), ([[5, 6]],)], lambda a: len({len(row) for row in a}) == 1),
        ([([4, 5, 6], 0, 2), ([1, 9], 0, 1)], lambda a, low, high: low <= high < len(a)),
        ([({"a": 1, "b": 3},), ({"c": 2},)], lambda a: a and all(1 <= v <= 3 for v in a.values())),
        ([(1.5, True), (2.5, False)], lambda a, b: 1.5 <= a <= 2.5 and type(b) is bool),
        ([((1, "x"), None), ((2, "y"), None)], lambda a, b: a[0] in (1, 2) and b is None and set(a[1]) <= set("xy")),
    ],
)  # fmt: skip
def test_what_holds_in_all_calls_is_kept(calls, holds):
    made = vary_calls(calls, 30, random.Random(0))
    assert len(made) > 2
    assert all(holds(*call) for call in calls)
    assert all(holds(*call) for call in made), [call for call in made if not holds(*call)]
    assert all(set.intersection(*map(list_facts, calls)) <= list_facts(call) for call in made)
    assert not {repr(call) for call in made} & {repr(call) for call in calls}


def test_calls_are_read_from_assertions():
    assert _parse_call("assert f([1, 2], 'a') == 3", "f") == ([1, 2], "a")
    assert _parse_call("assert (f(-1)) == {1: f}", "f") == (-1,)
    for none in (
        "assert g(1) == 2",
        "assert f() == 2",
        "assert f(x) == 1",
        "assert f(a=1) == 1",
        "assert f(",
        "f(f(1))",
    ):
        assert _parse_call(none, "f") is None
