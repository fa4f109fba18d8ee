"""Gradients of every operation in float64, against finite differences."""

import pytest
import torch

from codescaler.model.rope import build_rope_tables
from codescaler.ops import AttentionSpec, Heads, LinearWeights, reference
from codescaler.ops.autograd import make_differentiable
from codescaler.testing import make_random_tree
from codescaler.types import RopeConfig

BACKEND = make_differentiable(reference.BACKEND)  # the only backend that computes in float64
HEADS = Heads(2, 1, 4)
TREE = make_random_tree([(2, (1, 2))])
EPS = 1e-6


def leaf(*shape, random):
    return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("has_residual", [False, True])
def test_rms_norm(random, has_residual):
    x, weight, residual = (leaf(*shape, random=random) for shape in ((3, 5), (5,), (3, 5)))

    def norm(x, weight, residual):
        if not has_residual:
            return BACKEND.rms_norm(x, weight, EPS)
        z = residual.clone()
        y = BACKEND.rms_norm(x, weight, EPS, z)
        return y, z  # z is updated in place, and carries gradients

    assert torch.autograd.gradcheck(norm, (x, weight, residual) if has_residual else (x, weight, residual.detach()))


def test_a_residual_that_is_updated_twice_has_the_gradients_of_both(random):
    x, weight, residual = (leaf(*shape, random=random) for shape in ((3, 5), (5,), (3, 5)))

    def block(x, weight, residual):
        z = residual.clone()
        y = BACKEND.rms_norm(x, weight, EPS, z)
        return BACKEND.rms_norm(y * y, weight, EPS, z) + z

    assert torch.autograd.gradcheck(block, (x, weight, residual))


@pytest.mark.parametrize("has_norm", [False, True])
def test_qk_norm_rope(random, has_norm):
    shapes = ((len(TREE.positions), HEADS.qkv_width), (4,), (4,))
    qkv, q_norm, k_norm = (leaf(*shape, random=random) for shape in shapes)
    rotary = build_rope_tables(RopeConfig(10.0), 4, TREE.num_positions, torch.device("cpu"))

    def rotate(qkv, q_norm, k_norm):
        out = qkv.clone()
        norms = (q_norm, k_norm, EPS) if has_norm else ()
        BACKEND.qk_norm_rope(out, HEADS, TREE.positions, rotary, *norms)
        return out

    inputs = (qkv, q_norm, k_norm) if has_norm else (qkv, q_norm.detach(), k_norm.detach())
    assert torch.autograd.gradcheck(rotate, inputs)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_glu(random, activation):
    gate_up = leaf(3, 8, random=random)
    assert torch.autograd.gradcheck(lambda x: BACKEND.glu(x, activation), (gate_up,))


@pytest.mark.parametrize("queries", [TREE.all_queries, TREE.read_queries], ids=["all", "last"])
@pytest.mark.parametrize("softcap, window", [(None, None), (2.0, 3)])
def test_tree_attention(random, queries, softcap, window):
    qkv = leaf(len(TREE.positions), HEADS.qkv_width, random=random)
    spec = AttentionSpec(HEADS, 0.5, softcap, window)
    assert torch.autograd.gradcheck(lambda x: BACKEND.tree_attention(x, spec, TREE, queries), (qkv,))


def test_pooled_score(random):
    x, residual, norm, head, bias = (leaf(*shape, random=random) for shape in ((3, 5), (3, 5), (5,), (1, 5), (1,)))
    rows = torch.tensor([2, 0, 0])
    assert torch.autograd.gradcheck(
        lambda x, residual, norm, head, bias: BACKEND.pooled_score(x, residual, rows, norm, EPS, head, bias),
        (x, residual, norm, head, bias),
    )


def test_linear(random):
    x, weight, bias = (leaf(*shape, random=random) for shape in ((3, 5), (4, 5), (4,)))
    module = BACKEND.pack_linear(LinearWeights(weight.detach(), bias.detach()))
    names = ("weight", "bias")
    assert torch.autograd.gradcheck(
        lambda x, *parameters: torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,)),
        (x, weight, bias),
    )


@pytest.mark.parametrize("margins", [None, torch.tensor([0.5, -1.0])])
def test_pairwise_loss(random, margins):
    scores = leaf(7, random=random)
    labels = torch.tensor([True, False, False, True, True, False, True])
    offsets = torch.tensor([0, 3, 7])
    assert torch.autograd.gradcheck(lambda s: BACKEND.pairwise_loss(s, labels, offsets, margins, 0.1)[0], (scores,))
