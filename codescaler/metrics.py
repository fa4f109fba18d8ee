"""How well scores rank correct programs before incorrect programs, and how sure that is. Knows numbers only.

A problem is two arrays: the scores of its candidates, and whether each is correct. An invalid candidate has the score
-inf and is incorrect. Figures are means over problems, since candidates of one problem are no independent evidence.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput

Scores = Sequence[float] | npt.NDArray[np.floating[Any]]
Figures = npt.NDArray[np.float64]
Labels = Sequence[bool] | npt.NDArray[np.bool_]


def pair_accuracy(scores: Scores, is_correct: Labels) -> float | None:
    """The share of (correct, incorrect) pairs in which the correct one scores higher, a tie counting half; None without
    a pair.

    Raises: InvalidInput if a score is NaN.
    """
    values, correct = _check_scores(scores, is_correct)
    if correct.all() or not correct.any():  # no pair, nor any candidate
        return None
    first, second = values[correct][:, None], values[~correct][None, :]
    return float((first > second).mean() + (first == second).mean() / 2)


def best_of_n(scores: Scores, is_correct: Labels, n: int) -> float:
    """The chance that the best-scored of `n` candidates is right; as `compute_best_of_each`."""
    return float(compute_best_of_each(scores, is_correct, n)[-1])


def compute_best_of_each(scores: Scores, is_correct: Labels, max_n: int) -> Figures:
    """The chance that the best-scored of n candidates, drawn without replacement, is right, for n from 1 to `max_n`.

    Ties are drawn from. Exact: sorted by score, the best of n is one of t tied candidates above b lower ones in
    C(b + t, n) - C(b, n) of the C(total, n) draws. An invalid candidate is never picked, so that a draw of nothing else
    counts as incorrect. Shapes: -> [max_n].

    Raises: InvalidInput if a score is NaN, or `max_n` is not in 1..total.
    """
    values, correct = _check_scores(scores, is_correct)
    total = len(values)
    if not 1 <= max_n <= total:
        raise InvalidInput(f"n={max_n}; there are {total} candidates, give 1 to {total}")
    distinct, place = np.unique(values, return_inverse=True)
    tied = np.bincount(place)
    share_correct = np.where(distinct > -math.inf, np.bincount(place, weights=correct) / tied, 0.0)
    up_to = np.cumsum(tied)
    below = up_to - tied
    all_up_to, all_below = np.ones(len(tied)), np.ones(len(tied))  # chances that all n drawn are among these
    chances = np.empty(max_n)
    for n in range(max_n):
        all_up_to *= np.maximum(up_to - n, 0) / (total - n)
        all_below *= np.maximum(below - n, 0) / (total - n)
        chances[n] = (all_up_to - all_below) @ share_correct
    return chances


def bootstrap_interval(
    figures: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """A percentile interval of the mean of one figure a problem, by drawing problems with replacement.

    For the difference of two scorers, give the difference on each problem: that pairs them.
    Source: Efron and Tibshirani 1993, chapter 13; problems are the clusters.

    Raises: InvalidInput if there is no figure.
    """
    columns = np.asarray(figures, dtype=np.float64)[:, None]
    means = resample_means(columns, num_resamples=num_resamples, seed=seed)
    return compute_percentile_intervals(means, confidence)[0]


def resample_means(
    figures: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, num_resamples: int = 10_000, seed: int = 0
) -> Figures:
    """The means of K figures a cluster when clusters are drawn with replacement, the same draws for all K.

    `weights` says how many observations a cluster's figures are the mean of, by default one.
    Shapes: figures [clusters, K], weights [clusters] -> [num_resamples, K].

    Raises: InvalidInput if there is no cluster.
    """
    values, generator = np.asarray(figures, dtype=np.float64), np.random.default_rng(seed)
    size = len(values)
    if not size:
        raise InvalidInput("there is no figure to draw from; give one for each problem")
    weight = np.ones(size) if weights is None else np.asarray(weights, dtype=np.float64)
    weighted, means = values * weight[:, None], []
    block = max(1, 2**20 // size)  # all resamples at once would take gigabytes for tens of thousands of problems
    for start in range(0, num_resamples, block):
        num = min(block, num_resamples - start)
        drawn = generator.integers(0, size, (num, size)) + size * np.arange(num)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num * size).reshape(num, size)
        means.append(counts @ weighted / (counts @ weight)[:, None])
    return np.concatenate(means)


def compute_percentile_intervals(means: Figures, confidence: float = 0.95) -> list[tuple[float, float]]:
    """The interval of each column of `resample_means` that leaves out equal tails."""
    tail = (1 - confidence) / 2
    return [(float(low), float(high)) for low, high in np.quantile(means, [tail, 1 - tail], axis=0).T]


def compute_upper_bound(num_missed: int, num: int, confidence: float = 0.95) -> float:
    """The largest share of which `num_missed` or fewer of `num` still have a chance of 1 - confidence.

    Source: Clopper and Pearson 1934, the upper limit of one side.
    """
    if num_missed >= num:
        return 1.0
    return find_share(num_missed, num, 1 - confidence)


def count_misses_allowed(num: int, share: float, confidence: float = 0.95) -> int:
    """How many of `num` may miss while `compute_upper_bound` is at most a share; -1 if none may, nor is that enough."""
    allowed = -1
    while allowed + 1 < num and compute_upper_bound(allowed + 1, num, confidence) <= share:
        allowed += 1
    return allowed


def count_required(share: float, confidence: float = 0.95) -> int:
    """The fewest that without a miss show a share of misses of at most this: 299 for 0.01."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-share))


