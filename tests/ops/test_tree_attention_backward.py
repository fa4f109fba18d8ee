import functools
import itertools

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import AttentionSpec, Heads, reference
from codescaler.testing import BRANCHES, assert_accurate, make_random_qkv, make_random_tree

HEADS = [Heads(1, 1, 2), Heads(3, 3, 34), Heads(4, 2, 64), Heads(8, 1, 128), Heads(2, 1, 256)]
OPTIONS = [(None, None), (5.0, None), (None, 1), (None, 50), (2.0, 260)]  # soft-cap and window
CASES = list(zip(HEADS, OPTIONS, strict=True))
if not is_triton_interpreted():  # minutes, were it all of them
    CASES += itertools.product([Heads(9, 3, 64)], OPTIONS)


@functools.cache  # one truth for all backends of a device: float64 is the slow part
def truth_and_peer(heads, dtype, softcap, window, is_last, device):
    tree, random = make_random_tree(BRANCHES), torch.Generator(device).manual_seed(0)
    qkv = make_random_qkv(tree, heads, dtype, random)
    queries = tree.read_queries if is_last else tree.all_queries
    grad_out = torch.randn(int(queries[:, 2].sum()), heads.q_width, generator=random, device=device).to(dtype)

    def gradient(qkv, grad_out):
        spec = AttentionSpec(heads, heads.head_dim**-0.5, softcap, window)
        return reference.tree_attention_backward(qkv, spec, tree, queries, grad_out)

    # Terms of both signs cancel, and their errors count against their sizes, which are known for gradients of values:
    # these add `grad_out` times weights that are not negative.
    sizes = gradient(qkv.float(), grad_out.float().abs())[:, -heads.kv_width :]
    truth = gradient(qkv.double(), grad_out.double())
    scale = torch.maximum(truth.abs().max(), sizes.max())
    return tree, queries, qkv, grad_out, truth, gradient(qkv, grad_out), scale


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("heads, options", CASES, ids=str)
def test_matches_the_truth(backend, dtype, device, heads, options, is_last):
    softcap, window = options
    tree, queries, qkv, grad_out, truth, peer, scale = truth_and_peer(heads, dtype, softcap, window, is_last, device)
    spec = AttentionSpec(heads, heads.head_dim**-0.5, softcap, window)
    grad = backend.tree_attention_backward(qkv, spec, tree, queries, grad_out)
    # Weights are computed again, from logits less the logarithm of their sum: where they are large, so is its rounding.
    q, k, _ = qkv.float().split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
    norms = [x.reshape(-1, heads.head_dim).norm(dim=1).max() for x in (q, k)]
    slack = torch.finfo(torch.float32).eps * norms[0] * norms[1] * spec.scale * scale
    result, expected = (grad + scale).to(grad.dtype), (peer + scale).to(peer.dtype)
    assert_accurate(
        result, truth + scale, expected, slack if backend.name == "triton" and not is_triton_interpreted() else 0.0
    )


@pytest.mark.skipif(is_triton_interpreted(), reason="the interpreter has one thread")
@pytest.mark.parametrize("softcap, window", [(None, None), (5.0, 70)])
def test_bits_do_not_depend_on_threads(kernels, dtype, random, softcap, window):
    heads, tree = Heads(4, 2, 64), make_random_tree(BRANCHES)
    qkv = make_random_qkv(tree, heads, dtype, random)
    arguments = (qkv, AttentionSpec(heads, 0.125, softcap, window), tree, tree.all_queries)
    grad_out = torch.randn(len(qkv), heads.q_width, generator=random).to(dtype)
    many = kernels.tree_attention_backward(*arguments, grad_out)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = kernels.tree_attention_backward(*arguments, grad_out)
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(many, one)


def test_rows_may_lie_apart(kernels, dtype, random):
    heads, tree = Heads(4, 2, 64), make_random_tree(BRANCHES)
    qkv = make_random_qkv(tree, heads, dtype, random)
    apart = torch.zeros(len(qkv), qkv.shape[1] + 24, dtype=dtype)[:, : qkv.shape[1]]
    apart.copy_(qkv)
    arguments = (AttentionSpec(heads, 0.125), tree, tree.all_queries)
    grad_out = torch.randn(len(qkv), heads.q_width, generator=random).to(dtype)
    grads = [kernels.tree_attention_backward(x, *arguments, grad_out) for x in (qkv, apart)]
    assert torch.equal(*grads)


def test_the_forward_that_was_kept_gives_the_bits_of_the_one_computed_again(kernels, dtype, random):
    heads, tree = Heads(6, 2, 32), make_random_tree(BRANCHES[1:])
    qkv = make_random_qkv(tree, heads, dtype, random)
    arguments = (qkv, AttentionSpec(heads, 0.2, 5.0), tree, tree.read_queries)
    grad_out = torch.randn(len(tree.read_tokens), heads.q_width, generator=random).to(dtype)
    out, more = kernels.attend_for_gradient(*arguments)
    assert torch.equal(out, kernels.tree_attention(*arguments))
    kept = kernels.tree_attention_backward(*arguments, grad_out, None if more is None else (out, more))
    assert torch.equal(kept, kernels.tree_attention_backward(*arguments, grad_out))


def test_gradients_of_too_few_queries_are_refused(random):
    from codescaler.ops import cpu

    heads, tree = Heads(1, 1, 2), make_random_tree([(3, (1, 2))])
    qkv = make_random_qkv(tree, heads, torch.float32, random)
    with pytest.raises(ValueError, match="out has size 5 in dimension 0, not 6"):
        cpu.make_backend().tree_attention_backward(
            qkv, AttentionSpec(heads, 1.0), tree, tree.all_queries, torch.ones(len(qkv) - 1, 2)
        )
