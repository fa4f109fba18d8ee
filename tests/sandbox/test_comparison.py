"""A plain grader for each benchmark, written from its rule, agrees on generated pairs; examples of each rule.

`python tests/sandbox/test_comparison.py 10000` compares so many pairs of each.
"""

import random
import re
import sys
from decimal import Decimal, InvalidOperation

import numpy as np
import pytest

from codescaler.sandbox.comparison import is_expected
from codescaler.sandbox.inside.comparison import NAME, choose_comparison


def is_padded(word):
    """Whether it is a whole number with a leading zero, which is a text by our one rule for all benchmarks."""
    digits = word.lstrip("+-")
    return (
        len(word) - len(digits) < 2 and digits.isascii() and digits.isdigit() and len(digits) > 1 and digits[0] == "0"
    )


def grade_lines(output, expected):
    rows, goals = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (output, expected))
    if rows == goals:
        return True
    if len(rows) != len(goals):
        return False
    return all(map(is_same_row, rows, goals))


def is_same_row(row, goal):
    words, goals = row.split(), goal.split()
    blanks, wanted = re.split(r"\S+", row), re.split(r"\S+", goal)
    if all(map(is_number, goals)):
        blanks, wanted = len(blanks[0]), len(wanted[0])
    return row == goal or (blanks == wanted and len(words) == len(goals) and all(map(near_word, words, goals)))


def is_number(word):
    try:
        return float(word) is not None and word.lower().strip("+-.e0123456789") == ""
    except ValueError:
        return False


def near_word(word, goal):
    if word == goal or not (set(".eE") & set(goal) and is_number(word) and is_number(goal)):
        return word == goal
    number, wanted = float(word), float(goal)
    return abs(number - wanted) <= 1e-6 * max(1.0, abs(wanted)) * (1 + 1e-9)


def grade_livecodebench(output, expected):
    rows, goals = output.strip().split("\n"), expected.strip().split("\n")
    if len(rows) != len(goals):
        return False
    for row, goal in zip(rows, goals, strict=True):
        if row.strip() == goal.strip():
            continue
        try:
            numbers, wanted = [Decimal(word) for word in row.split()], [Decimal(word) for word in goal.split()]
            if numbers != wanted:
                return False
        except InvalidOperation:
            return False
        if any(is_padded(b) and a != b for a, b in zip(row.split(), goal.split(), strict=True)):
            return False
    return True


def grade_apps(output, expected):
    rows = output.splitlines()
    if "\n".join(rows).strip() == expected.strip() or "\n".join(r.strip() for r in rows).strip() == expected.strip():
        return True
    goals = [line.strip() for line in expected.split("\n") if len(line)]
    if rows == goals:
        return True
    rows = [row for row in rows if len(row)]
    if rows == goals:
        return True
    has_padded = any(is_padded(word) and row.strip() != word for row, word in zip(rows, goals, strict=False))
    try:
        numbers, wanted = [float(row) for row in rows], [float(goal) for goal in goals]
        if len(numbers) == len(wanted) and np.allclose(numbers, wanted) and not has_padded:
            return True
    except ValueError:
        pass
    sets, wanted_sets = [set(row.split()) for row in rows if row.split()], [set(goal.split()) for goal in goals]
    if set(map(frozenset, sets)) == set(map(frozenset, wanted_sets)):
        return True
    if any(is_padded(word) for words in wanted_sets for word in words):
        return False
    try:
        first, second = ({frozenset(round(float(w), 3) for w in words) for words in s} for s in (sets, wanted_sets))
        return first == second
    except ValueError:
        return False


def grade_codecontests(output, expected):
    words, goals = output.lower().split(), expected.lower().split()
    if words == goals:
        return True
    if len(words) != len(goals):
        return False
    for word, goal in zip(words, goals, strict=True):
        if word == goal:
            continue
        if is_padded(goal):
            return False
        try:
            if "_" in word + goal or not abs(float(word) - float(goal)) < 1e-5:
                return False
        except ValueError:
            return False
    return True


GRADERS = {
    "lines": grade_lines,
    "livecodebench": grade_livecodebench,
    "apps": grade_apps,
    "codecontests": grade_codecontests,
}


def grade_livecodebench_call(value, expected):
    return (list(value) if type(value) is tuple else value) == expected


def grade_apps_call(value, expected):
    value = list(value) if type(value) is tuple else value
    if value == expected:
        return True
    if type(expected) is list and expected:
        if value == expected[0]:
            return True
        try:
            return type(value[0]) is tuple and [list(row) for row in value] == expected[0]
        except (TypeError, IndexError, KeyError):
            return False
    return False


CALL_GRADERS = {"livecodebench": grade_livecodebench_call, "apps": grade_apps_call}

WORDS = [
    "0",
    "1",
    "2",
    "7",
    "10",
    "-3",
    "0.5",
    "1.0",
    "2.50",
    "1e3",
    "1000",
    "007",
    "0.333333",
    "YES",
    "no",
    "a",
    "b_1",
]
REWRITES = {
    "1": ["1.0", "+1", "1.0000001", "1.00001", "01"], "10": ["1e1", "10.0", "10.00009"], "1000": ["1e3", "1000.009"],
    "0.5": [".5", "0.50", "0.5000004", "0.500009", "0.5004", "5e-1"], "007": ["7", "07", "7.0"], "YES": ["yes", "Yes"],
    "0.333333": ["0.3333333", "0.33334", "0.3335"], "-3": ["-3.0", "-3.00002"], "0": ["-0", "0.0", "00", "0e0"],
}  # fmt: skip


