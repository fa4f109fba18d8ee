"""`Calibration`: how often a gap between two scores was correct, measured on problems with verdicts, kept as JSON.

A pair is a correct and an incorrect program of one problem, and its gap how far their scores are apart; it counts as
correct if the correct program has the higher score, and a tie as half. Every problem weighs the same, however many
pairs it has.

What is said of a gap is a curve with one number, fitted by maximum likelihood: that is what a few dozen problems
can bear, it grows with the gap, and two equal scores are a coin.

    chance(gap) = 1 / (1 + e^(-slope * min(gap, largest_gap)))

`largest_gap`, which 90% of the pairs are within, keeps it from promising what was hardly seen. A problem more, half of
whose pairs are correct at the median gap, keeps a handful of problems from promising certainty. What was measured
stands beside the curve, in bins of equal numbers of pairs. Intervals: 95%, by drawing problems with replacement.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codescaler.errors import InvalidInput, SettingsMismatch, WeightsError
from codescaler.evaluate.estimates import Estimate
from codescaler.evaluate.problems import EvaluationProblem
from codescaler.metrics import Figures, compute_percentile_intervals, resample_means

CALIBRATION_FILE = "calibration.json"

_NUM_BINS = 5
_STEPS = np.linspace(0.0, 8.0, 401)  # slopes to try, over one median gap; sigmoid(8) is 0.9997


@dataclass(frozen=True)
class Calibration:
    """The curve of one model, and what it was measured on: `name`, such as "MBPP"."""

    name: str
    num_problems: int
    slope: Estimate
    largest_gap: float

    def estimate_chance(self, gap: float) -> Estimate:
        """How often the higher-scored of a correct and an incorrect program with this gap was the correct one."""
        seen = min(abs(gap), self.largest_gap)
        mean, low, high = (_compute_sigmoid(slope * seen) for slope in (self.slope["mean"], *self.slope["interval"]))
        return Estimate(mean=mean, interval=(low, high))


def measure_calibration(problems: Sequence[EvaluationProblem], scores: Sequence[Figures]) -> dict[str, Any]:
    """Returns what JSON holds of a measurement, but the model and what it was measured on.

    Raises: InvalidInput if no problem has a correct and an incorrect program, or a score is not finite.
    """
    of_problem: dict[str, list[Figures]] = {}
    for problem, values in zip(problems, scores, strict=True):
        difference = _list_differences(problem, values)
        if not np.isfinite(difference).all():
            raise InvalidInput(f"{problem.name} has scores that are not finite, and gaps are not; look at the model")
        if len(difference):
            of_problem.setdefault(problem.task_id, []).append(difference)
    if not of_problem:
        raise InvalidInput(
            f"none of {len(problems)} groups has a correct and an incorrect program; give groups that have both"
        )
    differences = [np.concatenate(parts) for parts in of_problem.values()]
    place = np.repeat(np.arange(len(differences)), [len(part) for part in differences])
    weight = np.concatenate([np.full(len(part), 1 / len(part)) for part in differences])
    difference = np.concatenate(differences)
    is_correct, gap = (np.sign(difference) + 1) / 2, np.abs(difference)

    def sum_by_problem(values: Figures) -> Figures:
        return np.asarray(np.bincount(place, weights=values, minlength=len(differences)), np.float64)

    unit = float(np.median(gap)) or 1.0
    slopes = _STEPS / unit
    pull = np.stack([(part * _compute_sigmoids(-np.outer(slopes, part))).mean(axis=1) for part in differences])
    bins = np.array_split(np.argsort(gap, kind="stable"), min(_NUM_BINS, len(gap)))
    chosen = [np.isin(np.arange(len(gap)), part) for part in bins]
    right = np.stack([sum_by_problem(weight * is_correct * inside) for inside in chosen], axis=1)
    total = np.stack([sum_by_problem(weight * inside) for inside in chosen], axis=1)
    columns = np.concatenate([right, total, sum_by_problem(weight * is_correct)[:, None], pull], axis=1)
    means, resampled = columns.mean(axis=0)[None], resample_means(columns)
    num = len(bins)

    def fit_slope(rows: Figures) -> Figures:
        prior = -unit / 2 * np.tanh(_STEPS / 2)  # of the problem more
        return _find_zeros(rows[:, 2 * num + 1 :] * len(differences) + prior, slopes)

    def compute_fractions(rows: Figures) -> Figures:
        with np.errstate(invalid="ignore"):  # a draw may leave a bin without a problem
            return rows[:, :num] / rows[:, num : 2 * num]

    slope = _estimate(fit_slope(means), fit_slope(resampled))
    largest_gap = float(np.quantile(gap, 0.9))
    curve = Calibration("", len(differences), slope, largest_gap)
    shares, drawn = compute_fractions(means)[0], compute_fractions(resampled)
    return {
        "num_problems": len(differences),
        "num_pairs": len(gap),
        "pairs_ranked_right": _estimate(means[:, 2 * num], resampled[:, 2 * num]),
        "formula": "1 / (1 + exp(-slope * min(gap, largest_gap)))",
        "slope": slope,
        "largest_gap": largest_gap,
        "bins": [
            {
                "gap": [float(gap[part].min()), float(gap[part].max())],
                "num_pairs": len(part),
                "num_problems": len(set(place[part].tolist())),
                "right": _estimate(shares[k : k + 1], drawn[~np.isnan(drawn[:, k]), k]),
                "curve": curve.estimate_chance(float(gap[part].mean())),
            }
            for k, part in enumerate(bins)
        ],
    }


def read_calibration(path: Path, head_digest: str, text: Mapping[str, Any]) -> Calibration:
    """Returns the curve in a file, after a check that it is of the model with this `Engine.head_digest`.

    `text` is what `TextSettings.describe` says of programs: the scores of other settings have other gaps.

    Raises: WeightsError if the file cannot be used, or is of another model. SettingsMismatch: it is of other settings.
    """
    advice = "measure it anew by `codescaler eval calibration`, or take the file away"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        measured, slope = record["measured_on"], record["slope"]
        low, high = (float(end) for end in slope["interval"])
        calibration = Calibration(
            str(measured["name"]),
            int(record["num_problems"]),
            Estimate(mean=float(slope["mean"]), interval=(low, high)),
            float(record["largest_gap"]),
        )
        owner, read = record["head_digest"], dict(record["text"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise WeightsError(f"{path} holds no calibration ({error!r:.80}); {advice}") from error
    numbers = (low, calibration.slope["mean"], high, calibration.largest_gap)
    if not all(0 <= number < math.inf for number in numbers) or not low <= high:
        raise WeightsError(f"{path} has a slope or largest_gap that is none, {numbers}; {advice}")
    if owner != head_digest:
        raise WeightsError(f"{path} is of a model whose head has the digest {owner!r:.80}, not {head_digest}; {advice}")
    changed = next((key for key in text if read.get(key) != text[key]), None)
    if changed is not None:
        before, now = f"{read.get(changed)!r:.80}", f"{text[changed]!r:.80}"
        raise SettingsMismatch(f"{path} was measured with {changed} {before}, and it is {now} now; {advice}")
    return calibration


def make_calibration_record(
    figures: Mapping[str, Any],
    *,
    head_digest: str,
    text: Mapping[str, Any],
    dtype: str,
    name: str,
    file: str,
    split: str | None,
) -> dict[str, Any]:
    """What `read_calibration` reads: figures, the model they are of, and what they were measured on."""
    return {
        "head_digest": head_digest,
        "text": dict(text),
        "measured_on": {"name": name, "file": file, "split": split, "dtype": dtype},
        **figures,
    }


def _list_differences(problem: EvaluationProblem, scores: Figures) -> Figures:
    """Correct minus incorrect, over all pairs of distinct programs; one that is labelled both ways is left out."""
    score_of: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for response, score in zip(problem.responses, scores.tolist(), strict=True):
        score_of[response.is_correct][response.text] = score
    both = score_of[True].keys() & score_of[False].keys()
    right, wrong = ([score for text, score in of.items() if text not in both] for of in score_of.values())
    with np.errstate(invalid="ignore"):  # infinities, which the caller refuses
        return np.asarray(np.subtract.outer(right, wrong), np.float64).ravel()


def _find_zeros(values: Figures, at: Figures) -> Figures:
    """Where each falling row of values meets zero, between its points; at an end if it does not. [R, K], [K] -> [R]."""
    above = np.clip((values > 0).sum(axis=1), 1, len(at) - 1)
    rows = np.arange(len(values))
    before, after = values[rows, above - 1], values[rows, above]
    share = np.clip(before / np.where(before == after, 1.0, before - after), 0.0, 1.0)
    return np.asarray(at[above - 1] + share * (at[above] - at[above - 1]))


def _estimate(mean: Figures, resampled: Figures) -> Estimate:
    return Estimate(mean=float(mean[0]), interval=compute_percentile_intervals(resampled[:, None])[0])


def _compute_sigmoids(values: Figures) -> Figures:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


def _compute_sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))  # of no negative value
