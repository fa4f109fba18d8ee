import functools
import itertools

import numpy as np
import pytest
import torch

from codescaler import _C
from codescaler.env import is_triton_interpreted
from codescaler.ops import AttentionSpec, Heads, Tree, cpu, reference
from codescaler.ops.plan import plan
from codescaler.testing import BRANCHES, assert_accurate, make_random_qkv, make_random_tree

HEADS = [Heads(1, 1, 2), Heads(3, 3, 34), Heads(4, 2, 64), Heads(14, 2, 64), Heads(8, 1, 128), Heads(2, 1, 256)]
OPTIONS = [(None, None), (5.0, None), (None, 1), (None, 50), (2.0, 260)]  # soft-cap and window
CASES = list(itertools.product(HEADS, OPTIONS))
if is_triton_interpreted():  # minutes, were it all of them
    CASES = list(zip(HEADS, itertools.cycle(OPTIONS), strict=False))


@functools.cache  # one truth for all backends of a device: float64 is the slow part
def truth_and_peer(heads, dtype, softcap, window, device):
    tree = make_random_tree(BRANCHES)
    qkv = make_random_qkv(tree, heads, dtype, torch.Generator(device).manual_seed(0))
    arguments = (AttentionSpec(heads, heads.head_dim**-0.5, softcap, window), tree, tree.all_queries)
    return qkv, reference.tree_attention(qkv.double(), *arguments), reference.tree_attention(qkv, *arguments)


@pytest.mark.parametrize("heads, options", CASES, ids=str)
def test_matches_the_truth(backend, dtype, device, heads, options):
    softcap, window = options
    tree = make_random_tree(BRANCHES)
    qkv, truth, peer = truth_and_peer(heads, dtype, softcap, window, device)
    spec = AttentionSpec(heads, heads.head_dim**-0.5, softcap, window)
    out = backend.tree_attention(qkv, spec, tree, tree.all_queries)
    assert_accurate(out, truth, peer)
    last = backend.tree_attention(qkv, spec, tree, tree.read_queries)
    assert_accurate(last, truth[tree.read_tokens], peer[tree.read_tokens])


def test_the_reference_is_attention_along_a_path(random):
    """The truth itself, against torch's own attention, one sequence at a time."""
    heads = Heads(4, 2, 16)
    tree = make_random_tree(BRANCHES)
    qkv = make_random_qkv(tree, heads, torch.float64, random)
    out = reference.tree_attention(qkv, AttentionSpec(heads, 0.25), tree, tree.all_queries)
    for node, _, _, row in tree.read_queries.tolist():
        blocks = tree.node_blocks[tree.node_block_offsets[node] : tree.node_block_offsets[node + 1]].long()
        path = tree.block_tokens[blocks].flatten().long()
        path = path[path >= 0]
        q, k, v = (
            part.unflatten(1, (-1, 16)).transpose(0, 1)
            for part in qkv[path].split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
        )
        k, v = (x.repeat_interleave(2, dim=0) for x in (k, v))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25)
        assert torch.allclose(out[path], expected.transpose(0, 1).flatten(1), rtol=1e-12)
        assert row < len(tree.read_tokens)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["q", "k", "v"])
@pytest.mark.parametrize("window", [None, 40])
def test_nan_and_infinity_reach_who_sees_them_and_no_one_else(backend, dtype, random, value, part, window):
    heads = Heads(2, 1, 64)
    tree = make_random_tree(BRANCHES[:1])
    clean = make_random_qkv(tree, heads, dtype, random)
    dirty = clean.clone()
    column = {"q": 3, "k": heads.q_width + 3, "v": heads.q_width + heads.kv_width + 3}[part]
    token = 170  # inside the first prompt's branches
    dirty[token, column] = value
    arguments = (AttentionSpec(heads, 0.125, window=window), tree, tree.all_queries)

    before, after = (backend.tree_attention(x, *arguments) for x in (clean, dirty))
    truth = reference.tree_attention(dirty.double(), *arguments)

    is_touched = (reference.tree_attention(clean.double(), *arguments) != truth).any(dim=1)
    assert is_touched.any()
    assert torch.equal(after.isnan(), truth.isnan())
    assert torch.equal(after[~is_touched], before[~is_touched])


def test_rows_may_lie_apart(backend, dtype, random):
    heads, tree = Heads(4, 2, 64), make_random_tree(BRANCHES)
    qkv = make_random_qkv(tree, heads, dtype, random)
    apart = torch.zeros(len(qkv), qkv.shape[1] + 24, dtype=dtype)[:, : qkv.shape[1]]
    apart.copy_(qkv)
    arguments = (AttentionSpec(heads, 0.125), tree, tree.all_queries)
    assert torch.equal(backend.tree_attention(apart, *arguments), backend.tree_attention(qkv, *arguments))


