"""A product of every backend: how exact, and on Triton's own the bits of a row for every number of rows and tile."""

import dataclasses

import pytest
import torch
from codescaler.kernels import linear
from codescaler.kernels.configurations import list_linear_configurations

from codescaler.env import is_triton_interpreted
from codescaler.ops import LinearWeights
from codescaler.ops.cpu.linear import MIN_LINEAR_ROWS, pad_rows
from codescaler.testing import assert_accurate, run_peer_linear


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "num_rows, width_in, width_out",
    [(1, 8, 3), (5, 17, 31), (15, 64, 96), (17, 448, 130), (70, 96, 64), (20, 3072, 40)],
)
def test_matches_the_truth(linear_backend, dtype, random, num_rows, width_in, width_out, has_bias):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    weight = torch.randn(width_out, width_in, generator=random).to(dtype)
    bias = torch.randn(width_out, generator=random).to(dtype) if has_bias else None
    truth = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert_accurate(
        linear_backend.linear(x, linear_backend.pack_linear(LinearWeights(weight, bias))),
        truth,
        run_peer_linear(x, weight, bias),
    )


def test_empty(linear_backend, dtype):
    packed = linear_backend.pack_linear(LinearWeights(torch.ones(3, 8, dtype=dtype)))
    assert linear_backend.linear(torch.empty(0, 8, dtype=dtype), packed).shape == (0, 3)


def test_few_numbers_of_rows_are_run():
    run = [pad_rows(rows) for rows in range(8193)]
    assert all(rows <= padded and padded >= MIN_LINEAR_ROWS for rows, padded in enumerate(run))
    assert len(set(run)) <= 80
    assert all(padded - rows <= max(MIN_LINEAR_ROWS - 1, rows / 2) for rows, padded in enumerate(run) if rows)
    assert sum(run) < 1.02 * sum(range(8193))


def test_nan_stays_in_its_row(linear_backend, dtype):
    x = torch.ones(20, 32, dtype=dtype)
    x[3, 7] = torch.nan
    y = linear_backend.linear(x, linear_backend.pack_linear(LinearWeights(torch.ones(48, 32, dtype=dtype))))
    assert torch.equal(y.isnan().any(dim=1), torch.arange(20) == 3)
    assert y[3].isnan().all()


def test_packing_copies_where_the_backend_says_so(linear_backend, dtype, random):
    x, weight = (torch.randn(20, 32, generator=random).to(dtype) for _ in range(2))
    packed = linear_backend.pack_linear(LinearWeights(weight))
    before = linear_backend.linear(x, packed)
    weight.zero_()
    assert torch.equal(linear_backend.linear(x, packed), before) == linear_backend.copies_weights


# Numbers of inputs, powers of two among them, where products that are said to be invariant were seen not to be.
WIDTHS_IN = [72, 999, 1024, *(pytest.param(width, marks=pytest.mark.slow) for width in (512, 2048, 4096))]
NUM_ROWS = 70 if is_triton_interpreted() else 300  # the interpreter is slow


def skip_unless_deterministic(linear_backend):
    """Returns the backend's architecture."""
    if "deterministic" not in linear_backend.description:
        pytest.skip("the product is torch's")
    return linear_backend.architecture


@pytest.mark.parametrize("width_in", WIDTHS_IN)
def test_a_row_has_the_same_bits_for_every_number_of_rows_and_tile(linear_backend, dtype, random, width_in):
    architecture = skip_unless_deterministic(linear_backend)
    x = torch.randn(NUM_ROWS, width_in, generator=random).to(dtype)
    weight, bias = (torch.randn(size, generator=random).to(dtype) for size in ((40, width_in), 40))
    packed = linear_backend.pack_linear(LinearWeights(weight, bias))
    together = linear_backend.linear(x, packed)
    for rows in (1, 17, 64, NUM_ROWS - 1):
        assert torch.equal(linear_backend.linear(x[:rows], packed), together[:rows]), f"{rows} rows"
    tiles = list_linear_configurations(architecture, dtype.itemsize)
    for tile in tiles[2:] if is_triton_interpreted() else tiles:
        for changed in (tile, dataclasses.replace(tile, has_descriptors=False, num_stages=2)):
            result = torch.empty_like(together)
            linear.linear(x, weight, bias, result, changed)
            assert torch.equal(result, together), changed


def test_a_row_has_the_same_bits_at_any_place(linear_backend, dtype, random):
    skip_unless_deterministic(linear_backend)
    row = torch.randn(1, 512, generator=random).to(dtype)
    packed = linear_backend.pack_linear(LinearWeights(torch.randn(40, 512, generator=random).to(dtype)))
    result = linear_backend.linear(row.expand(130, 512).contiguous(), packed)
    assert torch.equal(result, result[:1].expand(130, 40))


def test_rows_and_weights_may_lie_apart(linear_backend, dtype, random):
    wide, weight = (torch.randn(70, 90, generator=random).to(dtype) for _ in range(2))
    packed = linear_backend.pack_linear(LinearWeights(weight[:, 5:69].contiguous()))
    apart = linear_backend.linear(wide[:, 3:67], packed)
    assert torch.equal(apart, linear_backend.linear(wide[:, 3:67].contiguous(), packed))
