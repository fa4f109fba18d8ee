"""How well one threshold on scores tells correct programs from incorrect ones, over all problems together.

Best-of-N and pairs compare programs of one problem. A policy that trains on a reward meets programs of all problems, so
AUC and calibration predict better whether a reward model trains it well (SWE-RM, arXiv:2512.21919).

A chance of being correct is the logistic function of a reward model's score. Baselines, likelihoods and standardised
scores give no chance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from codescaler.evaluate.estimates import Estimate
from codescaler.evaluate.problems import EvaluationProblem
from codescaler.evaluate.scorers import Scores
from codescaler.metrics import (
    Figures,
    compute_auc,
    compute_brier,
    compute_ece,
    compute_percentile_intervals,
    compute_youden,
)

_NUM_RESAMPLES = 500
_OF_SCORES: dict[str, Callable[..., float]] = {"auc": compute_auc, "youden": compute_youden}
_OF_CHANCES: dict[str, Callable[..., float]] = {"ece": compute_ece, "brier": compute_brier}


def evaluate_discrimination(
    problems: Sequence[EvaluationProblem], scores: Scores, logits: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Returns AUC and Youden's J of each scorer, and ECE and Brier score of `logits`; none without both kinds.

    Intervals draw problems with replacement.
    """
    is_correct = np.concatenate([problem.is_correct[problem.has_code] for problem in problems])
    if is_correct.all() or not is_correct.any():
        return {}
    index = {task_id: place for place, task_id in enumerate(dict.fromkeys(problem.task_id for problem in problems))}
    place = np.repeat([index[problem.task_id] for problem in problems], [p.has_code.sum() for p in problems])
    drawn = np.random.default_rng(0).integers(0, len(index), (_NUM_RESAMPLES, len(index)))
    weights = [np.bincount(row, minlength=len(index))[place].astype(np.float64) for row in drawn]
    figures: dict[str, dict[str, Any]] = {}
    for scorer, of_problems in scores.items():
        values = np.concatenate([np.asarray(of_problem, np.float64) for of_problem in of_problems])
        figures[scorer] = {
            name: _estimate(compute, values, is_correct, weights) for name, compute in _OF_SCORES.items()
        }
        if scorer in logits:
            with np.errstate(over="ignore"):
                chances = 1 / (1 + np.exp(-values))
            figures[scorer] |= {
                name: _estimate(compute, chances, is_correct, weights) for name, compute in _OF_CHANCES.items()
            }
    return figures


def _estimate(compute: Callable[..., float], values: Figures, is_correct: Any, weights: Sequence[Figures]) -> Estimate:
    drawn = np.array([compute(values, is_correct, weight) for weight in weights if weight.any()])
    drawn = drawn[~np.isnan(drawn)]  # a draw may leave out all programs of one kind
    return Estimate(mean=compute(values, is_correct), interval=compute_percentile_intervals(drawn[:, None])[0])


def select_rows(figures: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Estimate | None]]]:
    """The figures of each scorer in the order of a table."""
    return [(scorer, [of.get(name) for name in (*_OF_SCORES, *_OF_CHANCES)]) for scorer, of in figures.items()]
