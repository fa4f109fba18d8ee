"""SwiGLU and GeGLU in the product of gate and up: the bits are those of two steps."""

import pytest
import torch

from codescaler.ops import LinearWeights, replace_operations
from codescaler.testing import assert_accurate


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows, width_in, width", [(1, 8, 3), (5, 17, 31), (70, 96, 64), (130, 200, 130)])
def test_is_glu_of_linear(linear_backend, dtype, random, num_rows, width_in, width, activation, has_bias):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    weight = torch.randn(2 * width, width_in, generator=random).to(dtype)
    bias = torch.randn(2 * width, generator=random).to(dtype) if has_bias else None
    packed = linear_backend.pack_linear(LinearWeights(weight, bias))
    result = linear_backend.linear_glu(x, packed, activation)
    assert torch.equal(result, linear_backend.glu(linear_backend.linear(x, packed), activation))


def test_a_row_has_the_same_bits_for_every_number_of_rows(linear_backend, dtype, random):
    x, weight = (torch.randn(size, 512, generator=random).to(dtype) for size in (80, 2 * 20))
    packed = linear_backend.pack_linear(LinearWeights(weight))
    if "deterministic" not in linear_backend.description:
        pytest.skip("the product is another's")
    together = linear_backend.linear_glu(x, packed, "silu")
    for rows in (1, 17, 64):
        assert torch.equal(linear_backend.linear_glu(x[:rows], packed, "silu"), together[:rows])


def test_a_replaced_operation_is_heeded(backend, random):
    """What measures one operation at a time replaces it."""
    x, packed = torch.randn(3, 8, generator=random), backend.pack_linear(LinearWeights(torch.eye(8)))
    changed = replace_operations(backend, glu=lambda gate_up, activation: -gate_up)
    assert_accurate(changed.linear_glu(x, packed, "silu"), -x.double(), -x)


def test_nan_and_empty(linear_backend, dtype):
    packed = linear_backend.pack_linear(LinearWeights(torch.ones(2 * 48, 32, dtype=dtype)))
    x = torch.ones(20, 32, dtype=dtype)
    x[3, 7] = torch.nan
    assert torch.equal(linear_backend.linear_glu(x, packed, "silu").isnan().all(dim=1), torch.arange(20) == 3)
    assert linear_backend.linear_glu(x[:0], packed, "silu").shape == (0, 48)
