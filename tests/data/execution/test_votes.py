"""Votes and delta, against loops."""

import random
from collections import Counter

import pytest

from codescaler.data.execution.outputs import parse_output
from codescaler.data.execution.votes import compute_disagreement, hold_vote, hold_weighted_vote, weigh_programs


def rows(*lines):
    return [[None if word == "-" else parse_output(word) for word in line.split()] for line in lines]


def texts(votes):
    return [None if vote.output is None else vote.output.text for vote in votes]


@pytest.mark.parametrize("seed", range(20))
def test_delta_is_that_of_the_double_loop(seed):
    source = random.Random(seed)
    num_programs, num_inputs = source.randint(1, 7), source.randint(1, 9)
    given = [[source.choice(["1", "2", "3", "-"]) for _ in range(num_inputs)] for _ in range(num_programs)]
    total = counted = 0
    for t in range(num_inputs):
        best = 0
        for o in ("1", "2", "3"):
            best = max(best, sum(given[m][t] == o for m in range(num_programs)))
        if best:
            total, counted = total + best / num_programs, counted + 1
    expected = 1 - total / counted if counted else 1
    assert compute_disagreement(rows(*map(" ".join, given))) == pytest.approx(expected, abs=1e-12)


def test_a_majority_and_its_share():
    votes = hold_vote(rows("1 1 - 2", "1 2 - 1", "3 3 - -"))
    assert texts(votes) == ["1", "1", None, "2"]  # of equals the earlier program's
    assert [round(vote.share, 6) for vote in votes] == [0.666667, 0.333333, 0, 0.333333]


def test_programs_that_agree_elsewhere_weigh_more():
    given = rows("1 1 1 1 5", "1 1 1 1 5", "9 8 7 6 4", "3 2 2 3 4", "0 4 4 8 4")
    assert texts(hold_vote(given))[4] == "4"
    assert texts(hold_weighted_vote(given))[4] == "5"
    weights = weigh_programs(given)
    for place, row in enumerate(given):
        agreed = Counter()
        for other_place, other in enumerate(given):
            if other_place != place:
                agreed["yes"] += sum(a.key == b.key for a, b in zip(row, other, strict=True))
        assert weights[place] == pytest.approx((agreed["yes"] / 5 / 4) ** 2)


def test_without_agreement_the_vote_is_a_plain_one():
    votes = hold_weighted_vote(rows("1 2", "3 4"))
    assert texts(votes) == ["1", "2"] and votes[0].share == 0.5
    assert hold_weighted_vote(rows("-", "-"))[0].output is None
    assert compute_disagreement([]) == 1
