"""Combinations of scorers: scores standardised within the problem, weighted and added.

    z = (score - mean) / standard deviation, of the distinct programs of one problem
    combined score = sum over members of weight * z

A member that gives every program the same score has z = 0 there. Of two programs one has z = 1 and the other -1,
whatever the gap. So items of a preference file, which mostly have two responses, are all divided by one deviation of a
member: the root of its mean variance within an item. Sums are exact (`math.fsum`), so that the order of
programs moves no bit. Equal weights are 1. Fitted weights are those of a Bradley-Terry model of pairs:

    chance that the correct program of a pair is the one of the higher score = 1 / (1 + e^(-(combined difference)))

Every group weighs the same. A penalty of |weights|^2 / 2, the weight of one group, keeps them finite. The weights
stand in a JSON file with the digests of the members, and the file of other models is refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput, SettingsMismatch, WeightsError
from codescaler.evaluate.estimates import estimate_means
from codescaler.evaluate.problems import EvaluationProblem
from codescaler.evaluate.scorers import Unit
from codescaler.io.json import Fields, read_json
from codescaler.metrics import Figures, pair_accuracy
from codescaler.text.program import Conversation, join_names

if TYPE_CHECKING:
    from codescaler.engine import Engine

Labels = npt.NDArray[np.bool_]

_EQUAL, _FITTED = "equal weights", "fitted weights"
_NUM_FOLDS = 5
_MOST_STEPS = 100
_BLOCK = 256  # programs that a member scores at a time


@dataclass(frozen=True)
class Member:
    """What tells a model of a combination from others: its `Engine.head_digest`, and how it reads programs."""

    head_digest: str
    text: Mapping[str, Any]

    @staticmethod
    def of(engine: "Engine") -> "Member":
        return Member(engine.head_digest, engine.text.describe(are_programs=True))


class CombinedScorer:
    """Scores programs by several engines, which it holds by name, and by their weights."""

    def __init__(self, engines: Mapping[str, "Engine"], weights: Mapping[str, float]) -> None:
        self.engines, self.weights = engines, weights

    def score_members(self, pairs: Sequence[Conversation], names: Sequence[str]) -> dict[str, list[float]]:
        """Returns the scores of every member, with the bits that it gives alone."""
        return {name: list(engine.score_stream(pairs, names)) for name, engine in self.engines.items()}

    def score_stream(self, pairs: Iterable[Conversation], names: Iterable[str] | None = None) -> Iterator[float]:
        """Yields a combined score a program. Programs of one problem stand side by side.

        Each member scores the programs of many problems together.
        """
        named = join_names(names, pairs)
        of_problems = (list(items) for _, items in groupby(named, key=lambda item: _read_problem(item[1])))
        for block in _gather_blocks(of_problems):
            called, held = zip(*chain.from_iterable(block), strict=True)
            members = self.score_members(held, called)
            programs = [read_program(pair) for pair in held]
            for start, end in pairwise(accumulate(map(len, block), initial=0)):
                own = {name: values[start:end] for name, values in members.items()}
                yield from combine_scores(programs[start:end], own, self.weights).tolist()


def _gather_blocks(problems: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    """Yields problems whose programs are `_BLOCK` together, or a little more."""
    block: list[list[Any]] = []
    for problem in problems:
        block.append(problem)
        if sum(map(len, block)) >= _BLOCK:
            yield block
            block = []
    if block:
        yield block


def combine_scores(
    programs: Sequence[str], scores: Mapping[str, Sequence[float] | Figures], weights: Mapping[str, float]
) -> Figures:
    """Returns the weighted sum of the members' standardised scores of one problem's programs.

    Raises: WeightsError if a score is not finite.
    """
    scales = {name: _measure_scale(programs, values, name) for name, values in scores.items()}
    return _combine(scores, scales, weights)


def combine_units(
    units: Sequence[Unit],
    scores: Mapping[str, Sequence[Figures]],
    weights: Mapping[str, float],
    standards: Sequence[int] | None = None,
    *,
    is_pooled: bool = False,
) -> list[Figures]:
    """Returns the combined scores of every unit's responses, from the members' scores.

    `standards` are, for each unit, the place of the one whose mean and standard deviation its scores are told in; None
    for its own. With `is_pooled`, all units have one deviation of a member.

    Raises: as `combine_scores`.
    """
    texts = [[response.text for response in unit.responses] for unit in units]
    scales = [
        {name: _measure_scale(programs, of[place], name) for name, of in scores.items()}
        for place, programs in enumerate(texts)
    ]
    if is_pooled:
        scales = _pool_scales(scales)
    return [
        _combine({name: of[place] for name, of in scores.items()}, scales[standard], weights)
        for place, standard in enumerate(range(len(units)) if standards is None else standards)
    ]


def _pool_scales(scales: Sequence[Mapping[str, tuple[float, float]]]) -> list[dict[str, tuple[float, float]]]:
    """The means, each with its member's deviation over all units; one whose scores are equal has none to add."""
    deviations = {}
    for name in scales[0] if scales else ():
        variances = [0.0 if math.isinf(of[name][1]) else of[name][1] ** 2 for of in scales]
        deviations[name] = math.sqrt(math.fsum(variances) / len(variances)) or math.inf
    return [{name: (of[name][0], deviations[name]) for name in of} for of in scales]


