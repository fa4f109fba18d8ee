"""The Bradley-Terry loss that users call: against a double loop, TRL's formula, and what must be refused."""

import itertools
import math

import pytest
import torch

from codescaler.errors import InvalidInput
from codescaler.train import bradley_terry_loss
from codescaler.train.loss import exit_loss, margin_mse_loss


def naive(scores, labels, offsets, margins, centre):
    means = []
    for group, (start, end) in enumerate(itertools.pairwise(offsets)):
        terms = []
        for i, j in itertools.product(range(start, end), repeat=2):
            if labels[i] and not labels[j]:
                gap = scores[i] - scores[j] - (margins[group] if margins else 0.0)
                terms.append(math.log1p(math.exp(-gap)) + centre * (scores[i] + scores[j]) ** 2)
        if terms:
            means.append(sum(terms) / len(terms))
    return sum(means) / len(means) if means else 0.0


@pytest.mark.parametrize("margins", [None, [0.0, 1.5, -2.0, 0.25, 3.0]])
@pytest.mark.parametrize("centre", [0.0, 0.01])
def test_is_the_double_loop(random, margins, centre):
    sizes = (1, 4, 7, 2, 3)  # the first has no pair, and neither has the last: all wrong
    offsets = [0, *itertools.accumulate(sizes)]
    labels = torch.rand(17, generator=random) < 0.5
    labels[1:3] = labels[12:14] = torch.tensor([True, False])
    labels[14:] = False
    scores = torch.randn(17, generator=random, dtype=torch.float64)
    loss = bradley_terry_loss(scores, labels, offsets, margins, centre)
    assert loss.item() == pytest.approx(naive(scores.tolist(), labels.tolist(), offsets, margins, centre), rel=1e-12)


def test_gradient_of_float64(random):
    scores = torch.randn(6, generator=random, dtype=torch.float64, requires_grad=True)
    labels = [True, False, True, False, False, True]
    assert torch.autograd.gradcheck(lambda s: bradley_terry_loss(s, labels, [0, 4, 6], [0.5, 0.0], 0.1), (scores,))


def test_plain_pairs_have_trl_s_loss_and_gradient(random):
    right, wrong = (torch.randn(8, generator=random).requires_grad_() for _ in range(2))
    margins = torch.rand(8, generator=random)
    expected = -torch.nn.functional.logsigmoid(right - wrong - margins).mean() + 0.1 * ((right + wrong) ** 2).mean()
    grads = torch.autograd.grad(expected, (right, wrong))
    scores = torch.stack([right, wrong], dim=1).flatten()
    loss = bradley_terry_loss(scores, [True, False] * 8, range(0, 17, 2), margins, 0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, (right, wrong)), grads, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("labels", [[True], [False], [True, True, True], [False, False]])
def test_groups_without_a_pair_count_for_nothing(labels):
    scores = torch.ones(len(labels) + 2, requires_grad=True)
    loss = bradley_terry_loss(scores, [*labels, True, False], [0, len(labels), len(labels) + 2])
    assert loss.item() == pytest.approx(math.log(2))  # of the pair that is there, a tie
    loss.backward()
    assert scores.grad.tolist() == [0.0] * len(labels) + [-0.5, 0.5]


def test_no_pair_at_all_is_zero_and_has_a_gradient():
    scores = torch.ones(2, requires_grad=True)
    loss = bradley_terry_loss(scores, [True, True], [0, 1, 2])
    loss.backward()
    assert loss.item() == 0.0 and scores.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "right, wrong, expected", [(math.inf, 0.0, 0.0), (0.0, -math.inf, 0.0), (-math.inf, 0.0, math.inf)]
)
def test_infinite_scores(right, wrong, expected):
    scores = torch.tensor([right, wrong], requires_grad=True)
    loss = bradley_terry_loss(scores, [True, False], [0, 2])
    assert loss.item() == expected
    loss.backward()
    assert scores.grad.isfinite().all()