def find_share(num_missed: int, num: int, chance: float) -> float:
    """The share of misses at which `num_missed` or fewer of `num` have this chance, by bisection."""
    choices = [math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in range(num_missed + 1)]
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        logs = [c + k * math.log(share) + (num - k) * math.log1p(-share) for k, c in enumerate(choices)]
        low, high = (share, high) if math.fsum(map(math.exp, logs)) > chance else (low, share)
    return high


def _check_scores(scores: Scores, is_correct: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values, correct = np.asarray(scores, dtype=np.float64), np.asarray(is_correct, dtype=np.bool_)
    if values.ndim != 1 or values.shape != correct.shape:
        raise InvalidInput(
            f"scores have shape {values.shape}, labels {correct.shape}; give one of each for a candidate"
        )
    if np.isnan(values).any():
        raise InvalidInput(f"score {int(np.isnan(values).argmax())} is nan; look for non-finite weights")
    return values, correct


def compute_auc(scores: Scores, is_correct: Labels, weights: npt.ArrayLike | None = None) -> float:
    """The chance that a correct program scores above an incorrect one, whatever their problems; a tie counts half.

    It is the area under the ROC curve. NaN without a program of each kind.
    """
    right, wrong = _sum_by_score(scores, is_correct, weights)
    below = np.cumsum(wrong) - wrong
    with np.errstate(invalid="ignore"):
        return float(right @ (below + wrong / 2) / (right.sum() * wrong.sum()))


def compute_youden(scores: Scores, is_correct: Labels, weights: npt.ArrayLike | None = None) -> float:
    """Youden's J at the best threshold: the largest TPR - FPR. 0 is a coin, 1 is a perfect verifier."""
    right, wrong = _sum_by_score(scores, is_correct, weights)
    with np.errstate(invalid="ignore"):
        gaps = np.cumsum(wrong) / wrong.sum() - np.cumsum(right) / right.sum()
    return float(max(gaps.max(), 0.0)) if not np.isnan(gaps).any() else math.nan


def compute_brier(chances: Scores, is_correct: Labels, weights: npt.ArrayLike | None = None) -> float:
    """The mean squared distance of a chance of being correct from what is: 1 or 0."""
    values, correct = _check_scores(chances, is_correct)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    return float((values - correct) ** 2 @ weight / weight.sum())


def compute_ece(
    chances: Scores, is_correct: Labels, weights: npt.ArrayLike | None = None, *, num_bins: int = 10
) -> float:
    """The expected calibration error: how far chances are from the share that is correct, over bins of equal width.

    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    values, correct = _check_scores(chances, is_correct)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    place = np.minimum((values * num_bins).astype(int), num_bins - 1)
    distance = np.bincount(place, weights=weight * (values - correct), minlength=num_bins)
    return float(np.abs(distance).sum() / weight.sum())


def _sum_by_score(scores: Scores, is_correct: Labels, weights: npt.ArrayLike | None) -> tuple[Figures, Figures]:
    """The weights of correct and of incorrect programs at each score, from the lowest on."""
    values, correct = _check_scores(scores, is_correct)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    place = np.unique(values, return_inverse=True)[1]
    num = int(place.max(initial=-1)) + 1
    right, wrong = np.zeros(num), np.zeros(num)
    np.add.at(right, place[correct], weight[correct])
    np.add.at(wrong, place[~correct], weight[~correct])
    return right, wrong


def rank(values: Scores) -> Figures:
    """Returns the rank of each value, from 1 on. Equal ones share the mean of theirs. Shape: [N] -> [N]."""
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place], np.float64)


def compute_rank_correlation(first: Scores, second: Scores) -> float:
    """Spearman's correlation: Pearson's of the ranks, those of ties averaged. NaN where all of one side are equal."""
    x, y = (ranks - ranks.mean() for ranks in map(rank, (first, second)))
    with np.errstate(invalid="ignore"):
        return float(x @ y / np.sqrt((x @ x) * (y @ y)))
