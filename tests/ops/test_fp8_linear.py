"""fp8 linear layers: the reference's arithmetic by hand, and the product of tensor cores beside it on a GPU."""

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import LinearWeights, cpu, reference
from codescaler.ops.triton.backend import TritonBackend
from codescaler.quantize.fp8 import quantize_weight_to_fp8
from codescaler.testing import assert_accurate
from codescaler.types import Fp8Scheme

SCHEME = Fp8Scheme()


def random_weights(random, width_in, width_out, has_bias=True):
    weight, scale = quantize_weight_to_fp8(torch.randn(width_out, width_in, generator=random))
    return LinearWeights(weight, torch.randn(width_out, generator=random) if has_bias else None, scale[:, 0])


@pytest.fixture(autouse=True)
def _where_there_is_fp8(request):
    named = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if is_triton_interpreted() and "backend" in named:
        pytest.skip("Triton's interpreter gets fp8 wrong")


def pack(backend, weights):
    if (reason := backend.supports(SCHEME)) is not None:
        pytest.skip(reason)
    return backend.pack_linear(weights, SCHEME)


@pytest.mark.parametrize("num_rows, width_in, width_out", [(1, 1, 1), (5, 17, 31), (70, 448, 64), (300, 1536, 130)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_matches_the_truth(backend, dtype, random, num_rows, width_in, width_out, has_bias):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    weights = random_weights(random, width_in, width_out, has_bias)
    result = backend.linear(x, pack(backend, weights))
    truth = reference.fp8_linear(x.double(), weights, SCHEME)
    # Hopper's tensor cores keep 14 bits of each number of a sum: what they lose is a share of the numbers' sizes.
    sizes = weights._replace(weight=weights.weight.float().abs().to(weights.weight.dtype), bias=None)
    slack = (
        2.0**-13 * reference.fp8_linear(x.double().abs(), sizes, SCHEME)
        if backend.name == "triton" and not is_triton_interpreted()
        else 0.0
    )
    # Rounding in float64 falls on the other side of a half for a few inputs: the peer's is in float32, as ours.
    assert_accurate(result, truth, reference.fp8_linear(x.float(), weights, SCHEME).to(dtype), slack)


@pytest.mark.parametrize("width_in", [512, 1000, 1024, 4096])
def test_a_row_has_the_same_bits_for_every_number_of_rows(kernels, dtype, random, width_in):
    packed = pack(kernels, random_weights(random, width_in, 130))
    x = torch.randn(300, width_in, generator=random).to(dtype)
    together = kernels.linear(x, packed)
    for rows in (1, 17, 64, 129, 299):
        assert torch.equal(kernels.linear(x[:rows], packed), together[:rows]), f"{rows} rows"


def test_values_by_hand():
    """A row's largest is 448 in fp8, whose next numbers are 416 and 384; a half goes to the even one."""
    weights = LinearWeights(torch.ones(1, 2).to(torch.float8_e4m3fn), None, torch.tensor([2.0]))
    x = torch.tensor([[448.0, 400.0], [4.48, 4.0], [0.0, 0.0], [-448.0, 1.0]])
    result = reference.fp8_linear(x, weights, SCHEME)
    assert result[:, 0].tolist() == pytest.approx([2 * (448 + 384), 2 * (4.48 + 3.84), 0.0, 2 * (1 - 448)])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_makes_its_row_nan(backend, dtype, random, value):
    x = torch.randn(20, 64, generator=random).to(dtype)
    x[3, 7] = value
    result = backend.linear(x, pack(backend, random_weights(random, 64, 20)))
    assert torch.equal(result.isnan().all(dim=1), torch.arange(20) == 3)
    assert torch.equal(result.isnan().any(dim=1), torch.arange(20) == 3)


def test_a_weight_is_its_nearest_fp8_multiple(random):
    weight = torch.randn(40, 70, generator=random)
    weight[3], weight[4] = 0.0, 1.5
    rounded, scale = quantize_weight_to_fp8(weight)
    assert (rounded.dtype, scale.dtype, scale.shape) == (torch.float8_e4m3fn, torch.float32, (40, 1))
    assert (rounded[3].float().any().item(), scale[3].item(), rounded[4].float().max().item()) == (False, 1.0, 448.0)
    # Three bits of mantissa; below 2^-6 steps of 2^-9.
    wide = rounded.float() * scale
    assert ((wide - weight).abs() <= torch.maximum(weight.abs() / 16, scale * 2.0**-10) * 1.0001).all()


def test_empty(backend, dtype, random):
    packed = pack(backend, random_weights(random, 64, 3))
    assert backend.linear(torch.empty(0, 64, dtype=dtype), packed).shape == (0, 3)


def test_who_has_no_fp8_says_so():
    for backend in (TritonBackend("sm_80"), TritonBackend("gfx942"), TritonBackend("interpreter"), cpu.make_backend()):
        assert f"backend {backend.name!r} has no fp8 linear layers" in backend.supports(SCHEME)
    for architecture in ("sm_89", "sm_90", "sm_100"):
        assert TritonBackend(architecture).supports(SCHEME) is None
