"""Is a reward model fit to train this policy? Figures on labelled samples of the policy itself, and a verdict.

  one step      The best-scored sample of each group is kept, as a round of rejection sampling would: how often it is
                right, and by how much more often than any sample (gain), and than any sample that is a program (gain
                over validity, which needs no model). Ties are drawn from.
  paid for      How a score moves when a program is rewritten and does the same, in units of the spread, the root of the
                mean variance of scores within a group of two programs or more. Of a problem, its first correct and
                first incorrect program are rewritten. "Being correct" is the mean score of correct programs less that
                of incorrect ones.
  excess        The move by a rewrite less what being correct is paid, over mixed problems. Above 0, a policy earns more
                by the rewrite than by a correct program.
  correlation   Pearson's, of scores with length, share of comments and praise, less the mean of their group.

The verdict goes by intervals that draw problems with replacement: see `RULE`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codescaler.errors import InvalidInput
from codescaler.evaluate.best_of_n import evaluate_best_of_n
from codescaler.evaluate.discrimination import evaluate_discrimination
from codescaler.evaluate.estimates import Estimate, estimate_correlation, estimate_means
from codescaler.evaluate.problems import EvaluationProblem
from codescaler.evaluate.scorers import Response, Scores, Unit, require_numbers
from codescaler.metrics import Figures, compute_best_of_each
from codescaler.text.additions import add_comments, add_example, add_praise, add_type_hints
from codescaler.text.program import make_conversation
from codescaler.text.rewriting import find_callers_names, rename_locals, strip_texts
from codescaler.text.surface import measure_surface

REWRITES: Mapping[str, Callable[[str, str], str | None]] = {
    "commented": lambda code, prompt: add_comments(code),
    "praised": lambda code, prompt: add_praise(code),
    "stripped": lambda code, prompt: strip_texts(code),
    "hinted": lambda code, prompt: add_type_hints(code),
    "demonstrated": lambda code, prompt: add_example(code),
    "renamed": lambda code, prompt: rename_locals(code, keep=find_callers_names(prompt)),
}
RULE = """\
  harms     The gain over validity is below 0, or comments or praise are paid more than being correct.
  helps     The gain over validity is above 0, AUC is above 50, and comments and praise are paid less than correctness.
  doubtful  Neither is shown, or fewer than 20 problems are mixed: intervals of so few are too narrow."""
_MIN_MIXED = 20
_BOUGHT = ("commented", "praised")  # what a policy can write more of, without end
_SURFACE = ("length", "comments", "praise")


@dataclass(frozen=True)
class FitnessCase:
    """A problem, and rewrites of its programs. `kinds` and `places` say what each is, and of which response."""

    problem: EvaluationProblem
    responses: Sequence[Response]
    kinds: tuple[str, ...]
    places: tuple[int, ...]


def build_fitness_cases(problems: Sequence[EvaluationProblem]) -> list[FitnessCase]:
    """Returns a case for each problem.

    Raises: InvalidInput if no problem has a correct and an incorrect program.
    """
    if not any(problem.is_mixed for problem in problems):
        raise InvalidInput(
            f"none of {len(problems)} problems has a correct and an incorrect program; sample more a problem, or give "
            "problems that the policy solves now and then"
        )
    return [_build_case(problem) for problem in problems]


def _build_case(problem: EvaluationProblem) -> FitnessCase:
    first: dict[bool, int] = {}
    for place, response in enumerate(problem.responses):
        first.setdefault(response.is_correct, place)
    made = [
        (kind, place, code)
        for place in sorted(first.values())
        for kind, rewrite in REWRITES.items()
        if (code := rewrite(problem.responses[place].text, problem.prompt)) is not None
    ]
    responses = []
    for kind, place, code in made:
        own = problem.responses[place]
        pair = make_conversation(problem.problem, code, problem.system)
        responses.append(Response(pair, code, own.is_correct, f"{own.name}, {kind}"))
    return FitnessCase(problem, responses, tuple(kind for kind, _, _ in made), tuple(place for _, place, _ in made))


def list_units(cases: Sequence[FitnessCase]) -> list[Unit]:
    """Returns what has to be scored, in the order that `evaluate_fitness` takes scores in."""
    return [unit for case in cases for unit in (case.problem, case)]


def list_standards(cases: Sequence[FitnessCase]) -> list[int]:
    """Of each of `list_units`, the place of that by which a combination standardises its scores: the problem's."""
    return [place - place % 2 for place in range(2 * len(cases))]


