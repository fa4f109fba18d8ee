import itertools
import math

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.metrics import (
    best_of_n,
    bootstrap_interval,
    compute_auc,
    compute_brier,
    compute_ece,
    compute_rank_correlation,
    compute_youden,
    pair_accuracy,
    rank,
)


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


def test_figures_of_one_threshold_by_hand():
    scores, correct = [3.0, 1.0, 2.0, 2.0, 0.0], [True, True, True, False, False]
    assert compute_auc(scores, correct) == (2 + 1 + 1.5) / 6
    assert compute_youden(scores, correct) == pytest.approx(0.5)  # all above 0: TPR 1, FPR 1/2
    assert compute_auc(scores, correct, [1, 0, 0, 1, 0]) == 1.0
    assert math.isnan(compute_auc([1.0], [True])) and math.isnan(compute_youden([1.0], [True]))
    assert compute_youden([0.0, 1.0], [True, False]) == 0.0
    chances, correct = [0.9, 0.8, 0.3, 0.05], [True, False, False, False]
    assert compute_brier(chances, correct) == pytest.approx((0.01 + 0.64 + 0.09 + 0.0025) / 4)
    assert compute_ece(chances, correct) == pytest.approx((0.1 + 0.8 + 0.3 + 0.05) / 4)
    assert compute_ece([0.5, 0.5], [True, False]) == 0.0
    assert compute_ece([1.0, 0.0], [True, False], [3, 1]) == 0.0


def test_auc_is_the_share_of_pairs_on_random_scores():
    generator = np.random.default_rng(0)
    scores, correct = generator.integers(0, 5, 60).astype(float), generator.random(60) < 0.4
    assert compute_auc(scores, correct) == pytest.approx(pair_accuracy(scores, correct))
    thresholds = [-1.0, *np.unique(scores)]
    gaps = [(scores[correct] > t).mean() - (scores[~correct] > t).mean() for t in thresholds]
    assert compute_youden(scores, correct) == pytest.approx(max(gaps))


def test_equal_values_share_their_mean_rank():
    values = [3.0, 1.0, 3.0, 2.0, 3.0]
    expected = [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]
    assert rank(values).tolist() == expected == [4, 1, 4, 2, 4]


def test_rank_correlation():
    assert compute_rank_correlation([1, 2, 3], [10, 30, 1000]) == pytest.approx(1)
    assert compute_rank_correlation([1, 2, 3], [-1, -2, -3]) == pytest.approx(-1)
    # Ties have the mean of their ranks: of (1, 2.5, 2.5, 4) and (1, 2, 3, 4).
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert compute_rank_correlation([0, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(expected)
    assert math.isnan(compute_rank_correlation([1, 1], [1, 2]))
