"""Sums are exact and scaled in one order, so every backend and instruction set has the reference's bits."""

import dataclasses

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import LinearWeights, reference
from codescaler.ops.linear import PLAIN
from codescaler.quantize.int8 import quantize_weight
from codescaler.testing import assert_accurate
from codescaler.types import HADAMARD_BLOCK, QuantScheme

SHAPES = [(1, 1, 1), (2, 3, 5), (5, 17, 31), (6, 448, 64), (17, 1537, 130)]
SHAPES += [(70, 386, 70)] if is_triton_interpreted() else [(199, 386, 70), (790, 64, 33)]


@pytest.fixture(params=[8, 16], ids=["8_bits", "16_bits"])
def plain(request):
    """A scheme without a Hadamard transform."""
    return QuantScheme(request.param, has_hadamard=False)


@pytest.fixture(params=[False, True], ids=["as_they_are", "hadamard"])
def scheme(request, plain):
    """Every scheme; the number of inputs has to be a multiple of 64."""
    return dataclasses.replace(plain, has_hadamard=request.param)


def random_weights(random, width_in, width_out, has_bias=True):
    weight = torch.randint(-127, 128, (width_out, width_in), generator=random, dtype=torch.int8)
    scale = torch.rand(width_out, generator=random) / 127
    return LinearWeights(weight, torch.randn(width_out, generator=random) if has_bias else None, scale)


def both(backend, x, weights, scheme):
    """The backend's result, and the reference's."""
    return backend.linear(x, backend.pack_linear(weights, scheme)), reference.int8_linear(x, weights, scheme)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows, width_in, width_out", SHAPES)
def test_has_the_bits_of_the_reference(backend, dtype, random, num_rows, width_in, width_out, has_bias, plain):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    result, truth = both(backend, x, random_weights(random, width_in, width_out, has_bias), plain)
    assert torch.equal(result, truth)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("num_rows, width_in, width_out", [(1, 64, 3), (7, 576, 70), (70, 192, 65)])
def test_rotated_inputs_have_the_bits_of_the_reference(backend, dtype, random, num_rows, width_in, width_out, bits):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    x[0, 5] = 1e4
    result, truth = both(backend, x, random_weights(random, width_in, width_out), QuantScheme(bits, has_hadamard=True))
    assert torch.equal(result, truth)


def test_a_rotation_is_orthogonal_and_its_own_inverse(random):
    x = torch.randn(5, 3 * HADAMARD_BLOCK, generator=random, dtype=torch.float64)
    y = reference.apply_hadamard(x)
    assert torch.allclose(reference.apply_hadamard(y), x, atol=1e-14)
    assert torch.allclose(y.square().sum(dim=1), x.square().sum(dim=1))
    one = torch.zeros(1, 2 * HADAMARD_BLOCK)
    one[0, 70] = 8.0
    assert reference.apply_hadamard(one)[0, HADAMARD_BLOCK:].abs().tolist() == [1.0] * HADAMARD_BLOCK
    assert reference.apply_hadamard(one)[0, :HADAMARD_BLOCK].tolist() == [0.0] * HADAMARD_BLOCK


