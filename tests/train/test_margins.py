"""Margins and their certificate: the promise in a thousand simulated calibrations, and the statistics beneath it."""

import math

import numpy as np
import pytest

from codescaler.engine.exits import DROPPED, Rule, simulate
from codescaler.metrics import compute_upper_bound, count_misses_allowed, count_required
from codescaler.train.margins import (
    MIN_CHOSEN,
    ScoredProblem,
    Work,
    certify,
    choose_miss_chances,
    choose_num_counted,
    choose_rule,
    continue_tail,
    is_missed,
)

WORK = Work.of_exits((2,), 8)


def draw_problems(random, num, size=4, noise=0.5):
    """Problems whose early scores are the last one and noise with a heavy tail."""
    last = random.normal(size=(num, size))
    early = last + noise * random.standard_t(4, size=(num, size))
    values = np.stack([early, last], axis=2).astype(np.float32)
    return [ScoredProblem(rows, (20,) * size, (0, *[10] * (size - 1))) for rows in values]


def count_misses(problems, rule, promise="first"):
    """What `is_missed` says of many problems at once, for one exit and one program."""
    early, last = np.stack([problem.values for problem in problems]).astype(np.float64).transpose(2, 0, 1)
    if promise == "order":
        is_dropped = early.max(axis=1, keepdims=True) - early > rule.margins[0]
        best_dropped = np.where(is_dropped, last, -np.inf).max(axis=1)
        return int((best_dropped > np.where(is_dropped, np.inf, last).min(axis=1)).sum())
    winners = np.take_along_axis(early, last.argmax(axis=1)[:, None], axis=1)[:, 0]
    return int((early.max(axis=1) - winners > rule.margins[0]).sum())


@pytest.mark.parametrize("num, allowed", [(298, -1), (299, 0), (472, 0), (473, 1), (628, 2), (773, 3)])
def test_problems_that_one_in_a_hundred_needs(num, allowed):
    assert count_misses_allowed(num, 0.01) == allowed


@pytest.mark.parametrize(
    "num_problems, expected",
    [(100, 299), (348, 299), (349, 299), (474, 299), (700, 350), (788, 394), (789, 473), (960, 480)],
)
def test_more_than_half_is_counted_where_it_allows_a_miss_more(num_problems, expected):
    assert choose_num_counted(num_problems, 0.01, 0.95) == expected
    assert choose_num_counted(80, 0.2, 0.95) == 80 - MIN_CHOSEN


def test_the_bound_is_that_of_clopper_and_pearson():
    assert count_required(0.01) == 299
    assert compute_upper_bound(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299))
    assert compute_upper_bound(3, 3) == 1.0
    bound = compute_upper_bound(2, 50, 0.9)
    chance = sum(math.comb(50, k) * bound**k * (1 - bound) ** (50 - k) for k in range(3))
    assert chance == pytest.approx(0.1)


@pytest.mark.parametrize("promise, share", [("first", 0.6), ("order", 1.3)])
def test_a_thousand_calibrations_keep_their_promise(promise, share):
    """At 95% confidence 5% may break it; with the error of 1,000 draws, 6.4%.

    A promise is broken if it fails in more of all problems than was promised. Margins are chosen for about as many
    misses as the promise allows. So what is counted lies on both sides of it, and only the count can keep it.
    """
    random, at_most = np.random.default_rng(0), 0.1
    everything = draw_problems(random, 4000)
    num_passed = num_broken = 0
    for _ in range(1000):
        drawn = [everything[index] for index in random.integers(0, len(everything), 80)]
        rule = choose_rule(drawn[:30], WORK, share * at_most, promise=promise)
        made = certify(drawn[30:], [rule], WORK, at_most=at_most, confidence=0.95, asked_first=True, promise=promise)
        if made.bound <= at_most:
            num_passed += 1
            num_broken += count_misses(everything, rule, promise) > at_most * len(everything)
    assert 100 < num_passed < 900, "the promise is near what is counted"
    assert 0 < num_broken <= 64


def test_settings_that_are_tried_share_the_confidence():
    random = np.random.default_rng(1)
    problems = draw_problems(random, 120)
    rules = [Rule((margin,)) for margin in (0.1, 3.0, 9.0)]
    one, three = (
        certify(problems, tried, WORK, at_most=0.05, confidence=0.95, asked_first=True) for tried in ([rules[1]], rules)
    )
    assert three.rule == rules[1], "of those that keep the promise, the one with the least work"
    assert (one.num_missed, three.num_missed) == (count_misses(problems, rules[1]),) * 2
    assert three.bound == pytest.approx(compute_upper_bound(three.num_missed, 120, 1 - 0.05 / 3))
    assert three.bound > one.bound
    assert choose_miss_chances(400, 0.01, 0.95, 1) == pytest.approx([-math.log(0.9) / 400], rel=0.01)
    careless, careful = choose_miss_chances(600, 0.01, 0.95, 2)
    assert careless > careful


