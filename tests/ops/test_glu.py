import pytest
import torch

from codescaler.ops import reference
from codescaler.testing import assert_accurate

ACTIVATIONS = ["silu", "gelu_tanh"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("num_rows, width", [(1, 1), (3, 7), (5, 16), (2, 17), (4, 131), (2, 3072)])
def test_matches_the_truth(backend, dtype, random, activation, num_rows, width):
    gate_up = (4 * torch.randn(num_rows, 2 * width, generator=random)).to(dtype)
    truth = reference.glu(gate_up.double(), activation)
    assert_accurate(backend.glu(gate_up, activation), truth, reference.glu(gate_up, activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_and_tiny_gates(backend, random, activation):
    gates = torch.tensor([0.0, 1e-30, -1e-30, 1e-3, -1e-3, 8.0, -8.0, 30.0, -30.0, 87.0, -87.0, 300.0, -300.0, 1e30])
    gate_up = torch.cat([gates, torch.ones_like(gates)])[None]
    truth = reference.glu(gate_up.double(), activation)
    assert_accurate(backend.glu(gate_up, activation), truth, reference.glu(gate_up, activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_where_it_was(backend, dtype, activation):
    gate_up = torch.ones(2, 2 * 37, dtype=dtype)
    gate_up[0, 3] = torch.nan
    gate_up[1, 37 + 36] = torch.nan
    expected = torch.zeros(2, 37, dtype=torch.bool)
    expected[0, 3] = expected[1, 36] = True
    assert torch.equal(backend.glu(gate_up, activation).isnan(), expected)


def test_rows_may_lie_apart(backend, dtype, random):
    wide = torch.randn(4, 90, generator=random).to(dtype)
    assert torch.equal(backend.glu(wide[:, :74], "silu"), backend.glu(wide[:, :74].contiguous(), "silu"))


def test_empty(backend, dtype):
    assert backend.glu(torch.empty(0, 8, dtype=dtype), "silu").shape == (0, 4)
