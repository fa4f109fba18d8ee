import pytest
import torch

from codescaler.ops import reference
from codescaler.testing import assert_accurate

SIZES = [(1, 1), (3, 7), (5, 16), (2, 17), (4, 31), (9, 257), (2, 1024)]
EPS = 1e-6


@pytest.mark.parametrize("num_rows, width", SIZES)
def test_matches_the_truth(backend, dtype, random, num_rows, width):
    x = torch.randn(num_rows, width, generator=random).to(dtype)
    weight = torch.rand(width, generator=random) + 0.5
    truth = reference.rms_norm(x.double(), weight.double(), EPS)
    assert_accurate(backend.rms_norm(x, weight, EPS), truth, reference.rms_norm(x, weight, EPS))


@pytest.mark.parametrize("num_rows, width", SIZES)
def test_adds_to_the_residual_and_normalises_it(backend, dtype, random, num_rows, width):
    x = torch.randn(num_rows, width, generator=random).to(dtype)
    weight = torch.rand(width, generator=random) + 0.5
    before = torch.randn(num_rows, width, generator=random)
    residual, peer, exact = before.clone(), before.clone(), before.double()

    y = backend.rms_norm(x, weight, EPS, residual)

    truth = reference.rms_norm(x.double(), weight.double(), EPS, exact)
    assert_accurate(y, truth, reference.rms_norm(x, weight, EPS, peer))
    assert torch.equal(residual, before + x.float())


def test_rows_may_lie_apart(backend, dtype, random):
    x = torch.randn(5, 40, generator=random).to(dtype)
    weight = torch.rand(33, generator=random)
    wide = torch.randn(5, 60, generator=random)
    before = wide.clone()

    y = backend.rms_norm(x[:, :33], weight, EPS, wide[:, :33])

    assert torch.equal(wide[:, 33:], before[:, 33:])
    dense = before[:, :33].contiguous()
    assert torch.equal(y, backend.rms_norm(x[:, :33].contiguous(), weight, EPS, dense))
    assert torch.equal(dense, wide[:, :33])


def test_empty(backend, dtype):
    assert backend.rms_norm(torch.empty(0, 8, dtype=dtype), torch.ones(8), EPS).shape == (0, 8)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_stay_in_their_row(backend, dtype, value):
    x = torch.ones(3, 37, dtype=dtype)
    x[1, 5] = value
    y = backend.rms_norm(x, torch.ones(37), 0.0)
    assert y[1, 5].isnan()
    assert torch.equal(y[[0, 2]], torch.ones(2, 37, dtype=dtype))


def test_rows_keep_their_bits_in_any_batch(backend, dtype, random):
    x = torch.randn(50, 129, generator=random).to(dtype)
    weight = torch.rand(129, generator=random)
    alone = torch.cat([backend.rms_norm(row[None], weight, EPS) for row in x])
    assert torch.equal(backend.rms_norm(x, weight, EPS), alone)