def test_what_is_counted_is_what_differs():
    problems = draw_problems(np.random.default_rng(2), 500)
    rule = Rule((0.8,))
    assert 0 < sum(is_missed(problem, rule) for problem in problems) == count_misses(problems, rule)
    tied = ScoredProblem(np.array([[5.0, 1.0], [0.0, 1.0]], np.float32), (3, 3), (0, 1))
    assert not is_missed(tied, rule), "a score of the same bits is the same winner"
    first_two = ScoredProblem(np.array([[5.0, 3.0], [4.9, 1.0], [0.0, 2.0]], np.float32), (3,) * 3, (0, 1, 1))
    assert not is_missed(first_two, rule) and is_missed(first_two, Rule((0.8,), top_k=2))
    assert not is_missed(first_two, Rule((4.95,), top_k=2))


def test_order_is_lost_where_a_dropped_one_is_better():
    problems = draw_problems(np.random.default_rng(5), 500)
    rule = Rule((2.0,))
    missed = [is_missed(problem, rule, "order") for problem in problems]
    assert 0 < sum(missed) == count_misses(problems, rule, "order")
    others = [is_missed(problem, rule) for problem in problems]
    assert sum(others) < sum(missed) and all(each >= first for each, first in zip(missed, others, strict=True))

    def drop_last_of(last):
        early = [5.0, 4.9, 0.0]
        values = np.array([*zip(early, last, strict=True)], np.float32)
        return is_missed(ScoredProblem(values, (3,) * 3, (0, 1, 1)), Rule((0.8,)), "order")

    assert not drop_last_of([3.0, 2.0, 1.0]) and not drop_last_of([3.0, 1.0, 1.0]) and drop_last_of([3.0, 1.0, 2.0])
    assert drop_last_of([3.0, 2.0, math.nan]) and drop_last_of([math.nan, 2.0, 1.0])


def test_margins_of_order_drop_what_they_can():
    problems = draw_problems(np.random.default_rng(6), 400, noise=0.1)
    rule = choose_rule(problems, WORK, 0.02, promise="order")
    assert 0.0 < rule.margins[0] < math.inf
    assert count_misses(problems, rule, "order") <= 0.03 * len(problems)
    assert np.mean([WORK.measure(problem, rule) for problem in problems]) < 0.95
    assert rule.margins[0] > choose_rule(problems, WORK, 0.02).margins[0]


def test_a_tail_is_continued():
    gaps = np.random.default_rng(3).exponential(2.0, 20_000)
    assert continue_tail(gaps, 1e-3) == pytest.approx(2.0 * math.log(1e3), rel=0.05)
    assert continue_tail(gaps[:200], 1e-6) > gaps[:200].max()
    assert continue_tail(np.zeros(50), 1e-3) == 0.0


def test_an_exit_that_saves_nothing_drops_nobody():
    random = np.random.default_rng(4)
    useless = random.normal(0.0, 50.0, (60, 4, 1)).astype(np.float32)
    problems = [
        ScoredProblem(np.concatenate([early, problem.values], axis=1), problem.lengths, problem.shared)
        for early, problem in zip(useless, draw_problems(random, 60), strict=True)
    ]
    first, second = choose_rule(problems, Work.of_exits((1, 2), 8), 1e-3).margins
    assert first == math.inf and second < 10


def test_work_is_that_of_the_tree():
    values = np.array([[5.0, 1.0], [0.0, 0.0], [4.0, 2.0]], np.float32)
    problem = ScoredProblem.of(values, [np.array(ids, np.int32) for ids in ([1, 2, 3, 4], [1, 2], [1, 2, 3, 5, 6])])
    assert (problem.lengths, problem.shared) == ((2, 4, 5), (0, 2, 3))
    assert [problem.count_tokens(np.array(kept)) for kept in ([True] * 3, [True, False, True], [False] * 3)] == [
        6,
        5,
        0,
    ]
    # Two of eight layers for 6 tokens, then six layers for those of the first and the third program.
    assert WORK.measure(problem, Rule((2.0,))) == pytest.approx((2 * 6 + 6 * 6) / 48)
    assert WORK.measure(problem, Rule((0.5,))) == pytest.approx((2 * 6 + 6 * 4) / 48)
    assert Work.of_cascade(0.1).measure(problem, Rule((0.5,))) == pytest.approx(0.1 + 4 / 6)
    assert (simulate(values, Rule((0.5,)))[:, 1] == DROPPED).tolist() == [False, True, True]
