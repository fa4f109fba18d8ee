import dataclasses

import numpy as np
import pytest
import torch

from codescaler.train.batches import make_micro_batch, plan_epoch
from codescaler.train.config import TrainConfig
from codescaler.train.problems import TokenizedProblem

COSTS = [30, 90, 10, 55, 70, 20, 100, 5]


def problem(cost, start=0):
    sequences = [np.arange(start, start + n, dtype=np.int32) for n in (cost // 2, cost)]
    return TokenizedProblem(f"t/{start}", sequences, [True, False], 0.5, cost)


PROBLEMS = [problem(cost, 1000 * index) for index, cost in enumerate(COSTS)]
CONFIG = TrainConfig(step_tokens=120, micro_batch_tokens=100)


def test_every_problem_is_there_once_and_budgets_hold():
    steps = plan_epoch(PROBLEMS, CONFIG, 0)
    assert sorted(index for step in steps for batch in step for index in batch) == list(range(len(COSTS)))
    for step in steps:
        assert all(sum(COSTS[i] for i in batch) <= 100 for batch in step)
    for step in steps[:-1]:
        assert sum(COSTS[i] for batch in step for i in batch) >= 120


def test_the_order_is_the_seed_s_and_the_epoch_s():
    first = plan_epoch(PROBLEMS, CONFIG, 0)
    assert first == plan_epoch(PROBLEMS, CONFIG, 0)
    assert first != plan_epoch(PROBLEMS, CONFIG, 1)
    assert first != plan_epoch(PROBLEMS, dataclasses.replace(CONFIG, seed=1), 0)


def test_a_micro_batch_puts_each_sequence_s_score_in_its_place():
    batch = make_micro_batch([PROBLEMS[3], PROBLEMS[0]], torch.device("cpu"))
    # Stand-ins for scores: how long each sequence is, in the tree's order.
    ends = batch.tree.positions[batch.tree.read_tokens][batch.tree.rows.long()] + 1
    assert ends[batch.places].tolist() == [27, 55, 15, 30]
    assert batch.offsets.tolist() == [0, 2, 4] and batch.labels.tolist() == [True, False] * 2
    assert batch.margins.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("step_tokens, count", [(1, 8), (10**6, 1)])
def test_steps_are_as_large_as_asked_for(step_tokens, count):
    steps = plan_epoch(PROBLEMS, dataclasses.replace(CONFIG, step_tokens=step_tokens), 0)
    assert len(steps) == count
