"""The rule of efficiency: what is clearly cheaper, and that noise alone is not."""

import random

import pytest

from codescaler.data.prefer.efficiency import is_clearly_cheaper, make_efficiency_preferences
from codescaler.data.programs import LabelledProblem, Program
from codescaler.errors import InvalidInput


@pytest.mark.parametrize(
    "chosen, rejected, is_cheaper",
    [
        ([1, 1, 1, 1, 1.0], [1.3, 1.3, 1.3, 1.3, 1.21], True),
        ([1, 1, 1, 1, 1.0], [1.3, 1.3, 1.3, 1.3, 1.2], False),  # not below by the factor
        ([1, 1, 1, 1, 1.1], [1.3, 1.3, 1.3, 1.3, 1.3], False),  # one slow round
        ([1, 1, 1, 1, 1.0], [9, 9, 9, 9, 1.1], False),  # one fast round
        ([2, 2, 2, 2, 2.0], [1, 1, 1, 1, 1.0], False),
    ],
)
def test_the_rule(chosen, rejected, is_cheaper):
    assert is_clearly_cheaper(chosen, rejected) is is_cheaper


def test_equal_programs_under_noise_are_not_told_apart_more_often_than_stated():
    """Without the factor, of the two directions each holds in 1 of 252 cases; four standard errors are allowed."""
    draw, num_trials = random.Random(0), 20_000
    found = 0
    for _ in range(num_trials):
        first, second = ([1 + draw.expovariate(1) for _ in range(5)] for _ in range(2))
        found += is_clearly_cheaper(first, second, factor=1.0)
    expected = num_trials / 252
    assert abs(found - expected) <= 4 * expected**0.5


def test_programs_that_passed_and_were_measured_are_compared():
    def program(code, passed, *costs):
        return Program(code, passed, code, cost_seconds=costs)

    programs = (
        program("slow", True, *[2.0] * 5),
        program("fast", True, *[1.0] * 5),
        program("wrong", False, *[0.1] * 5),
        program("unmeasured", True),
    )
    (found,) = make_efficiency_preferences(LabelledProblem("t", "p", None, programs))
    assert (found.chosen.code, found.rejected.code, found.aspect) == ("fast", "slow", "efficiency")
    assert found.evidence == {
        "rule": "max(chosen) * 1.2 < min(rejected)",
        "chosen_seconds": [1.0] * 5,
        "rejected_seconds": [2.0] * 5,
    }


@pytest.mark.parametrize("rounds", [(5, 6), (4,)])
def test_a_problem_with_few_or_other_rounds_is_named(rounds):
    programs = tuple(Program(str(number), True, str(number), cost_seconds=(1.0,) * number) for number in rounds)
    with pytest.raises(InvalidInput, match=r"the task 't/7' has costs of \["):
        list(make_efficiency_preferences(LabelledProblem("t/7", "p", None, programs)))


@pytest.mark.parametrize("chosen, rejected", [(5, 6), (4, 4), (0, 0)])
def test_few_or_other_rounds_are_refused(chosen, rejected):
    with pytest.raises(InvalidInput, match=f"costs of {chosen} and {rejected} rounds"):
        is_clearly_cheaper([1.0] * chosen, [2.0] * rejected)
