"""Mutants differ from their program in one place."""

import ast

import pytest

from codescaler.data.mutants import make_mutants

PROGRAM = (
    "class Adder:\n    def add(self, a, b):\n        if a < 0: raise ValueError('negative')\n        return a + b\n"
)


def test_mutants_differ_in_one_place():
    mutants = make_mutants(PROGRAM, 20, 0)
    assert len(mutants) == len(set(mutants)) > 3
    assert any("a - b" in mutant for mutant in mutants)
    assert any("a <= 0" in mutant for mutant in mutants)
    lines = ast.unparse(ast.parse(PROGRAM)).splitlines()
    for mutant in mutants:
        assert sum(a != b for a, b in zip(lines, mutant.splitlines(), strict=True)) == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_as_asked_and_the_same_each_time(count):
    assert len(make_mutants(PROGRAM, count, 1)) == count
    assert make_mutants(PROGRAM, count, 1) == make_mutants(PROGRAM, count, 1)
