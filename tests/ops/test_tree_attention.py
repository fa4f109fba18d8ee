import functools
import itertools

import numpy as np
import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import Heads, Tree, reference
from codescaler.plan import plan
from codescaler.testing import BRANCHES, assert_accurate, random_qkv, random_tree

HEADS = [Heads(1, 1, 2), Heads(3, 3, 34), Heads(4, 2, 64), Heads(14, 2, 64), Heads(8, 1, 128), Heads(2, 1, 256)]
OPTIONS = [(None, None), (5.0, None), (None, 1), (None, 50), (2.0, 260)]  # soft-cap and window
CASES = list(itertools.product(HEADS, OPTIONS))
if is_triton_interpreted():  # minutes, were it all of them
    CASES = list(zip(HEADS, itertools.cycle(OPTIONS), strict=False))


@functools.cache  # one truth for all backends of a device: float64 is the slow part
def truth_and_peer(heads, dtype, softcap, window, device):
    tree = random_tree(BRANCHES)
    qkv = random_qkv(tree, heads, dtype, torch.Generator(device).manual_seed(0))
    arguments = (heads, tree, tree.all_queries, heads.head_dim**-0.5, softcap, window)
    return qkv, reference.tree_attention(qkv.double(), *arguments), reference.tree_attention(qkv, *arguments)


@pytest.mark.parametrize("heads, options", CASES, ids=str)
def test_matches_the_truth(backend, dtype, device, heads, options):
    softcap, window = options
    tree = random_tree(BRANCHES)
    qkv, truth, peer = truth_and_peer(heads, dtype, softcap, window, device)
    arguments = (heads.head_dim**-0.5, softcap, window)
    out = backend.tree_attention(qkv, heads, tree, tree.all_queries, *arguments)
    assert_accurate(out, truth, peer)
    last = backend.tree_attention(qkv, heads, tree, tree.last_queries, *arguments)
    assert_accurate(last, truth[tree.last_tokens], peer[tree.last_tokens])


def test_the_reference_is_attention_along_a_path(random):
    """The truth itself, against torch's own attention, one sequence at a time."""
    heads = Heads(4, 2, 16)
    tree = random_tree(BRANCHES)
    qkv = random_qkv(tree, heads, torch.float64, random)
    out = reference.tree_attention(qkv, heads, tree, tree.all_queries, 0.25)
    for node, _, _, row in tree.last_queries.tolist():
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
        assert row < len(tree.last_tokens)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["q", "k", "v"])
@pytest.mark.parametrize("window", [None, 40])
def test_nan_and_infinity_reach_who_sees_them_and_no_one_else(backend, dtype, random, value, part, window):
    heads = Heads(2, 1, 64)
    tree = random_tree(BRANCHES[:1])
    clean = random_qkv(tree, heads, dtype, random)
    dirty = clean.clone()
    column = {"q": 3, "k": heads.q_width + 3, "v": heads.q_width + heads.kv_width + 3}[part]
    token = 170  # inside the first prompt's branches
    dirty[token, column] = value
    arguments = (heads, tree, tree.all_queries, 0.125, None, window)

    before, after = (backend.tree_attention(x, *arguments) for x in (clean, dirty))
    truth = reference.tree_attention(dirty.double(), *arguments)

    is_touched = (reference.tree_attention(clean.double(), *arguments) != truth).any(dim=1)
    assert is_touched.any()
    assert torch.equal(after.isnan(), truth.isnan())
    assert torch.equal(after[~is_touched], before[~is_touched])


def test_rows_may_lie_apart(backend, dtype, random):
    heads, tree = Heads(4, 2, 64), random_tree(BRANCHES)
    qkv = random_qkv(tree, heads, dtype, random)
    apart = torch.zeros(len(qkv), qkv.shape[1] + 24, dtype=dtype)[:, : qkv.shape[1]]
    apart.copy_(qkv)
    arguments = (heads, tree, tree.all_queries, 0.125)
    assert torch.equal(backend.tree_attention(apart, *arguments), backend.tree_attention(qkv, *arguments))


@pytest.mark.parametrize("softcap, window", [(None, None), (5.0, 70)])
def test_bits_do_not_depend_on_tree_tiles_or_threads(kernels, dtype, random, device, softcap, window):
    heads, tree = Heads(4, 2, 64), random_tree(BRANCHES)
    qkv = random_qkv(tree, heads, dtype, random)
    together = kernels.tree_attention(qkv, heads, tree, tree.all_queries, 0.125, softcap, window)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = kernels.tree_attention(qkv, heads, tree, tree.all_queries, 0.125, softcap, window)
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(together, single)
    last = kernels.tree_attention(qkv, heads, tree, tree.last_queries, 0.125, softcap, window)
    assert torch.equal(together[tree.last_tokens], last)
    for node, *_ in tree.last_queries.tolist():
        blocks = tree.node_blocks[tree.node_block_offsets[node] : tree.node_block_offsets[node + 1]].long()
        path = tree.block_tokens[blocks].flatten().long()
        path = path[path >= 0]
        (batch,) = plan([np.arange(len(path), dtype=np.int32)], 10**9)
        alone = Tree.from_batch(batch, device)
        out = kernels.tree_attention(qkv[path].contiguous(), heads, alone, alone.all_queries, 0.125, softcap, window)
        assert torch.equal(out, together[path])


@pytest.mark.parametrize("name, index, value", [("node", 0, 99), ("token", 1, 10**6), ("output", 3, -1)])
def test_queries_outside_the_tree_are_refused(random, name, index, value):
    from codescaler.ops import cpu

    heads, tree = Heads(1, 1, 2), random_tree([(3, (1, 2))])
    queries = tree.all_queries.clone()
    queries[0, index] = value
    with pytest.raises(ValueError, match="queries holds a run outside"):
        cpu.make_backend().tree_attention(random_qkv(tree, heads, torch.float32, random), heads, tree, queries, 1.0)