@pytest.mark.parametrize("softcap, window", [(None, None), (5.0, 70)])
def test_bits_do_not_depend_on_tree_tiles_or_threads(kernels, dtype, random, device, softcap, window):
    heads, tree = Heads(4, 2, 64), make_random_tree(BRANCHES)
    qkv = make_random_qkv(tree, heads, dtype, random)
    spec = AttentionSpec(heads, 0.125, softcap, window)
    together = kernels.tree_attention(qkv, spec, tree, tree.all_queries)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = kernels.tree_attention(qkv, spec, tree, tree.all_queries)
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(together, single)
    last = kernels.tree_attention(qkv, spec, tree, tree.read_queries)
    assert torch.equal(together[tree.read_tokens], last)
    for node, *_ in tree.read_queries.tolist():
        blocks = tree.node_blocks[tree.node_block_offsets[node] : tree.node_block_offsets[node + 1]].long()
        path = tree.block_tokens[blocks].flatten().long()
        path = path[path >= 0]
        (batch,) = plan([np.arange(len(path), dtype=np.int32)], 10**9)
        alone = Tree.from_batch(batch, device)
        out = kernels.tree_attention(qkv[path].contiguous(), spec, alone, alone.all_queries)
        assert torch.equal(out, together[path])


def plan_arguments():
    """What a checked plan of a small tree is made of."""
    tree = make_random_tree([(3, (1, 2))])
    tiles = tree.batch.plan_tiles(tree.batch.all_queries, 8, is_padded=False)
    return {
        "num_tokens": len(tree.token_ids),
        "block_tokens": tree.block_tokens.clone(),
        "node_blocks": tree.node_blocks.clone(),
        "tiles": torch.from_numpy(tiles),
    }


@pytest.mark.parametrize(
    "field, index, value, message",
    [
        ("block_tokens", (0, 0), 6, "block_tokens holds a token that is none of 6"),
        ("node_blocks", 0, 99, "node_blocks holds a value outside"),
        ("node_blocks", 0, -1, "node_blocks holds a value outside"),
        ("tiles", (0, 0), 10**6, "a tile outside the tree, row 0"),
        ("tiles", (0, 1), 10**6, "a tile outside the tree, row 0"),
        ("tiles", (1, 2), 0, "a tile outside the tree, row 1"),
        ("tiles", (0, 3), -1, "a tile outside the tree, row 0"),
        ("tiles", (0, 4), 2**31 - 1, "a tile outside the tree, row 0"),
    ],
)
def test_a_plan_outside_the_tree_is_refused(field, index, value, message):
    arguments = plan_arguments()
    arguments[field][index] = value
    with pytest.raises(ValueError, match=message):
        _C.AttentionPlan(*arguments.values())


def test_a_plan_is_checked_once_and_cannot_be_changed_afterwards(random):
    sources = plan_arguments()
    checked, kernels = _C.AttentionPlan(*sources.values()), _C.KernelSet("generic")
    qkv, spec = torch.randn(6, 6, generator=random), AttentionSpec(Heads(1, 1, 2), 1.0)
    before, after = torch.zeros(6, 2), torch.zeros(6, 2)
    kernels.tree_attention(qkv, spec, checked, before, 1)
    for name in ("block_tokens", "node_blocks", "tiles"):
        sources[name].fill_(2**30)
    kernels.tree_attention(qkv, spec, checked, after, 1)
    assert torch.equal(before, after)
    assert before.any()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        kernels.tree_attention(qkv, spec, object(), after, 1)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"qkv": torch.zeros(5, 6)}, "qkv has size 5 in dimension 0, not 6"),
        ({"out": torch.zeros(5, 2)}, "out has size 5 in dimension 0, not 6"),
        ({"spec": AttentionSpec(Heads(3, 2, 2), 1.0)}, "not a multiple of num_kv_heads"),
        ({"spec": AttentionSpec(Heads(1, 1, 3), 1.0)}, "head_dim is odd, 3"),
        ({"spec": AttentionSpec(Heads(-1, 1, 2), 1.0)}, "num_heads is -1"),
        ({"spec": AttentionSpec(Heads(1, 1, 2), 1.0, window=0)}, "window is 0"),
        (
            {"spec": AttentionSpec(Heads(96, 1, 2), 1.0), "qkv": torch.zeros(6, 196), "out": torch.zeros(6, 192)},
            "tiles",
        ),
    ],
)
def test_a_plan_for_other_tensors_is_refused(changed, message):
    arguments = {"qkv": torch.zeros(6, 6), "spec": AttentionSpec(Heads(1, 1, 2), 1.0)}
    arguments |= {"plan": _C.AttentionPlan(*plan_arguments().values()), "out": torch.zeros(6, 2)} | changed
    with pytest.raises(ValueError, match=message):
        _C.KernelSet("generic").tree_attention(*(arguments[name] for name in ("qkv", "spec", "plan", "out")), 1)


def test_a_plan_is_made_once_for_every_layer(random, monkeypatch):
    tree, spec = make_random_tree(BRANCHES), AttentionSpec(Heads(4, 2, 64), 0.125)
    qkv, backend = make_random_qkv(tree, spec.heads, torch.float32, random), cpu.make_backend()
    first = backend.tree_attention(qkv, spec, tree, tree.all_queries)
    monkeypatch.setattr(type(tree.batch), "plan_tiles", None)
    assert torch.equal(backend.tree_attention(qkv, spec, tree, tree.all_queries), first)
