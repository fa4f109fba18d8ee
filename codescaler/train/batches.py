"""Which problems make up each step and each forward: a function of the seed alone, so that a run can be resumed."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codescaler.ops import Tree
from codescaler.ops.plan import plan
from codescaler.train.config import TrainConfig
from codescaler.train.problems import TokenizedProblem

Indices = tuple[int, ...]


def plan_epoch(problems: Sequence[TokenizedProblem], config: TrainConfig, epoch: int) -> list[list[Indices]]:
    """Returns the steps of one epoch, each a list of micro-batches of problem indices.

    Problems are shuffled, and a step takes one after the other until it has `step_tokens` distinct tokens. Within a
    step each goes into the first micro-batch with room for it, the longest first. Prefixes that problems share are not
    counted off: a chat template's beginning is short.
    """
    order = list(range(len(problems)))
    random.Random(f"{config.seed}/{epoch}").shuffle(order)
    steps: list[list[int]] = [[]]
    num_tokens = 0
    for index in order:
        if num_tokens >= config.step_tokens:
            steps.append([])
            num_tokens = 0
        steps[-1].append(index)
        num_tokens += problems[index].num_tokens
    return [_split_step(problems, step, config.micro_batch_tokens) for step in steps if step]


def _split_step(problems: Sequence[TokenizedProblem], step: Sequence[int], budget: int) -> list[Indices]:
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(step, key=lambda i: -problems[i].num_tokens):
        cost = problems[index].num_tokens
        at = next((i for i, free in enumerate(room) if free >= cost), None)
        if at is None:
            at = len(batches)
            batches.append([])
            room.append(budget)
        batches[at].append(index)
        room[at] -= cost
    return [tuple(batch) for batch in batches]


def plan_all_steps(problems: Sequence[TokenizedProblem], config: TrainConfig) -> list[list[Indices]]:
    """Every step of the run, in order."""
    steps: list[list[Indices]] = []
    epoch = 0
    while True:
        one = plan_epoch(problems, config, epoch)
        left = math.ceil(round((config.epochs - epoch) * len(one), 9))
        if config.max_steps is not None:
            left = config.max_steps - len(steps)
        if left <= len(one):
            return steps + one[: max(left, 0)]
        steps += one
        epoch += 1


def pack_problems(problems: Sequence[TokenizedProblem], budget: int) -> Iterator[list[int]]:
    """Yields indices of problems that fit into a budget of distinct tokens together, short problems first."""
    batch: list[int] = []
    used = 0
    for index in sorted(range(len(problems)), key=lambda i: problems[i].num_tokens):
        if batch and used + problems[index].num_tokens > budget:
            yield batch
            batch, used = [], 0
        batch.append(index)
        used += problems[index].num_tokens
    if batch:
        yield batch


@dataclass(frozen=True)
class TeacherScores:
    """What a teacher says of T of the B sequences: which they are, and their scores, float32, both [T].

    `bounds` [G + 1], on the host, are where each problem's start and end among them.
    """

    places: torch.Tensor
    scores: torch.Tensor
    bounds: tuple[int, ...]


@dataclass(frozen=True)
class MicroBatch:
    """Problems as one tree, and what the loss asks for. Legend: B sequences, G problems.

    Shapes: `places` [B], where in the tree's order each sequence of the problems stands; labels [B]; offsets [G + 1];
    margins [G]. `bounds` are the offsets on the host.
    """

    tree: Tree
    places: torch.Tensor
    labels: torch.Tensor
    offsets: torch.Tensor
    margins: torch.Tensor
    teacher: TeacherScores | None
    bounds: tuple[int, ...]

    def iterate_bounds(self) -> Iterator[tuple[int, int]]:
        """Yields where each problem's sequences start and end."""
        return itertools.pairwise(self.bounds)


def make_micro_batch(problems: Sequence[TokenizedProblem], device: torch.device) -> MicroBatch:
    """Puts problems side by side into one prefix tree."""
    sequences = [sequence for problem in problems for sequence in problem.sequences]
    (batch,) = plan(sequences, sum(map(len, sequences)))
    labels = [label for problem in problems for label in problem.labels]
    bounds = tuple(itertools.accumulate((len(problem.labels) for problem in problems), initial=0))
    margins = torch.tensor([problem.margin for problem in problems], dtype=torch.float32)
    return MicroBatch(
        tree=Tree.from_batch(batch, device),
        places=_upload(torch.from_numpy(np.argsort(batch.sequences, kind="stable")), device),
        labels=_upload(torch.tensor(labels), device),
        offsets=_upload(torch.tensor(bounds), device),
        margins=_upload(margins, device),
        teacher=_gather_teacher_scores(problems, device),
        bounds=bounds,
    )


def _gather_teacher_scores(problems: Sequence[TokenizedProblem], device: torch.device) -> TeacherScores | None:
    if problems[0].scores is None:
        return None
    scores = [score for problem in problems for score in problem.scores or ()]
    taught = [place for place, score in enumerate(scores) if score is not None]
    counts = (sum(score is not None for score in problem.scores or ()) for problem in problems)
    return TeacherScores(
        places=_upload(torch.tensor(taught, dtype=torch.int64), device),
        scores=_upload(torch.tensor([score for score in scores if score is not None], dtype=torch.float32), device),
        bounds=tuple(itertools.accumulate(counts, initial=0)),
    )


def _upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies to `device` without waiting for what the device still does."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
