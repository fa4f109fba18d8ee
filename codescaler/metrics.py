"""How well scores rank right programs before wrong ones, and how sure that is. Knows numbers only.

A problem is two arrays: the scores of its candidates, and whether each is right. An invalid candidate has the score
-inf and is wrong. Figures are means over problems, since candidates of one problem are no independent evidence.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput

Scores = Sequence[float] | npt.NDArray[np.floating[Any]]
Labels = Sequence[bool] | npt.NDArray[np.bool_]


def pair_accuracy(scores: Scores, is_right: Labels) -> float | None:
    """The share of (right, wrong) pairs in which the right one scores higher, a tie counting half; None without a pair.

    Raises: InvalidInput if a score is NaN.
    """
    values, right = _checked(scores, is_right)
    if right.all() or not right.any():  # no pair, nor any candidate
        return None
    first, second = values[right][:, None], values[~right][None, :]
    return float((first > second).mean() + (first == second).mean() / 2)


def best_of_n(scores: Scores, is_right: Labels, n: int) -> float:
    """The chance that the best-scored of `n` candidates, drawn without replacement, is right; ties are drawn from.

    Exact: sorted by score, the best of n is one of t tied candidates above b lower ones in C(b + t, n) - C(b, n) of the
    C(total, n) draws. An invalid candidate is never picked, so that a draw of nothing else counts as wrong.

    Raises: InvalidInput if a score is NaN, or n is not in 1..total.
    """
    values, right = _checked(scores, is_right)
    if not 1 <= n <= len(values):
        raise InvalidInput(f"n={n}; there are {len(values)} candidates, give 1 to {len(values)}")
    chance = 0.0
    for value in np.unique(values[values > -math.inf]):
        tied, below = values == value, int((values < value).sum())
        draws = math.comb(below + int(tied.sum()), n) - math.comb(below, n)
        chance += draws / math.comb(len(values), n) * float(right[tied].mean())
    return chance


def bootstrap_interval(
    figures: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """A percentile interval of the mean of one figure a problem, by drawing problems with replacement.

    For the difference of two scorers, give the difference on each problem: that pairs them.
    Source: Efron and Tibshirani 1993, chapter 13; problems are the clusters.

    Raises: InvalidInput if there is no figure.
    """
    if not len(figures):
        raise InvalidInput("there is no figure to draw from; give one for each problem")
    values, generator = np.asarray(figures, dtype=np.float64), np.random.default_rng(seed)
    # One resample at a time: all of them at once would take gigabytes for tens of thousands of problems.
    means = [generator.choice(values, len(values)).mean() for _ in range(num_resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _checked(scores: Scores, is_right: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values, right = np.asarray(scores, dtype=np.float64), np.asarray(is_right, dtype=np.bool_)
    if values.ndim != 1 or values.shape != right.shape:
        raise InvalidInput(f"scores have shape {values.shape}, labels {right.shape}; give one of each for a candidate")
    if np.isnan(values).any():
        raise InvalidInput(f"score {int(np.isnan(values).argmax())} is nan; look for non-finite weights")
    return values, right
