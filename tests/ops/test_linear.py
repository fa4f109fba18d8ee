import pytest
import torch

from codescaler.ops import LinearWeights
from codescaler.ops.cpu.linear import MIN_LINEAR_ROWS, pad_rows
from codescaler.testing import assert_accurate, run_peer_linear


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "num_rows, width_in, width_out",
    [(1, 8, 3), (5, 17, 31), (15, 64, 96), (17, 448, 130), (70, 96, 64), (20, 3072, 40)],
)
def test_matches_the_truth(backend, dtype, random, num_rows, width_in, width_out, has_bias):
    x = torch.randn(num_rows, width_in, generator=random).to(dtype)
    weight = torch.randn(width_out, width_in, generator=random).to(dtype)
    bias = torch.randn(width_out, generator=random).to(dtype) if has_bias else None
    truth = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert_accurate(
        backend.linear(x, backend.pack_linear(LinearWeights(weight, bias))), truth, run_peer_linear(x, weight, bias)
    )


def test_empty(backend, dtype):
    packed = backend.pack_linear(LinearWeights(torch.ones(3, 8, dtype=dtype)))
    assert backend.linear(torch.empty(0, 8, dtype=dtype), packed).shape == (0, 3)


def test_few_numbers_of_rows_are_run():
    run = [pad_rows(rows) for rows in range(8193)]
    assert all(rows <= padded and padded >= MIN_LINEAR_ROWS for rows, padded in enumerate(run))
    assert len(set(run)) <= 80
    assert all(padded - rows <= max(MIN_LINEAR_ROWS - 1, rows / 2) for rows, padded in enumerate(run) if rows)
    assert sum(run) < 1.02 * sum(range(8193))


def test_nan_stays_in_its_row(backend, dtype):
    x = torch.ones(20, 32, dtype=dtype)
    x[3, 7] = torch.nan
    y = backend.linear(x, backend.pack_linear(LinearWeights(torch.ones(48, 32, dtype=dtype))))
    assert torch.equal(y.isnan().any(dim=1), torch.arange(20) == 3)
    assert y[3].isnan().all()


def test_packing_copies_where_the_backend_says_so(backend, dtype, random):
    x, weight = (torch.randn(20, 32, generator=random).to(dtype) for _ in range(2))
    packed = backend.pack_linear(LinearWeights(weight))
    before = backend.linear(x, packed)
    weight.zero_()
    assert torch.equal(backend.linear(x, packed), before) == backend.copies_weights
