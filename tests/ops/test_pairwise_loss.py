import itertools
import math

import pytest
import torch


@pytest.fixture
def pairwise_loss(backend):
    return backend.pairwise_loss


@pytest.fixture
def offsets(device):
    return torch.tensor([0, 3, 3, 4, 8, 10])


@pytest.fixture
def labels(device):
    """Two groups have pairs."""
    return torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1, 1], dtype=torch.bool)


def naive(scores, labels, offsets, margins, center):
    """The formula as a double loop, in Python floats."""
    groups = []
    for g, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        terms = []
        for i, j in itertools.product(range(start, end), repeat=2):
            if labels[i] and not labels[j]:
                gap = scores[i].item() - scores[j].item() - (0.0 if margins is None else margins[g].item())
                softplus = max(-gap, 0.0) + math.log1p(math.exp(-abs(gap)))
                terms.append(softplus + center * (scores[i].item() + scores[j].item()) ** 2)
        if terms:
            groups.append(sum(terms) / len(terms))
    return sum(groups) / len(groups) if groups else 0.0


@pytest.mark.parametrize("has_margins", [False, True])
@pytest.mark.parametrize("center", [0.0, 0.01])
@pytest.mark.parametrize("std", [1.0, 50.0, 500.0])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_equals_the_double_loop(pairwise_loss, random, labels, offsets, has_margins, center, std, dtype, error):
    scores = std * torch.randn(10, generator=random, dtype=dtype)
    margins = torch.rand(5, generator=random) if has_margins else None
    loss, gradient = pairwise_loss(scores, labels, offsets, margins, center)
    assert loss.dtype == gradient.dtype == dtype
    assert loss.item() == pytest.approx(naive(scores, labels, offsets, margins, center), rel=error)


@pytest.mark.parametrize("has_margins", [False, True])
@pytest.mark.parametrize("center", [0.0, 0.01])
def test_gradient_is_that_of_the_loss(pairwise_loss, random, labels, offsets, has_margins, center):
    scores = torch.randn(10, generator=random)
    margins = torch.rand(5, generator=random) if has_margins else None
    _, gradient = pairwise_loss(scores, labels, offsets, margins, center)
    step = 1e-4
    for i in range(10):
        up, down = scores.double().clone(), scores.double().clone()
        up[i] += step
        down[i] -= step
        slope = (naive(up, labels, offsets, margins, center) - naive(down, labels, offsets, margins, center)) / (
            2 * step
        )
        assert gradient[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_a_tie_costs_log_two(pairwise_loss):
    loss, gradient = pairwise_loss(torch.zeros(2), torch.tensor([True, False]), torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(math.log(2))
    assert gradient.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_groups_without_a_pair_cost_nothing(pairwise_loss, labels):
    loss, gradient = pairwise_loss(torch.tensor([3.0, -1.0]), torch.tensor(labels), torch.tensor([0, 2]))
    assert loss.item() == 0.0
    assert gradient.tolist() == [0.0, 0.0]


def test_empty(pairwise_loss):
    loss, gradient = pairwise_loss(torch.empty(0), torch.empty(0, dtype=torch.bool), torch.tensor([0]))
    assert loss.item() == 0.0
    assert gradient.shape == (0,)


def test_nan_and_infinite_scores_show(pairwise_loss):
    labels, offsets = torch.tensor([True, False]), torch.tensor([0, 2])
    assert pairwise_loss(torch.tensor([torch.nan, 0.0]), labels, offsets)[0].isnan()
    assert pairwise_loss(torch.tensor([torch.inf, 0.0]), labels, offsets)[0].item() == 0.0
    assert pairwise_loss(torch.tensor([-torch.inf, 0.0]), labels, offsets)[0].item() == math.inf


def test_offsets_that_do_not_cover_the_scores_are_refused():
    from codescaler.ops import cpu

    with pytest.raises(ValueError, match="group_offsets does not rise"):
        cpu.make_backend().pairwise_loss(torch.zeros(2), torch.ones(2, dtype=torch.bool), torch.tensor([0, 3]))
