import itertools
import math

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.metrics import best_of_n, bootstrap_interval, pair_accuracy


def test_pairs_by_hand():
    assert pair_accuracy([3.0, 1.0, 2.0], [True, True, False]) == 0.5
    assert pair_accuracy([1.0, 1.0], [True, False]) == 0.5
    assert pair_accuracy([1.0, -math.inf], [True, False]) == 1.0
    assert pair_accuracy([1.0, 2.0], [True, True]) is None
    assert pair_accuracy([], []) is None


@pytest.mark.parametrize("seed", range(20))
def test_best_of_n_is_the_mean_over_all_draws(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, 6).astype(float)
    scores[random.random(6) < 0.2] = -math.inf
    right = (random.random(6) < 0.5) & (scores > -math.inf)
    for n in range(1, 7):
        chances = []
        for draw in itertools.combinations(range(6), n):
            top = max(scores[i] for i in draw)
            tied = [right[i] for i in draw if scores[i] == top]
            chances.append(np.mean(tied) if top > -math.inf else 0.0)
        assert best_of_n(scores, right, n) == pytest.approx(np.mean(chances))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(random.normal(1.0, 1.0, 50), num_resamples=500, seed=seed)
        covered += low <= 1.0 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_interval_is_the_same_again_and_narrows_with_more_problems():
    figures = [0.0, 1.0] * 20
    assert bootstrap_interval(figures) == bootstrap_interval(figures)
    low, high = bootstrap_interval(figures * 16)
    wide_low, wide_high = bootstrap_interval(figures)
    assert (high - low) == pytest.approx((wide_high - wide_low) / 4, rel=0.2)
    assert bootstrap_interval([0.25] * 5) == (0.25, 0.25)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pair_accuracy([math.nan, 1.0], [True, False]), "score 0 is nan"),
        (lambda: pair_accuracy([1.0], [True, False]), r"shape \(1,\), labels \(2,\)"),
        (lambda: best_of_n([1.0], [True], 2), "n=2; there are 1 candidates"),
        (lambda: bootstrap_interval([]), "no figure"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
