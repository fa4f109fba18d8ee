"""Minimal suites against all subsets."""

import itertools
import random

import pytest

from codescaler.data.execution.minimal import choose_minimal_tests, count_error_patterns


@pytest.mark.parametrize("seed", range(30))
def test_the_same_is_rejected_by_few_tests(seed):
    source = random.Random(seed)
    num_tests, num_programs = source.randint(1, 8), source.randint(0, 12)
    kills = [{p for p in range(num_programs) if source.random() < 0.3} for _ in range(num_tests)]
    chosen = choose_minimal_tests(kills)
    everything = set().union(*kills)
    assert set().union(*(kills[place] for place in chosen)) == everything
    for place in chosen:  # none is needless
        assert set().union(*(kills[other] for other in chosen if other != place)) != everything
    fewest = next(
        size
        for size in range(num_tests + 1)
        if any(set().union(*(kills[p] for p in places)) == everything
               for places in itertools.combinations(range(num_tests), size))
    )  # fmt: skip
    assert len(chosen) <= fewest + 1
    patterns = {p: [t for t in range(num_tests) if p in kills[t]] for p in range(num_programs)}
    assert len(chosen) <= max(count_error_patterns(patterns), 0)


def test_no_test_and_no_program():
    assert choose_minimal_tests([]) == choose_minimal_tests([set(), set()]) == []
    assert count_error_patterns({0: [], 1: [2, 1], 2: [1, 2], 3: [1]}) == 2
