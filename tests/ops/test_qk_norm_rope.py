import pytest
import torch

from codescaler.model.rope import build_rope_tables
from codescaler.ops import Heads, RotaryTables, reference
from codescaler.testing import assert_accurate
from codescaler.types import RopeConfig

EPS = 1e-6


def tables(head_dim):
    return build_rope_tables(RopeConfig(theta=10_000.0), head_dim, 300, torch.get_default_device())


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize(
    "heads", [Heads(2, 1, 2), Heads(3, 3, 34), Heads(4, 2, 64), Heads(14, 2, 64), Heads(2, 1, 256)], ids=str
)
def test_matches_the_truth(backend, dtype, random, heads, has_norm):
    qkv = torch.randn(7, heads.qkv_width, generator=random).to(dtype)
    positions = torch.tensor([0, 1, 2, 299, 17, 17, 128], dtype=torch.int32)
    norms = torch.rand(2, heads.head_dim, generator=random) + 0.5 if has_norm else (None, None)
    results = []
    for run, wide in ((backend, torch.float32), (reference, torch.float32), (reference, torch.float64)):
        x = qkv.to(torch.float64 if wide is torch.float64 else dtype, copy=True)
        weights = [None if norm is None else norm.to(wide) for norm in norms]
        rotary = RotaryTables(*(table.to(wide) for table in tables(heads.head_dim)))
        run.qk_norm_rope(x, heads, positions, rotary, *weights, EPS)
        results.append(x)
    mine, peer, truth = results
    assert_accurate(mine, truth, peer)
    v = slice(heads.q_width + heads.kv_width, None)
    assert torch.equal(mine[:, v], qkv[:, v])


def test_nan_stays_in_its_head(backend, dtype):
    heads = Heads(2, 1, 16)
    qkv = torch.ones(3, 64, dtype=dtype)
    qkv[1, 20] = torch.nan  # the second query head
    backend.qk_norm_rope(
        qkv, heads, torch.arange(3, dtype=torch.int32), tables(16), torch.ones(16), torch.ones(16), EPS
    )
    is_nan = qkv.isnan()
    assert is_nan[1, 16:32].all()
    assert is_nan.sum() == 16


def test_rows_may_lie_apart(backend, dtype, random):
    heads, positions = Heads(2, 1, 16), torch.arange(4, dtype=torch.int32)
    wide = torch.randn(4, 100, generator=random).to(dtype)
    dense, outside = wide[:, :64].contiguous(), wide[:, 64:].clone()
    backend.qk_norm_rope(wide[:, :64], heads, positions, tables(16))
    backend.qk_norm_rope(dense, heads, positions, tables(16))
    assert torch.equal(wide[:, :64], dense)
    assert torch.equal(wide[:, 64:], outside)


def test_empty(backend, dtype):
    backend.qk_norm_rope(
        torch.empty(0, 64, dtype=dtype), Heads(2, 1, 16), torch.empty(0, dtype=torch.int32), tables(16)
    )