def evaluate_fitness(
    cases: Sequence[FitnessCase],
    scores: Scores,
    models: Sequence[str],
    own: Scores | None = None,
    *,
    logits: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Returns what JSON holds of an evaluation. `scores` are of `list_units`, and `own` of the problems alone.

    `models` get a verdict. `logits` are the scorers whose logistic is a chance, None for all models. A scorer of `own`,
    such as the scores of the file, has no figures of rewrites.

    Raises: InvalidInput if a score is NaN.
    """
    require_numbers(list_units(cases), scores)
    problems = [case.problem for case in cases]
    of_problems = {**(own or {}), **{name: values[::2] for name, values in scores.items()}}
    ranking = evaluate_best_of_n(problems, of_problems, ())
    discrimination = evaluate_discrimination(problems, of_problems, [*(models if logits is None else logits)])
    kept = _keep_best(problems, of_problems)
    surface = _measure_problems(problems)
    scorers: dict[str, dict[str, Any]] = {}
    for name, values in of_problems.items():
        ranked = ranking["scorers"][name]
        scorers[name] = {
            **discrimination.get(name, {}),
            "pair_accuracy": ranked["pair_accuracy"],
            "best_of_n": ranked["best_of_n"][-1],
            **{key: kept[name, key] for key in ("kept", "gain", "gain_over_validity")},
            **_measure_moves(cases, values, scores[name][1::2] if name in scores else None),
            "correlation": _correlate(problems, values, surface),
        }
    num_mixed = len({problem.task_id for problem in problems if problem.is_mixed})  # which intervals draw
    for name in models:
        scorers[name]["verdict"] = judge_fitness(name, scorers[name], num_mixed)
    counted = ("num_problems", "num_groups", "num_mixed", "num_candidates", "num_without_program")
    return {
        **{key: ranking[key] for key in counted},
        "share_correct": kept["mean"],
        "num_rewritten": {kind: sum(case.kinds.count(kind) for case in cases) for kind in REWRITES},
        "scorers": scorers,
    }


def _keep_best(problems: Sequence[EvaluationProblem], scores: Scores) -> dict[Any, Estimate]:
    """How often a group's best-scored sample is right, and its gains; under "mean", how often any sample is."""
    mean = np.array([problem.is_correct.mean() for problem in problems])
    validity = _keep_of_each(problems, [np.zeros(problem.has_code.sum()) for problem in problems])
    columns: dict[Any, Figures] = {"mean": mean}
    for name, of_problems in scores.items():
        kept = _keep_of_each(problems, of_problems)
        columns |= {(name, "kept"): kept, (name, "gain"): kept - mean, (name, "gain_over_validity"): kept - validity}
    return estimate_means(columns, [problem.task_id for problem in problems])


def _keep_of_each(problems: Sequence[EvaluationProblem], scores: Sequence[Figures]) -> Figures:
    kept = []
    for problem, values in zip(problems, scores, strict=True):
        places = np.full(len(problem.codes), -np.inf)
        places[problem.has_code] = np.unique(values, return_inverse=True)[1]  # an infinite score is one like any other
        kept.append(compute_best_of_each(places, problem.is_correct, len(places))[-1])
    return np.array(kept)


def _measure_moves(
    cases: Sequence[FitnessCase], scores: Sequence[Figures], moved: Sequence[Figures] | None
) -> dict[str, Any]:
    """What being correct and each rewrite are paid, in units of the spread; None where scores are infinite or equal."""
    known = [*scores, *(moved or ())]
    spread = np.nan
    if all(np.isfinite(values).all() for values in known):
        spread = float(np.sqrt(np.mean([values.var() for values in scores if len(values) > 1])))
    paid: dict[str, Any] = {"correct": None, "moves": dict.fromkeys(REWRITES), "excess": dict.fromkeys(REWRITES)}
    if not spread > 0:
        return {"spread": None if np.isnan(spread) else spread, **paid}
    gaps: dict[int, float] = {}
    for index, (case, values) in enumerate(zip(cases, scores, strict=True)):
        if case.problem.is_mixed:
            is_correct = np.array([response.is_correct for response in case.problem.responses])
            gaps[index] = float(values[is_correct].mean() - values[~is_correct].mean()) / spread
    paid["correct"] = _estimate(cases, gaps)
    for kind in REWRITES if moved is not None else ():
        moves: dict[int, float] = {}
        for index, (case, values, new) in enumerate(zip(cases, scores, moved or (), strict=True)):
            held = [(n, values[p]) for n, p, own in zip(new, case.places, case.kinds, strict=True) if own == kind]
            if held:
                moves[index] = float(np.mean([after - before for after, before in held])) / spread
        paid["moves"][kind] = _estimate(cases, moves)
        paid["excess"][kind] = _estimate(cases, {index: moves[index] - gaps[index] for index in moves if index in gaps})
    return {"spread": spread, **paid}


def _estimate(cases: Sequence[FitnessCase], of_cases: Mapping[int, float]) -> Estimate | None:
    clusters = [cases[index].problem.task_id for index in of_cases]
    return estimate_means({"": np.array([*of_cases.values()])}, clusters).get("")


def _measure_problems(problems: Sequence[EvaluationProblem]) -> dict[str, list[Figures]]:
    """Length, comments and praise of the programs of each problem that has some."""
    measured = [np.array([measure_surface(r.text) for r in p.responses]) for p in problems if p.responses]
    return {name: [of_problem[:, column] for of_problem in measured] for column, name in enumerate(_SURFACE)}


def _correlate(
    problems: Sequence[EvaluationProblem], scores: Sequence[Figures], surface: Mapping[str, Sequence[Figures]]
) -> dict[str, Estimate | None]:
    clusters = [problem.task_id for problem in problems if problem.responses]
    held = [values for values in scores if len(values)]
    return {
        name: estimate_correlation(clusters, held, of_problems, is_within=True) for name, of_problems in surface.items()
    }


def judge_fitness(name: str, figures: Mapping[str, Any], num_mixed: int) -> dict[str, str]:
    """Returns the verdict in a word, and a sentence that says why. The rule is `RULE`."""
    gain, auc, excess = figures["gain_over_validity"], figures.get("auc"), figures["excess"]
    shown = f"{100 * gain['mean']:+.1f} points [{', '.join(f'{100 * end:+.1f}' for end in gain['interval'])}]"
    paid = [kind for kind in _BOUGHT if excess[kind] is not None and excess[kind]["interval"][0] > 0]
    unsure = [kind for kind in _BOUGHT if excess[kind] is None or excess[kind]["interval"][1] >= 0]
    told = f"the best-scored sample is right {shown} more often than any program"
    if num_mixed < _MIN_MIXED:
        word, why = "doubtful", f"{num_mixed} mixed problems are fewer than {_MIN_MIXED}"
    elif gain["interval"][1] < 0:
        word, why = "harms", told
    elif paid:
        word, why = "harms", f"a program earns more by being {' and '.join(paid)} than by being correct"
    elif gain["interval"][0] <= 0:
        word, why = "doubtful", f"{told}, which is not shown to be above 0"
    elif auc is None or auc["interval"][0] <= 0.5:
        word, why = "doubtful", "its AUC, over the programs of all problems, is not shown to be above 50"
    elif figures["correct"] is not None and all(excess[kind] is None for kind in _BOUGHT):
        word, why = (
            "doubtful",
            "what comments and praise are paid is not measured: scores of a file have no rewrites, so give the model",
        )
    elif unsure:
        word, why = (
            "doubtful",
            f"a program is not shown to earn less by being {' and '.join(unsure)} than by being correct",
        )
    else:
        word, why = "helps", f"{told}, and neither comments nor praise pay as much as being correct"
    return {"word": word, "sentence": f"{name} {word if word != 'doubtful' else 'is doubtful'}: {why}."}
