import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import reference
from codescaler.testing import assert_accurate

SIZES = [(1, 1), (3, 7), (63, 16), (64, 17), (65, 31), (130, 257), (2, 1024)]  # around a chunk of 64 rows, and a lane
EPS = 1e-6


@pytest.mark.parametrize("has_more", [False, True])
@pytest.mark.parametrize("num_rows, width", SIZES)
def test_matches_the_truth(backend, dtype, random, num_rows, width, has_more):
    z, weight = torch.randn(num_rows, width, generator=random), torch.rand(width, generator=random) + 0.5
    grad_y = torch.randn(num_rows, width, generator=random).to(dtype)
    more = torch.randn(num_rows, width, generator=random) if has_more else None

    results = backend.rms_norm_backward(z, weight, EPS, grad_y, more)

    truths = reference.rms_norm_backward(
        z.double(), weight.double(), EPS, grad_y.double(), None if more is None else more.double()
    )
    peers = reference.rms_norm_backward(z, weight, EPS, grad_y, more)
    for result, truth, peer in zip(results, truths, peers, strict=True):
        # A row's terms cancel: the error of each counts against their size, not against that of what is left.
        scale = truth.abs().mean()
        assert_accurate(result + scale, truth + scale, peer + scale.float())


@pytest.mark.skipif(is_triton_interpreted(), reason="the interpreter has one thread")
def test_bits_do_not_depend_on_threads(kernels, dtype, random):
    z, weight = torch.randn(1000, 33, generator=random), torch.rand(33, generator=random)
    grad_y = torch.randn(1000, 33, generator=random).to(dtype)
    many = kernels.rms_norm_backward(z, weight, EPS, grad_y)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = kernels.rms_norm_backward(z, weight, EPS, grad_y)
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(many[0], one[0]) and torch.equal(many[1], one[1])


def test_empty(backend, dtype):
    grad_z, grad_weight = backend.rms_norm_backward(
        torch.empty(0, 8), torch.ones(8), EPS, torch.empty(0, 8, dtype=dtype)
    )
    assert grad_z.shape == (0, 8) and torch.equal(grad_weight, torch.zeros(8))