def make_texts(source):
    """What is expected, and an output that is the same, nearly the same, or another."""
    lines = [[source.choice(WORDS) for _ in range(source.randint(0, 3))] for _ in range(source.randint(0, 3))]
    expected = "\n".join(" ".join(line) for line in lines) + source.choice(["", "\n", "\n\n", " \n"])
    for _ in range(source.choice([0, 1, 1, 2])):
        line = source.choice(lines) if lines else []
        change = source.randrange(7)
        if change < 3 and line:
            place = source.randrange(len(line))
            line[place] = source.choice(REWRITES.get(line[place], WORDS))
        elif change == 3:
            source.shuffle(line)
        elif change == 4:
            source.shuffle(lines)
        elif change == 5:
            lines.insert(source.randint(0, len(lines)), [])
        elif line:
            line.append(source.choice(line))
    gap, start = source.choice([" ", " ", "  ", "\n"]), source.choice(["", "", "", " ", "\n"])
    return start + "\n".join(gap.join(line) for line in lines) + source.choice(["", "\n", "  \n", "\n\n"]), expected


def make_values(source, depth=2):
    """What is expected, of JSON, and a value that is the same, nearly the same, or another."""
    kinds = ["number", "text", "list", "rows", "dict"] if depth else ["number", "text"]
    kind = source.choice(kinds)
    if kind == "number":
        value = source.choice([0, 1, 2.5, True, None, 10**20])
        return source.choice([value, value, float(value or 0), 3]), value
    if kind == "text":
        value = source.choice(["", "a", "1"])
        return source.choice([value, value, "b", 1]), value
    if kind == "dict":
        pairs = {source.choice(["a", 1, 2]): make_values(source, 0) for _ in range(source.randint(0, 2))}
        return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}
    pairs = [make_values(source, depth - 1) for _ in range(source.randint(0, 3))]
    value, expected = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if kind == "rows":
        row = source.choice([tuple, list])
        value, expected = [row(value) for _ in range(2)], [list(expected) for _ in range(2)]
    return source.choice([list, tuple])(value), [expected] if source.random() < 0.4 else expected


def compare_all(count):
    """Returns the number of pairs of each rule that are equal, after a check that the graders agree on all."""
    num_equal = {}
    for rule, grade in GRADERS.items():
        source, num_equal[rule] = random.Random(rule), 0
        for _ in range(count):
            output, expected = make_texts(source)
            assert is_expected(output, expected, rule) == grade(output, expected), (rule, output, expected)
            num_equal[rule] += grade(output, expected)
    for rule, grade in CALL_GRADERS.items():
        source, name = random.Random(rule), f"{rule}: values"
        num_equal[name], ours = 0, choose_comparison(rule)[NAME]
        for _ in range(count):
            value, expected = make_values(source)
            assert ours(value, expected) == grade(value, expected), (rule, value, expected)
            num_equal[name] += grade(value, expected)
    return num_equal


def test_plain_graders_agree():
    for rule, num_equal in compare_all(1000).items():
        assert 200 < num_equal < 800, f"{rule}: {num_equal} of 1,000 pairs are equal, so that they say little"


@pytest.mark.parametrize(
    "rule, output, expected, is_right",
    [
        ("livecodebench", " 1.0 2\n", "1 2.00", True), ("livecodebench", "1.0000001", "1", False),
        ("livecodebench", "a 1.0", "a 1", False), ("livecodebench", "101", "000101", False),
        ("livecodebench", "1\n\n2", "1\n2", False), ("livecodebench", "9" * 5000, "9" * 5000 + ".0", True),
        ("apps", "3.00001", "3", True), ("apps", "3.1", "3", False), ("apps", "1\n\n2", "1\n2", True),
        ("apps", "2 1", "1 2", True), ("apps", "1.0001 2", "1 2", True), ("apps", "7", "007", False),
        ("codecontests", "Yes 1\n2", "YES\n1 2", True), ("codecontests", "0.500001", "0.5", True),
        ("codecontests", "0.50002", "0.5", False), ("codecontests", "10000000000000001", "10000000000000000", False),
        ("codecontests", "1e5", "100000", True), ("codecontests", "101", "000101", False),
        ("lines", "3 ", "3", True), ("lines", "yes", "YES", False),
    ],
)  # fmt: skip
def test_rules_by_example(rule, output, expected, is_right):
    assert is_expected(output, expected, rule) == is_right


class Flatterer:
    """An object that equals all."""

    def __eq__(self, other):
        return True

    __hash__ = object.__hash__


@pytest.mark.parametrize("rule", CALL_GRADERS)
def test_an_object_has_no_say(rule):
    ours = choose_comparison(rule)[NAME]
    for value in (Flatterer(), [Flatterer()], {"a": Flatterer()}, {Flatterer(): 1}, [(Flatterer(),)]):
        for expected in (5, [5], {"a": 5}, {"a": 1}, [[5]], [[[5]]]):
            assert not ours(value, expected)
    assert choose_comparison(None) == {}


if __name__ == "__main__":
    for name, number in compare_all(int(sys.argv[1])).items():
        print(f"{name}: {sys.argv[1]} pairs agree, {number} of them equal")
