"""Sums are exact and scaled in one order, so every backend and instruction set has the reference's bits."""

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.errors import BackendUnavailable
from codescaler.ops import reference
from codescaler.testing import assert_accurate

SHAPES = [(1, 1, 1), (2, 3, 5), (5, 17, 31), (6, 448, 64), (17, 1537, 130), (199, 386, 70), (790, 64, 33)]


@pytest.fixture(autouse=True)
def _not_in_the_interpreter():
    if is_triton_interpreted():
        pytest.skip("there is no Triton kernel of this operation")


@pytest.fixture(params=[8, 16], ids=["8_bits", "16_bits"])
def activation_bits(request):
    return request.param


def random_map(random, width_in, width_out, has_bias=True):
    weight = torch.randint(-127, 128, (width_out, width_in), generator=random, dtype=torch.int8)
    scale = torch.rand(width_out, generator=random) / 127
    return weight, scale, torch.randn(width_out, generator=random) if has_bias else None


def both(backend, x, weight, scale, bias, activation_bits):
    """The backend's result, and the reference's."""
    return tuple(
        operations.linear(x, operations.pack_int8_linear(weight, scale, bias, activation_bits))
        for operations in (backend, reference)
    )


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows, width_in, width_out", SHAPES)
def test_has_the_bits_of_the_reference(
    backend, dtype, random, num_rows, width_in, width_out, has_bias, activation_bits
):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    result, truth = both(backend, x, *random_map(random, width_in, width_out, has_bias), activation_bits)
    assert torch.equal(result, truth)


@pytest.mark.parametrize("width_in", [1, 576, 4864, 2**16])
def test_sums_hold_the_largest_products(backend, width_in, activation_bits):
    weight = torch.full((3, width_in), 127, dtype=torch.int8)
    weight[1] = -128  # ours are symmetric, a stranger's need not be
    x = torch.ones(2, width_in)
    x[1] = -1
    result, truth = both(backend, x, weight, torch.ones(3), None, activation_bits)
    assert torch.equal(result, truth)
    assert_accurate(result, x.double() @ weight.double().T, truth)
    steps = reference.pack_int8_linear(weight, torch.ones(3), None, activation_bits).steps
    assert steps == 127 if activation_bits == 8 else 127 < steps < 2**15


def test_zeros_constants_one_huge_channel_and_tiny_rows(backend, dtype, random, activation_bits):
    x = torch.randn(6, 100, generator=random).to(dtype)
    x[0], x[1], x[2, 7], x[3], x[4] = 0.0, 3.0, 1e30, 1e-38, 1e-35
    weight, scale, bias = random_map(random, 100, 20)
    result, truth = both(backend, x, weight, scale, bias, activation_bits)
    assert torch.equal(result, truth)
    assert torch.equal(result[0], bias.to(dtype))
    assert torch.isfinite(result).all()
    exact = x.double() @ (weight * scale.double()[:, None]).T + bias
    assert_accurate(result[1], exact[1], (x[1:2] @ (weight * scale[:, None]).to(dtype).T + bias.to(dtype))[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_makes_its_row_nan(backend, dtype, random, value, activation_bits):
    for place in (0, 7, 99):
        x = torch.randn(20, 100, generator=random).to(dtype)
        x[3, place] = value
        result, truth = both(backend, x, *random_map(random, 100, 20), activation_bits)
        assert torch.equal(result.isnan().any(dim=1), torch.arange(20) == 3)
        assert result[3].isnan().all()
        assert torch.equal(result[:3], truth[:3])


def test_rows_have_the_same_bits_in_any_number_and_on_any_number_of_threads(kernels, dtype, random, activation_bits):
    weight, scale, bias = random_map(random, 386, 200)
    packed = kernels.pack_int8_linear(weight, scale, bias, activation_bits)
    x = torch.randn(800, 386, generator=random).to(dtype)
    together, threads = kernels.linear(x, packed), torch.get_num_threads()
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            for start, end in ((0, 1), (5, 11), (190, 200), (0, 767), (760, 800)):
                assert torch.equal(kernels.linear(x[start:end], packed), together[start:end])
    finally:
        torch.set_num_threads(threads)


def test_rows_may_lie_apart(backend, dtype, random, activation_bits):
    wide = torch.randn(4, 90, generator=random).to(dtype)
    packed = backend.pack_int8_linear(*random_map(random, 74, 9), activation_bits)
    assert torch.equal(backend.linear(wide[:, :74], packed), backend.linear(wide[:, :74].contiguous(), packed))


def test_empty(backend, dtype, random, activation_bits):
    packed = backend.pack_int8_linear(*random_map(random, 8, 3), activation_bits)
    assert backend.linear(torch.empty(0, 8, dtype=dtype), packed).shape == (0, 3)


def test_packing_copies_where_the_backend_says_so(backend, dtype, random, activation_bits):
    x, (weight, scale, _) = torch.randn(20, 32, generator=random).to(dtype), random_map(random, 32, 40)
    packed = backend.pack_int8_linear(weight, scale, None, activation_bits)
    before = backend.linear(x, packed)
    weight.zero_()
    assert torch.equal(backend.linear(x, packed), before) == backend.copies_weights


def test_too_many_inputs_are_refused(kernels):
    with pytest.raises(ValueError, match="more than 65536 inputs"):
        kernels.pack_int8_linear(torch.zeros(1, 2**16 + 1, dtype=torch.int8), torch.ones(1), None, 8)
    with pytest.raises(ValueError, match="activation_bits is 4, not 8 or 16"):
        kernels.pack_int8_linear(torch.zeros(1, 3, dtype=torch.int8), torch.ones(1), None, 4)


def test_triton_says_that_it_has_none():
    from codescaler.ops import triton

    with pytest.raises(BackendUnavailable, match="no int8 linear map yet"):
        triton.pack_int8_linear(torch.zeros(1, 1, dtype=torch.int8), torch.ones(1), None, 8)
