"""Constraints in the ways that statements write them, and inputs that break them."""

import pytest

from codescaler.data.audit.constraints import (
    Constraint,
    find_violations,
    name_first_line,
    read_constraints,
    read_first_line,
)
from codescaler.data.audit.edge_cases import find_edge_cases


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1 <= n <= 100", ("n", "value", 1, 100)),
        ("1 ≤ n ≤ 105", ("n", "value", 1, 10**5)),
        ("0 < x < 50", ("x", "value", 1, 49)),
        ("1 <= nums.length <= 10^4", ("nums", "length", 1, 10**4)),
        ("-10^9 <= nums[i] <= 10^9", ("nums", "element", -(10**9), 10**9)),
        ("-109 <= grid[i][j] <= 109", ("grid", "element", -(10**9), 10**9)),
        ("$1 \\leq |s| \\leq 2 \\cdot 10^{5}$", ("s", "length", 1, 2 * 10**5)),
        ("1 <= len(a) <= 2*10**5", ("a", "length", 1, 2 * 10**5)),
        ("1 ≤ n ≤ 200 000", ("n", "value", 1, 200_000)),
        ("1 ≤ n ≤ 3 ⋅ 10^5", ("n", "value", 1, 3 * 10**5)),
        ("1 ≤ n ≤ 2·105", ("n", "value", 1, 2 * 10**5)),
        ("1 ≤ k ≤ 2n", ("k", "value", 1, None)),
        ("1 ≤ i ≤ 3 * m", ("i", "value", 1, None)),
        ("1 ≤ k ≤ n", ("k", "value", 1, None)),
        ("0 &lt;= m &lt;= 1,000", ("m", "value", 0, 1000)),
    ],
)
def test_a_constraint_is_read(text, expected):
    assert read_constraints(f"Given input. ({text}) Print.") == [Constraint(*expected)]


def test_lists_of_names_and_what_says_nothing():
    assert [c.name for c in read_constraints("1 ≤ u, v ≤ 9")] == ["u", "v"]
    assert (
        read_constraints("if a < b then 3 < 4, x <= 5 and 1 <= words[i].length <= 3")[0].name
        == "words[i].length of each"
    )
    assert read_constraints("a <= b <= c; 1 <= 2; 10^99999 <= n <= 10^99999") == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"n": 0}, ["n is 0, not 1 or more and 5 or less"]), ({"n": 5}, []), ({"n": "text"}, []), ({"n": True}, []),
        ({"a": [[1], [7, 8]]}, ["an element of a is 7, not 5 or less"]),
        ({"s": ""}, ["the length of s is 0, not 1 or more"]), ({"s": 3, "other": 99}, []),
    ],
)  # fmt: skip
def test_violations(arguments, words):
    constraints = [
        Constraint("n", "value", 1, 5), Constraint("a", "element", None, 5), Constraint("s", "length", 1, None),
    ]  # fmt: skip
    assert find_violations(arguments, constraints) == words


@pytest.mark.parametrize(
    "text, names",
    [
        ("The first line contains the single integer n (1 ≤ n ≤ 105).", ["n"]),
        ("The first line of input contains three space-separated integers n, m and k (1 ≤ n).", ["n", "m", "k"]),
        ("The first line contains a string s.", []), ("The first line contains two integers N and M.", ["N", "M"]),
    ],
)  # fmt: skip
def test_the_first_line_of_standard_input(text, names):
    assert read_first_line(text) == names


def test_numbers_of_the_first_line_have_names():
    assert name_first_line("3 -4\n1 2\n", ["n", "m"]) == {"n": 3, "m": -4}
    assert name_first_line("3 x\n", ["n", "m"]) == name_first_line("3\n", ["n", "m"]) == {}


def test_edge_cases_by_type_and_constraint():
    calls = [{"n": 5, "a": [1, 1], "s": "ab", "x": 1}, {"n": 10**6, "a": [3], "s": "b", "x": "y"}]
    covered, missing = find_edge_cases(calls, [Constraint("n", "value", 1, None), Constraint("a", "length", 1, 9)])
    assert covered == ["n: large", "a: one element", "a: repeated element", "s: one character"]
    assert missing == ["a: negative element", "s: empty", "s: repeated character"]
    assert find_edge_cases([{"a": ["x"]}], [])[1] == ["a: empty", "a: repeated element"]
