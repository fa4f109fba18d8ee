"""Kernels write their outputs and nothing else: a guard band lies after every row and after the last one."""

import dataclasses

import pytest
import torch
from codescaler.kernels import (
    configurations,
    expert_mlp,
    glu,
    pairwise_loss,
    pooled_score,
    qk_norm_rope,
    rms_norm,
    route,
    tree_attention,
)

from codescaler.env import is_triton_interpreted
from codescaler.ops import AttentionSpec, Heads, RotaryTables
from codescaler.ops.plan import plan
from codescaler.ops.triton import make_backend

DEVICE = torch.device("cpu" if is_triton_interpreted() else "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="needs a GPU, or the interpreter: make test-triton"
)

GUARD = 7.0


@pytest.fixture(autouse=True)
def device():
    """Where Triton's kernels run here."""
    with DEVICE:
        yield DEVICE


class Guarded:
    """A tensor inside a larger one that is otherwise full of `GUARD`, and a check that it still is."""

    def __init__(self, *shape, dtype=torch.float32):
        self.whole = torch.full((shape[0] + 2, *(n + 5 for n in shape[1:])), GUARD, dtype=dtype)
        self.inside = self.whole[tuple(slice(n) for n in shape)]

    def assert_kept(self):
        outside = self.whole.clone()
        outside[tuple(slice(n) for n in self.inside.shape)] = GUARD
        assert (outside == GUARD).all()
        assert (self.inside != GUARD).all()


@pytest.mark.parametrize("width", [1, 17, 64])
def test_rms_norm(dtype, random, width):
    x, y, residual = (
        torch.randn(3, width, generator=random).to(dtype),
        Guarded(3, width, dtype=dtype),
        Guarded(3, width),
    )
    residual.inside.zero_()
    rms_norm.rms_norm(x, torch.ones(width), 1e-6, residual.inside, y.inside)
    y.assert_kept()
    residual.assert_kept()


def test_qk_norm_rope(dtype, random):
    qkv, norm = Guarded(3, 5 * 34, dtype=dtype), torch.ones(34)
    qkv.inside.copy_(torch.randn(3, 5 * 34, generator=random))
    v = qkv.inside[:, 4 * 34 :].clone()
    tables = RotaryTables(*torch.rand(2, 3, 17, generator=random))
    qk_norm_rope.qk_norm_rope(qkv.inside, Heads(3, 1, 34), torch.arange(3, dtype=torch.int32), tables, norm, norm, 1e-6)
    qkv.assert_kept()
    assert torch.equal(qkv.inside[:, 4 * 34 :], v)


@pytest.mark.parametrize("width", [1, 17, 1025])
def test_glu(dtype, random, width):
    y = Guarded(3, width, dtype=dtype)
    glu.glu(torch.randn(3, 2 * width, generator=random).to(dtype), y.inside, is_gelu=False)
    y.assert_kept()


def test_route(random):
    logits = torch.randn(3, 19, generator=random)
    results = [torch.full((5, 5), 7, dtype=dtype) for dtype in (torch.int32, torch.float32)]
    route.route(logits, *(result[:3].view(-1)[:15].view(3, 5) for result in results), is_normalised=True)
    for result in results:
        assert (result[3:] == 7).all()
    assert results[1][:3].sum(dim=1).allclose(torch.ones(3))


def test_expert_mlp(dtype, random):
    x, y = torch.randn(9, 40, generator=random).to(dtype), Guarded(9, 40, dtype=dtype)
    gate_up, down = (torch.randn(*size, generator=random).to(dtype) for size in ((4, 34, 40), (4, 40, 17)))
    experts = torch.randint(4, (9, 2), generator=random, dtype=torch.int32)
    tile = configurations.ExpertConfiguration(rows=16, columns=32, step=16, num_warps=4, num_stages=1)
    expert_mlp.expert_mlp(x, experts, torch.full((9, 2), 0.5), gate_up, down, y.inside, tile, is_gelu=False)
    y.assert_kept()


@pytest.mark.parametrize("width", [1, 17, 64])
def test_rms_norm_backward(dtype, random, width):
    z, grad_y, grad_z = torch.randn(9, width, generator=random), torch.ones(9, width, dtype=dtype), Guarded(9, width)
    rms_norm.rms_norm_backward(z, torch.ones(width), 1e-6, grad_y, torch.ones(9, width), grad_z.inside)
    grad_z.assert_kept()


def test_qk_norm_rope_backward(dtype, random):
    before, norm = torch.randn(9, 4 * 34, generator=random).to(dtype), torch.ones(34)
    grad, grad_qkv = torch.randn(9, 5 * 34, generator=random).to(dtype), Guarded(9, 5 * 34, dtype=dtype)
    tables, positions = RotaryTables(*torch.rand(2, 9, 17, generator=random)), torch.arange(9, dtype=torch.int32)
    arguments = (before, Heads(3, 1, 34), positions, tables, norm, norm, 1e-6, grad)
    qk_norm_rope.qk_norm_rope_backward(*arguments, grad_qkv.inside)
    grad_qkv.assert_kept()


@pytest.mark.parametrize("width", [1, 17, 1025])
def test_glu_backward(dtype, random, width):
    grad = Guarded(3, 2 * width, dtype=dtype)
    gate_up = torch.randn(3, 2 * width, generator=random).to(dtype)
    glu.glu_backward(gate_up, torch.ones(3, width, dtype=dtype), grad.inside, is_gelu=False)
    grad.assert_kept()


def test_pooled_score(dtype, random):
    x, residual = torch.randn(4, 33, generator=random).to(dtype), torch.randn(4, 33, generator=random)
    features, scores, norm = Guarded(3, 33), Guarded(3), torch.ones(33)
    rows = torch.tensor([3, 0, 3])
    pooled_score.pooled_score(x, residual, rows, norm, 1e-6, norm[None], None, features.inside, scores.inside)
    features.assert_kept()
    scores.assert_kept()


def test_pairwise_loss(random):
    gradient = Guarded(40)
    scores, labels = torch.randn(40, generator=random), torch.arange(40) % 2 == 0
    pairwise_loss.pairwise_loss(scores, labels, torch.tensor([0, 35, 40]), None, 0.0, gradient.inside)
    gradient.assert_kept()


def test_tree_attention(dtype, random):
    import numpy as np

    from codescaler.ops import Tree

    spec = AttentionSpec(Heads(3, 1, 34), 0.2)
    (batch,) = plan([np.array([1] * 60 + tail, dtype=np.int32) for tail in ([2] * 9, [3] * 70, [])][:2], 10**9)
    tree = Tree.from_batch(batch, DEVICE)
    tile = configurations.AttentionConfiguration(rows=16, key_step=64, num_warps=4, num_stages=1)
    tiles, steps = tree.upload_tiles(tree.all_queries, tile.rows // 3, tile.key_step)
    num_tokens = len(tree.token_ids)
    qkv, out = torch.randn(num_tokens, 5 * 34, generator=random).to(dtype), Guarded(num_tokens, 3 * 34, dtype=dtype)
    tree_attention.tree_attention(qkv, spec, tree.block_tokens, tree.node_blocks, steps, tiles, out.inside, tile)
    out.assert_kept()
    if dtype == torch.float32 and not is_triton_interpreted():
        return  # without tensor cores a row's sum is cut by the tile's rows; there is one tile of float32
    # A narrow tile gives the bits of a wide one of the same key step, which is part of the numbers.
    wide = make_backend(dataclasses.replace(tile, rows=128)).tree_attention(qkv, spec, tree, tree.all_queries)
    assert torch.equal(out.inside, wide)
