"""Figures of scorers on problems: best-of-N and pairs, on all problems, on mixed ones, and by strata."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codescaler.evaluate.estimates import Estimate, estimate_means
from codescaler.evaluate.problems import EvaluationProblem, Strata, order_stratum
from codescaler.evaluate.scorers import Scores, require_numbers
from codescaler.metrics import Figures, compute_best_of_each, pair_accuracy

DEFINING = -1


def evaluate_best_of_n(
    problems: Sequence[EvaluationProblem], scores: Scores, models: Sequence[str], strata: Strata | None = None
) -> dict[str, Any]:
    """Returns what JSON holds of an evaluation: see the keys below. `models` are the scorers whose gains are shown."""
    require_numbers(problems, scores)
    sizes, mixed = [len(problem.codes) for problem in problems], [problem.is_mixed for problem in problems]
    num = min(sizes)
    # (scorer, n): n = 0 for pairs, DEFINING for pairs of programs that define what is asked; NaN where there is none
    columns: dict[tuple[str, int], Figures] = {}
    for scorer, values in scores.items():
        rows = [_measure_problem(problem, score, num) for problem, score in zip(problems, values, strict=True)]
        columns |= {(scorer, n): column for n, column in enumerate(np.array(rows).T, start=DEFINING)}
    on_all = _make_estimates(columns, problems, [True] * len(problems), models)
    on_mixed = _make_estimates(columns, problems, mixed, models)
    has_defining = ~np.isnan(next(column for (_, n), column in columns.items() if n == DEFINING))
    on_defining = _make_estimates(columns, problems, has_defining.tolist(), models)
    figures: dict[str, Any] = {
        "num_problems": len({problem.task_id for problem in problems}),
        "num_groups": len(problems),
        "num_mixed": sum(mixed),
        "num_mixed_defining": int(has_defining.sum()),
        "num_candidates": {"smallest": num, "largest": max(sizes), "all": sum(sizes)},
        "num_groups_of_more_candidates": sum(size > num for size in sizes),
        "num_duplicates": sum(len(p.responses) - len({r.text for r in p.responses}) for p in problems),
        "num_without_program": sum(int((~problem.has_code).sum()) for problem in problems),
        "scorers": {
            scorer: {
                "pair_accuracy": on_mixed.get((scorer, 0)),
                "pair_accuracy_defining": on_defining.get((scorer, DEFINING)),
                "best_of_n": [on_all[scorer, n] for n in range(1, num + 1)],
                "best_of_n_on_mixed": [on_mixed[scorer, n] for n in range(1, num + 1)] if any(mixed) else [],
            }
            for scorer in scores
        },
        "gains": {
            model: {
                other: {
                    "pair_accuracy": on_mixed.get((model, other, 0)),
                    "pair_accuracy_defining": on_defining.get((model, other, DEFINING)),
                    "best_of_n": on_all[model, other, num],
                    "best_of_n_on_mixed": on_mixed.get((model, other, num)),
                }
                for other in scores
                if other != model
            }
            for model in models
        },
        "strata": None if strata is None else _evaluate_strata(columns, problems, mixed, strata, list(scores), num),
    }
    return figures


def _measure_problem(problem: EvaluationProblem, scores: Figures, num: int) -> list[float]:
    """One scorer's pair accuracy on programs that define what is asked, on all, and best-of-1, ..., best-of-`num`.

    Places stand in for scores, since a score of -inf is a program's like any other, and not the mark of none.
    """
    places = np.full(len(problem.codes), -np.inf)
    places[problem.has_code] = np.unique(scores, return_inverse=True)[1]
    labelled = zip(problem.codes, problem.is_correct.tolist(), strict=True)
    distinct = {key: index for index, key in enumerate(labelled) if key[0] is not None}
    missing = {response.text for response in problem.responses if response.missing}
    pairs = [
        pair_accuracy(places[kept], problem.is_correct[kept])
        for kept in (
            [index for index in distinct.values() if problem.codes[index] not in missing],
            [*distinct.values()],
        )
    ]
    best = compute_best_of_each(places, problem.is_correct, num).tolist()
    return [*(np.nan if accuracy is None else accuracy for accuracy in pairs), *best]


def _make_estimates(
    columns: Mapping[tuple[str, int], Figures],
    problems: Sequence[EvaluationProblem],
    chosen: Sequence[bool],
    models: Sequence[str],
) -> dict[tuple[Any, ...], Estimate]:
    """Estimates on some problems, of (scorer, n), and of gains, (model, other, n); of pairs only if each has some."""
    rows = np.flatnonzero(chosen).tolist()
    kept = {key: column[rows] for key, column in columns.items() if not np.isnan(column[rows]).any()}
    gains = {
        (model, other, n): kept[model, n] - column
        for model in models
        for (other, n), column in kept.items()
        if other != model
    }
    return estimate_means({**kept, **gains}, [problems[row].task_id for row in rows])


def _evaluate_strata(
    columns: Mapping[tuple[str, int], Figures],
    problems: Sequence[EvaluationProblem],
    mixed: Sequence[bool],
    strata: Strata,
    scorers: Sequence[str],
    num: int,
) -> dict[str, Any]:
    shown = {key: column for key, column in columns.items() if key[1] in (0, num)}
    parts = {}
    for label in sorted(set(strata.labels), key=order_stratum):
        inside = [own == label for own in strata.labels]
        mixed_inside = [here and is_mixed for here, is_mixed in zip(inside, mixed, strict=True)]
        on_all, on_mixed = (_make_estimates(shown, problems, chosen, ()) for chosen in (inside, mixed_inside))
        parts[label] = {
            "num_groups": sum(inside),
            "num_mixed": sum(mixed_inside),
            "scorers": {
                scorer: {"pair_accuracy": on_mixed.get((scorer, 0)), "best_of_n": on_all[scorer, num]}
                for scorer in scorers
            },
        }
    return {"by": strata.by, "note": strata.note, "parts": parts}