def _combine(
    scores: Mapping[str, Sequence[float] | Figures],
    scales: Mapping[str, tuple[float, float]],
    weights: Mapping[str, float],
) -> Figures:
    parts = [weights[name] * _standardize(values, scales[name]) for name, values in scores.items()]
    return np.array([math.fsum(column) for column in zip(*parts, strict=True)], dtype=np.float64)


def _standardize(scores: Sequence[float] | Figures, scale: tuple[float, float]) -> Figures:
    mean, deviation = scale
    standardized: Figures = (np.asarray(scores, dtype=np.float64) - mean) / deviation + 0.0  # no -0
    return standardized


def _measure_scale(programs: Sequence[str], scores: Sequence[float] | Figures, name: str) -> tuple[float, float]:
    """Returns the mean of distinct programs and their deviation; infinity where they are equal, or nearly so."""
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise WeightsError(f"{name} scores {values[~np.isfinite(values)][0]}, which is not finite; look at the model")
    distinct = list(dict(zip(programs, values.tolist(), strict=True)).values())
    if len(set(distinct)) < 2:
        return 0.0, math.inf
    mean = math.fsum(distinct) / len(distinct)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in distinct) / len(distinct))
    return mean, deviation or math.inf  # of differences too small to square


def fit_combination(problems: Sequence[EvaluationProblem], scores: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """Returns what JSON holds of a fit: weights by member, and how members and combinations rank.

    The figures of the fitted combination are of problems that its weights were not fitted on: problems fall into five
    folds by task_id, and those of a fold are ranked by the weights of the other folds.

    Raises: InvalidInput if fewer than two problems have a correct and an incorrect program.
    """
    mixed = [place for place, problem in enumerate(problems) if problem.is_mixed]
    clusters = [problems[place].task_id for place in mixed]
    tasks = {task: place for place, task in enumerate(dict.fromkeys(clusters))}
    if len(tasks) < 2:
        raise InvalidInput(f"{len(tasks)} problems have a correct and an incorrect program; weights need 2 at least")
    parts = [_standardize_problem(problems[place], {name: of[place] for name, of in scores.items()}) for place in mixed]
    differences = [_list_differences(z, is_correct) for z, is_correct in parts]
    folds = [tasks[task] % _NUM_FOLDS for task in clusters]
    of_fold = {
        fold: _fit_weights([part for part, own in zip(differences, folds, strict=True) if own != fold])
        for fold in dict.fromkeys(folds)
    }
    weights = _fit_weights(differences)
    columns = {name: [pair_accuracy(z[:, place], y) for z, y in parts] for place, name in enumerate(scores)}
    columns[_EQUAL] = [pair_accuracy(z.sum(axis=1), y) for z, y in parts]
    columns[_FITTED] = [pair_accuracy(z @ of_fold[fold], y) for (z, y), fold in zip(parts, folds, strict=True)]
    figures = {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
    gains = {name: figures[_FITTED] - column for name, column in figures.items() if name != _FITTED}
    return {
        "num_problems": len(tasks),
        "num_pairs": sum(map(len, differences)),
        "weights": dict(zip(scores, weights.tolist(), strict=True)),
        "pair_accuracy": estimate_means(figures, clusters),
        "gain_of_fitted_weights": estimate_means(gains, clusters),
    }


def _standardize_problem(problem: EvaluationProblem, scores: Mapping[str, Figures]) -> tuple[Figures, Labels]:
    """Returns the standardised scores of a problem's programs, each once, and which are correct. [n, members], [n]."""
    texts = [response.text for response in problem.responses]
    labels = [response.is_correct for response in problem.responses]
    once = list({program: place for place, program in enumerate(zip(texts, labels, strict=True))}.values())
    z = np.stack([_standardize(v, _measure_scale(texts, v, name)) for name, v in scores.items()], axis=1)
    return z[once], np.array(labels)[once]


def _list_differences(z: Figures, is_correct: Labels) -> Figures:
    """Correct minus incorrect, for every pair and member. Shapes: [programs, members] -> [pairs, members]."""
    return np.asarray((z[is_correct][:, None] - z[~is_correct][None]).reshape(-1, z.shape[1]), np.float64)


def _fit_weights(differences: Sequence[Figures]) -> Figures:
    """Newton's method on the penalised loss, which is convex; a step that does not lower it is halved."""
    rows = np.concatenate(differences)
    share = np.concatenate([np.full(len(part), 1 / len(part)) for part in differences])

    def compute_loss(weights: Figures) -> float:
        return float(share @ np.logaddexp(0.0, -rows @ weights) + weights @ weights / 2)

    weights = np.zeros(rows.shape[1])
    for _ in range(_MOST_STEPS):
        chance = 1.0 / (1.0 + np.exp(np.clip(rows @ weights, -500.0, 500.0)))  # of the wrong order
        gradient = weights - rows.T @ (share * chance)
        curvature = np.eye(len(weights)) + (rows * (share * chance * (1 - chance))[:, None]).T @ rows
        step = np.linalg.solve(curvature, gradient)
        while compute_loss(weights - step) > compute_loss(weights) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-12:
            break
    return weights


def make_combination_record(
    figures: Mapping[str, Any], members: Mapping[str, Member], *, name: str, file: str, split: str | None
) -> dict[str, Any]:
    """What `read_combination` reads: the members with their weights, and what they were fitted on."""
    listed = [
        {
            "name": member,
            "head_digest": of.head_digest,
            "weight": figures["weights"][member],
            "text": dict(of.text),
        }
        for member, of in members.items()
    ]
    rest = {key: value for key, value in figures.items() if key != "weights"}
    return {"members": listed, "measured_on": {"name": name, "file": file, "split": split}, **rest}


@dataclass(frozen=True)
class Combination:
    """The weights of a file, by the digests of the models that they were fitted for."""

    path: Path
    members: Mapping[str, tuple[float, Mapping[str, Any]]]

    def require_member(self, name: str, member: Member) -> float:
        """Returns the weight of a model.

        Raises: WeightsError if the file has none for it. SettingsMismatch: it is of other settings.
        """
        advice = "fit weights anew by `codescaler eval combination`"
        if member.head_digest not in self.members:
            raise WeightsError(
                f"{self.path} has no weight for {name}, whose digest is {member.head_digest}; its weights are of "
                f"{', '.join(self.members)}; {advice}"
            )
        weight, text = self.members[member.head_digest]
        changed = next((key for key in member.text if text.get(key) != member.text[key]), None)
        if changed is not None:
            before, now = f"{text.get(changed)!r:.80}", f"{member.text[changed]!r:.80}"
            raise SettingsMismatch(
                f"{self.path} was fitted with {changed} {before} for {name}, and it is {now} now; {advice}"
            )
        return weight

    def choose_weights(self, members: Mapping[str, Member]) -> dict[str, float]:
        """Returns the weight of each model.

        Raises: as `require_member`; WeightsError if a model of the file is not there, or is there twice.
        """
        weights = {name: self.require_member(name, member) for name, member in members.items()}
        digests = [member.head_digest for member in members.values()]
        if sorted(digests) != sorted(self.members):
            raise WeightsError(
                f"{self.path} has weights for the models {', '.join(self.members)}, and {', '.join(digests)} are "
                "given; give each of them once"
            )
        return weights


def read_combination(path: Path) -> Combination:
    """Returns the weights in a file.

    Raises: WeightsError if the file cannot be used.
    """
    try:
        record = Fields(read_json(path), str(path))
        listed = record.values.get("members")
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise record.make_error("members", "set it to a list of objects")
        members = {}
        for place, item in enumerate(listed):
            fields = Fields(item, f"{path}, members[{place}]")
            weight = fields.read_number("weight", low=-1e30)
            members[fields.read_text("head_digest")] = (weight, fields.read_object("text").values)
    except WeightsError as error:
        raise WeightsError(
            f"{path} holds no combination ({error}); make it by `codescaler eval combination`"
        ) from error
    return Combination(path, members)


def _read_problem(pair: Conversation) -> tuple[object, ...]:
    """What is equal for the programs of one problem."""
    turns = [turn if isinstance(turn, str) else (turn["role"], turn["content"]) for turn in pair.turns[:-1]]
    return pair.system, *turns


def read_program(pair: Conversation) -> str:
    """Returns the last turn's text."""
    last = pair.turns[-1]
    return last if isinstance(last, str) else last["content"]
