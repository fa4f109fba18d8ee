import pytest
import torch

from codescaler.ops import reference
from codescaler.testing import assert_accurate


@pytest.mark.parametrize("has_normalised_weights", [False, True])
@pytest.mark.parametrize(
    "num_rows, num_experts, num_chosen", [(1, 1, 1), (5, 7, 7), (3, 17, 1), (4, 128, 8), (2, 60, 4)]
)
def test_matches_the_truth(backend, random, num_rows, num_experts, num_chosen, has_normalised_weights):
    logits = 3 * torch.randn(num_rows, num_experts, generator=random)
    truth = reference.route(logits.double(), num_chosen, has_normalised_weights)
    experts, weights = backend.route(logits, num_chosen, has_normalised_weights)
    assert experts.dtype == torch.int32
    assert torch.equal(experts, truth.experts)
    assert_accurate(weights, truth.weights, reference.route(logits, num_chosen, has_normalised_weights).weights)


def test_of_equal_logits_the_first_experts_are_chosen(backend):
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0, 1.0], [5.0] * 6, [-3.0, -2.0, -2.0, -4.0, -2.0, -2.0]])
    experts = backend.route(logits, 4, False).experts
    assert experts.tolist() == [[1, 3, 2, 4], [0, 1, 2, 3], [1, 2, 4, 5]]


def test_weights_are_shares_of_all_experts_unless_normalised(backend):
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    shares = logits.exp() / logits.exp().sum()
    torch.testing.assert_close(backend.route(logits, 2, False).weights, shares[:, [2, 1]])
    torch.testing.assert_close(backend.route(logits, 2, True).weights, shares[:, [2, 1]] / shares[:, [2, 1]].sum())


@pytest.mark.parametrize("place", [0, 3, 18])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_stays_in_its_row(backend, random, place, value):
    logits = torch.randn(3, 19, generator=random)
    before = backend.route(logits, 4, True)
    logits[1, place] = value
    experts, weights = backend.route(logits, 4, True)
    assert weights[1].isnan().all()
    assert experts[1].tolist() == [0, 1, 2, 3]
    for row in (0, 2):
        assert torch.equal(experts[row], before.experts[row])
        assert torch.equal(weights[row], before.weights[row])


def test_a_row_has_the_same_bits_in_any_batch(backend, random):
    wide = torch.randn(50, 90, generator=random)
    logits = wide[:, :77]  # rows may lie apart
    together = backend.route(logits, 5, True)
    for row in (0, 17, 49):
        alone = backend.route(logits[row : row + 1].contiguous(), 5, True)
        for one, all_rows in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_rows[row])


def test_empty(backend):
    experts, weights = backend.route(torch.empty(0, 9), 3, False)
    assert experts.shape == weights.shape == (0, 3)
