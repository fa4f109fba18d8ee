import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import reference
from codescaler.testing import assert_accurate


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("num_rows, width", [(1, 1), (3, 7), (5, 16), (2, 17), (9, 257)])
def test_matches_the_truth(backend, dtype, random, activation, num_rows, width):
    gate_up = (3 * torch.randn(num_rows, 2 * width, generator=random)).to(dtype)
    grad_y = torch.randn(num_rows, width, generator=random).to(dtype)
    truth = reference.glu_backward(gate_up.double(), activation, grad_y.double())
    peer = reference.glu_backward(gate_up, activation, grad_y)
    # The slope is a sum of terms of both signs, whose errors count against their sizes: at most 1 and 2, times up and
    # dy. The gradient of up has the size of gate and dy. A GPU's exponential and quotient err by two units each.
    gate, up = gate_up.double().abs().chunk(2, dim=1)
    sizes = torch.cat([3.0 * up, gate], dim=1) * grad_y.double().abs().repeat(1, 2)
    slack = (
        2.0 * torch.finfo(torch.float32).eps * sizes
        if backend.name == "triton" and not is_triton_interpreted()
        else 0.0
    )
    assert_accurate(backend.glu_backward(gate_up, activation, grad_y), truth, peer, slack)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_far_out_it_is_flat_or_straight(backend, activation):
    gate_up = torch.tensor([[-1e4, 1e4, 2.0, 2.0]])
    grad = backend.glu_backward(gate_up, activation, torch.ones(1, 2))
    assert torch.allclose(grad, torch.tensor([[0.0, 2.0, 0.0, 1e4]]))


def test_empty(backend, dtype):
    grad = backend.glu_backward(torch.empty(0, 8, dtype=dtype), "silu", torch.empty(0, 4, dtype=dtype))
    assert grad.shape == (0, 8)
