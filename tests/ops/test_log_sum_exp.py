import pytest
import torch

from codescaler.ops import reference
from codescaler.testing import assert_accurate


def compute(backend, blocks, softcap=None, dtype=torch.float32):
    """Returns the logarithm of each row's sum, block by block."""
    running = torch.tensor([-torch.inf, 0.0], dtype=dtype).repeat(len(blocks[0]), 1)
    for block in blocks:
        backend.log_sum_exp(block, running, softcap)
    return running[:, 0] + running[:, 1].log()


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("num_rows, width", [(1, 1), (3, 7), (5, 16), (2, 17), (4, 131), (2, 5000)])
def test_matches_the_truth(backend, dtype, random, num_rows, width, softcap):
    blocks = [(4 * torch.randn(num_rows, width, generator=random)).to(dtype) for _ in range(2)]
    truth = compute(reference, [block.double() for block in blocks], softcap, torch.float64)
    peer = torch.cat(blocks, dim=1).float()
    peer = peer if softcap is None else softcap * torch.tanh(peer / softcap)
    assert_accurate(compute(backend, blocks, softcap), truth, peer.logsumexp(dim=1))


def test_large_logits_do_not_overflow(backend, dtype):
    logits = torch.tensor([[3e4, 3e4, -3e4], [-3e4, -3e4, -3e4]], dtype=dtype)
    expected = logits.float().logsumexp(dim=1)
    assert torch.equal(compute(backend, [logits]), expected)
    assert torch.equal(compute(backend, [logits[:, 2:], logits[:, :2]]), expected)


def test_nan_stays_where_it_was(backend, dtype):
    logits = torch.zeros(3, 37, dtype=dtype)
    logits[1, 36] = torch.nan
    assert compute(backend, [logits, torch.zeros_like(logits)]).isnan().tolist() == [False, True, False]


def test_a_row_has_the_same_bits_alone(backend, dtype, random):
    wide = torch.randn(6, 91, generator=random).to(dtype)
    together = compute(backend, [wide[:, :90]], 5.0)
    for row in range(6):
        assert torch.equal(compute(backend, [wide[row : row + 1, :90].contiguous()], 5.0), together[row : row + 1])


def test_empty(backend, dtype):
    assert compute(backend, [torch.empty(0, 8, dtype=dtype)]).shape == (0,)