def test_nan_and_undecidable_infinities_show():
    for pair in ([math.nan, 0.0], [math.inf, math.inf]):
        assert bradley_terry_loss(torch.tensor(pair), [True, False], [0, 2]).isnan()


def test_narrow_scores_are_widened(random):
    scores = torch.randn(4, generator=random).bfloat16().requires_grad_()
    loss = bradley_terry_loss(scores, [True, False, True, False], [0, 2, 4])
    assert loss.dtype == torch.float32
    loss.backward()
    assert scores.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": [1.0, 2.0]}, "scores is a list"),
        ({"scores": torch.ones(2, 1)}, r"scores is a tensor \[2, 1\]"),
        ({"scores": torch.ones(2, dtype=torch.int64)}, "of int64"),
        ({"labels": [1, 0]}, "labels is a tensor"),
        ({"labels": [True]}, "a bool for each of 2 scores"),
        ({"group_offsets": [0, 1]}, "rise from 0 to 2"),
        ({"group_offsets": [0, 2, 1, 2]}, "rise from 0 to 2"),
        ({"group_offsets": [0.0, 2.0]}, "whole numbers"),
        ({"group_offsets": []}, "whole numbers"),
        ({"margins": [1.0, 2.0]}, "one for each of 1 groups"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"scores": torch.ones(2), "labels": [True, False], "group_offsets": [0, 2], **change}
    with pytest.raises(InvalidInput, match=message):
        bradley_terry_loss(**arguments)


def test_a_teachers_margins_by_a_double_loop(random):
    sizes = (1, 4, 7, 2)
    offsets = [0, *itertools.accumulate(sizes)]
    scores, targets = torch.randn(2, 14, generator=random, dtype=torch.float64)
    means = []
    for start, end in itertools.pairwise(offsets):
        pairs = [*itertools.combinations(range(start, end), 2)]
        errors = [float((scores[i] - scores[j]) - (targets[i] - targets[j])) ** 2 for i, j in pairs]
        means += [sum(errors) / len(errors)] if errors else []
    assert margin_mse_loss(scores, targets, offsets).item() == pytest.approx(sum(means) / len(means), rel=1e-12)
    # The level of a group is free.
    shifted = targets + torch.repeat_interleave(torch.tensor([3.0, -1.0, 0.5, 9.0]), torch.tensor(sizes))
    assert margin_mse_loss(targets, shifted, offsets).item() == pytest.approx(0.0, abs=1e-24)
    assert torch.autograd.gradcheck(lambda s: margin_mse_loss(s, targets, offsets), scores.requires_grad_())


def test_a_teacher_without_a_pair_teaches_nothing():
    scores = torch.ones(2, requires_grad=True)
    margin_mse_loss(scores, torch.zeros(2), [0, 1, 2]).backward()
    assert scores.grad.tolist() == [0.0, 0.0]


def test_exit_loss_is_a_mean_by_depth_over_all_pairs():
    generator = torch.Generator().manual_seed(3)
    early, scores = torch.randn(2, 5, generator=generator).double(), torch.randn(5, generator=generator).double()
    offsets, depths = [0, 2, 5], [0.25, 0.5]
    means = []
    for exit_scores, depth in zip(early.tolist(), depths, strict=True):
        for start, end in itertools.pairwise(offsets):
            gaps = [
                (exit_scores[i] - exit_scores[j] - float(scores[i] - scores[j])) ** 2
                for i, j in itertools.combinations(range(start, end), 2)
            ]
            means.append(depth * sum(gaps) / len(gaps))
    assert exit_loss(early, scores, offsets, depths).item() == pytest.approx(sum(means) / len(means), rel=1e-12)
    early.requires_grad_()
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: exit_loss(e, scores.detach(), offsets, depths), early)
    exit_loss(early, scores, offsets, depths).backward()
    assert scores.grad is None