def test_a_large_channel_costs_the_others_less_when_rotated(random):
    x, weight = torch.randn(200, 128, generator=random), torch.randn(32, 128, generator=random)
    x[:, 5] *= 100
    errors = []
    for has_hadamard in (False, True):
        integers, scale = quantize_weight(reference.apply_hadamard(weight) if has_hadamard else weight)
        y = reference.int8_linear(x, LinearWeights(integers, None, scale[:, 0]), QuantScheme(8, has_hadamard))
        errors.append((y - x @ weight.T).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 3


def test_a_number_of_inputs_that_cannot_be_rotated_is_refused(kernels):
    weights = LinearWeights(torch.zeros(3, 96, dtype=torch.int8), None, torch.ones(3))
    with pytest.raises(ValueError, match="no multiple of 64"):
        kernels.linear(torch.zeros(2, 96), kernels.pack_linear(weights, QuantScheme(8, has_hadamard=True)))


@pytest.mark.parametrize("width_in", [1, 576, 4864, 2**16])
def test_sums_hold_the_largest_products(backend, width_in, plain):
    weight = torch.full((3, width_in), 127, dtype=torch.int8)
    weight[1] = -128  # ours are symmetric, an untrusted file's need not be
    x = torch.ones(2, width_in)
    x[1] = -1
    result, truth = both(backend, x, LinearWeights(weight, None, torch.ones(3)), plain)
    assert torch.equal(result, truth)
    assert_accurate(result, x.double() @ weight.double().T, truth)
    steps = reference.count_int8_steps(width_in, plain.bits)
    assert steps == 127 if plain.bits == 8 else 127 < steps < 2**15


def test_zeros_constants_one_huge_channel_and_tiny_rows(backend, dtype, random, scheme):
    x = torch.randn(6, 128, generator=random).to(dtype)
    x[0], x[1], x[2, 7], x[3], x[4] = 0.0, 3.0, 1e3 if dtype == torch.float16 else 1e30, 1e-38, 1e-35
    weights = random_weights(random, 128, 20)
    weight, bias, scale = weights
    result, truth = both(backend, x, weights, scheme)
    assert torch.equal(result, truth)
    assert torch.equal(result[0], bias.to(dtype))
    assert torch.isfinite(result).all()
    wide = reference.apply_hadamard(x.double()) if scheme.has_hadamard else x.double()
    exact = wide @ (weight * scale.double()[:, None]).T + bias
    if not scheme.has_hadamard:  # which leaves one channel of a constant, and rounds nothing of it either
        assert_accurate(result[1], exact[1], (x[1:2] @ (weight * scale[:, None]).to(dtype).T + bias.to(dtype))[0])
    assert_accurate(result[1], exact[1], exact[1].to(dtype))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_makes_its_row_nan(backend, dtype, random, value, scheme):
    for place in (0, 7, 99):
        x = torch.randn(20, 128, generator=random).to(dtype)
        x[3, place] = value
        result, truth = both(backend, x, random_weights(random, 128, 20), scheme)
        assert torch.equal(result.isnan().any(dim=1), torch.arange(20) == 3)
        assert result[3].isnan().all()
        others = torch.arange(20) != 3
        assert torch.equal(result[others], truth[others])


def test_rows_have_the_same_bits_in_any_number_and_on_any_number_of_threads(kernels, dtype, random, scheme):
    packed = kernels.pack_linear(random_weights(random, 384, 200), scheme)
    last = 67 if is_triton_interpreted() else 800  # the interpreter is slow
    x = torch.randn(last, 384, generator=random).to(dtype)
    together, threads = kernels.linear(x, packed), torch.get_num_threads()
    try:
        for num_threads in (1,) if is_triton_interpreted() else (1, 2, 5):
            torch.set_num_threads(num_threads)
            for start, end in ((0, 1), (5, 11), (30, 40), (0, last - 33), (last - 40, last)):
                assert torch.equal(kernels.linear(x[start:end], packed), together[start:end])
    finally:
        torch.set_num_threads(threads)


def test_rows_may_lie_apart(backend, dtype, random, scheme):
    wide = torch.randn(4, 90, generator=random).to(dtype)
    packed = backend.pack_linear(random_weights(random, 64, 9), scheme)
    assert torch.equal(backend.linear(wide[:, :64], packed), backend.linear(wide[:, :64].contiguous(), packed))


def test_empty(backend, dtype, random, scheme):
    packed = backend.pack_linear(random_weights(random, 64, 3), scheme)
    assert backend.linear(torch.empty(0, 64, dtype=dtype), packed).shape == (0, 3)


def test_packing_copies_where_the_backend_says_so(backend, dtype, random, scheme):
    x, weights = torch.randn(20, 64, generator=random).to(dtype), random_weights(random, 64, 40)
    packed = backend.pack_linear(weights, scheme)
    before = backend.linear(x, packed)
    weights.weight.zero_()
    assert torch.equal(backend.linear(x, packed), before) == backend.copies_weights


def test_too_many_inputs_are_refused(kernels):
    def pack(num_inputs, bits):
        weights = LinearWeights(torch.zeros(1, num_inputs, dtype=torch.int8), None, torch.ones(1))
        kernels.pack_linear(weights, QuantScheme(bits, has_hadamard=False))

    with pytest.raises(ValueError, match="more than 65536 inputs"):
        pack(2**16 + 1, 8)
    with pytest.raises(ValueError, match="activation_bits is 4, not 8 or 16"):
        pack(3, 4)


def test_who_computes_int8_says_so(backend, scheme):
    assert backend.supports(scheme) is None
    assert backend.supports(PLAIN) is None
