"""Does a scorer read the problem? Figures with the problem's text swapped, and beside programs that do not answer it.

  swapped       All programs of a problem are scored after the text of the next problem of the file. A scorer that reads
                ranks fewer pairs correctly then. The correlation is Pearson's, of scores after one text and the other:
                over all programs, and of scores less the mean of their problem.
  before        How often a correct program scores above a program that does not do what its problem asks, after the
                text of its own problem. A tie counts half. A problem counts once, whatever the number of its programs.

    another problem's program    a correct one, of the next problem whose function has as many parameters, or fewer
    the same, renamed            it carries the name of this problem's function, and has as many parameters
    near-miss name               the correct program, its function misspelled by an "s"
    last return dropped          the correct program without it
    return None                  the same parameters, and nothing else
    constant of the shown test   the answer of the problem's first shown test, whatever is given

Problems without a correct program that defines what is asked are left out; a rule that does not apply to a program is
left out there. Intervals: 95%, by drawing problems with replacement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import Estimate, estimate_correlation, estimate_means
from codescaler.evaluate.problems import EvaluationProblem
from codescaler.evaluate.scorers import Response, Scores, require_numbers
from codescaler.metrics import Figures, pair_accuracy
from codescaler.text.mismatches import (
    KINDS,
    RENAMED,
    CorrectProgram,
    choose_other,
    find_correct_programs,
    make_mismatches,
)
from codescaler.text.program import make_conversation

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Responses:
    """What is scored after one text, as a unit of `evaluate.scorers`."""

    responses: Sequence[Response]


@dataclass(frozen=True)
class ReadingCase:
    """One problem's programs, each once: after its own text, after another's, and what its correct ones stand beside.

    `kinds` and `beside` say for each of `mismatched` what it is, and by its place in `own` which program it is beside.
    """

    task_id: str
    own: Responses
    swapped: Responses
    mismatched: Responses
    kinds: tuple[str, ...]
    beside: tuple[int, ...]


def build_reading_cases(problems: Sequence[EvaluationProblem]) -> list[ReadingCase]:
    """Returns a case for each problem with a correct program that defines the function its problem asks for.

    Raises: InvalidInput if no problem has, or all have the same text.
    """
    if len({problem.prompt for problem in problems}) < 2:
        raise InvalidInput("all problems have the same text; give groups of two problems at least")
    functions = [
        find_correct_programs(problem.prompt, [r.text for r in problem.responses if r.is_correct])
        for problem in problems
    ]
    cases = [_build_case(problems, functions, place) for place, of_problem in enumerate(functions) if of_problem]
    if not cases:
        raise InvalidInput(
            f"none of {len(problems)} problems names a function that a correct program defines; give problems that "
            "show a test or a signature"
        )
    return cases


def list_units(cases: Sequence[ReadingCase]) -> list[Responses]:
    """Returns what has to be scored, in the order that `evaluate_reading` takes scores in."""
    return [unit for case in cases for unit in (case.own, case.swapped, case.mismatched)]


def list_standards(cases: Sequence[ReadingCase]) -> list[int]:
    """Of each of `list_units`, the place of that by which a combination standardises its scores.

    Programs beside the own ones are put on their scale. With another problem's text, the own programs have another.
    """
    return [place - 2 * (place % 3 == 2) for place in range(3 * len(cases))]


def _build_case(
    problems: Sequence[EvaluationProblem], functions: Sequence[Sequence[CorrectProgram]], place: int
) -> ReadingCase:
    problem, correct = problems[place], functions[place]
    order = [*range(place + 1, len(problems)), *range(place)]
    other_text = next(problems[at].problem for at in order if problems[at].prompt != problem.prompt)
    own = list({(response.text, response.is_correct): response for response in problem.responses}.values())
    swapped = [
        Response(make_conversation(other_text, r.text, problem.system), r.text, r.is_correct, f"{r.name}, swapped")
        for r in own
    ]
    others = [functions[at][0] for at in order if functions[at] and problems[at].prompt != problem.prompt]
    kinds, beside, mismatched = [], [], []
    for index, response in enumerate(own):
        for program in correct:
            if response.is_correct and response.text == program.code:
                for kind, code in make_mismatches(program, choose_other(program, others), problem.prompt):
                    kinds.append(kind)
                    beside.append(index)
                    pair = make_conversation(problem.problem, code, problem.system)
                    mismatched.append(Response(pair, code, False, f"{response.name}, {kind}"))
    return ReadingCase(
        problem.task_id, Responses(own), Responses(swapped), Responses(mismatched), tuple(kinds), tuple(beside)
    )


def evaluate_reading(cases: Sequence[ReadingCase], scores: Scores, models: Sequence[str]) -> dict[str, Any]:
    """Returns what JSON holds of an evaluation. `scores` are of `list_units`; `models` get a sentence each.

    Raises: InvalidInput if a score is NaN.
    """
    require_numbers(list_units(cases), scores)
    scorers = {name: _measure_scorer(cases, values) for name, values in scores.items()}
    for name in models:
        scorers[name]["verdict"] = describe_reading(name, scorers[name])
    counted = {kind: [case for case in cases if kind in case.kinds] for kind in KINDS}
    return {
        "num_problems": len({case.task_id for case in cases}),
        "num_programs": sum(len(case.own.responses) for case in cases),
        "num_mixed": len({case.task_id for case in cases if len({r.is_correct for r in case.own.responses}) == 2}),
        "num_beside": {kind: len({case.task_id for case in held}) for kind, held in counted.items()},
        "scorers": scorers,
    }


def _measure_scorer(cases: Sequence[ReadingCase], scores: Sequence[Figures]) -> dict[str, Any]:
    own, swapped, beside = scores[::3], scores[1::3], scores[2::3]
    labels = [np.array([response.is_correct for response in case.own.responses]) for case in cases]
    defines = [np.array([not response.missing for response in case.own.responses]) for case in cases]
    everything, clusters = [np.ones(len(y), dtype=bool) for y in labels], [case.task_id for case in cases]
    return {
        **_measure_swap(cases, own, swapped, labels, everything),
        "defining": _measure_swap(cases, own, swapped, labels, defines),
        "correlation": estimate_correlation(clusters, own, swapped),
        "correlation_within_problems": estimate_correlation(clusters, own, swapped, is_within=True),
        "before": {kind: _measure_beside(cases, own, beside, kind) for kind in KINDS},
    }


def _measure_swap(
    cases: Sequence[ReadingCase],
    own: Sequence[Figures],
    swapped: Sequence[Figures],
    labels: Sequence[Mask],
    kept: Sequence[Mask],
) -> dict[str, Estimate | None]:
    """Pair accuracy after both texts, and by how much it falls; None without a pair."""
    rows, clusters = [], []
    for case, first, second, y, mask in zip(cases, own, swapped, labels, kept, strict=True):
        accuracies = [pair_accuracy(_place(values)[mask], y[mask]) for values in (first, second)]
        if None not in accuracies:
            rows.append(accuracies)
            clusters.append(case.task_id)
    columns = dict(zip(("own", "swapped"), np.array(rows, dtype=np.float64).reshape(-1, 2).T, strict=True))
    columns["fall"] = columns["own"] - columns["swapped"]
    found = estimate_means(columns, clusters)
    return {f"pair_accuracy_{key}" if key != "fall" else key: found.get(key) for key in columns}


def _place(scores: Figures) -> Figures:
    """Places in the order of scores, so that an infinite score is one like any other."""
    return np.unique(scores, return_inverse=True)[1].astype(np.float64)


def _measure_beside(
    cases: Sequence[ReadingCase], own: Sequence[Figures], beside: Sequence[Figures], kind: str
) -> Estimate | None:
    shares, clusters = [], []
    for case, correct, others in zip(cases, own, beside, strict=True):
        wins = [
            (1.0 if correct[place] > other else 0.5 if correct[place] == other else 0.0)
            for other, place, own_kind in zip(others, case.beside, case.kinds, strict=True)
            if own_kind == kind
        ]
        if wins:
            shares.append(sum(wins) / len(wins))
            clusters.append(case.task_id)
    return estimate_means({kind: np.array(shares)}, clusters).get(kind)


def describe_reading(name: str, figures: Mapping[str, Any]) -> str:
    """Says in words whether a scorer reads the problem."""
    fall, renamed = figures["fall"], figures["before"][RENAMED]
    if fall is None:
        return f"Whether {name} reads the problem is not known: no problem has a correct and an incorrect program."
    shown = f"{100 * fall['mean']:+.1f} points [{', '.join(f'{100 * end:+.1f}' for end in fall['interval'])}]"
    if fall["interval"][0] <= 0:
        return (
            f"{name} does not read the problem: its pair accuracy is not shown to fall with another problem's text "
            f"({shown})."
        )
    told = f"{name} reads the problem: its pair accuracy falls by {shown} with another problem's text."
    if renamed is not None and renamed["interval"][0] <= 0.5:
        told += " It is not shown to know more than the name: another problem's program under the name passes."
    return told
