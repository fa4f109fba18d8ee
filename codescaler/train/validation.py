"""Validation during training: how well the model ranks problems that it does not train on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from codescaler.errors import TrainingDiverged
from codescaler.metrics import best_of_n, bootstrap_interval, pair_accuracy
from codescaler.train.batches import make_micro_batch, pack_problems
from codescaler.train.config import TrainConfig
from codescaler.train.model import RewardModel
from codescaler.train.problems import TokenizedProblem


@dataclass(frozen=True)
class Validation:
    """How a model ranks; of each figure the mean over problems.

    Attributes:
        loss: the Bradley-Terry loss.
        pair_accuracy: share of correct/incorrect pairs ranked correctly, and its 95% bootstrap `interval` over
            problems.
        best_of_n: how often the best-scored candidate of a problem is right; `chance` is that of one drawn blindly.
        pair_accuracies, picks: the first and the third of each problem, to compare models on the same problems.
    """

    loss: float
    pair_accuracy: float
    interval: tuple[float, float]
    best_of_n: float
    chance: float
    pair_accuracies: Mapping[str, float]
    picks: Mapping[str, float]


@torch.no_grad()
def validate(model: RewardModel, problems: Sequence[TokenizedProblem], config: TrainConfig) -> Validation:
    """Scores problems, of which there must be one. With several processes each does all of it."""
    figures: dict[int, tuple[float, float, float, float]] = {}
    for indices in pack_problems(problems, config.micro_batch_tokens):
        batch = make_micro_batch([problems[i] for i in indices], model.device)
        scores = model(batch.tree)[-1, batch.places]
        for index, (start, end) in zip(indices, batch.iterate_bounds(), strict=True):
            labels, offsets = batch.labels[start:end], batch.offsets[:1].new_tensor([0, end - start])
            margin = batch.margins.new_tensor([problems[index].margin])
            loss, _ = model.backend.pairwise_loss(scores[start:end], labels, offsets, margin, config.center_coefficient)
            values, correct = scores[start:end].tolist(), labels.tolist()
            if not all(map(math.isfinite, values)):
                raise TrainingDiverged(
                    f"{problems[index].task_id}: a score is not finite; lower learning_rate, "
                    "or look for such weights in the model given"
                )
            accuracy = pair_accuracy(values, correct)
            assert accuracy is not None, "a problem has a pair"
            figures[index] = float(loss), accuracy, best_of_n(values, correct, len(values)), sum(correct) / len(correct)
    losses, accuracies, picks, chances = zip(*(figures[i] for i in range(len(problems))), strict=True)
    names = [f"{problem.task_id}/{index}" for index, problem in enumerate(problems)]
    return Validation(
        loss=_compute_mean(losses),
        pair_accuracy=_compute_mean(accuracies),
        interval=bootstrap_interval(accuracies),
        best_of_n=_compute_mean(picks),
        chance=_compute_mean(chances),
        pair_accuracies=dict(zip(names, accuracies, strict=True)),
        picks=dict(zip(names, picks, strict=True)),
    )


def _compute_mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
