import pytest
import torch

from codescaler.model.rope import build_rope_tables
from codescaler.ops import Heads, reference
from codescaler.testing import assert_accurate
from codescaler.types import RopeConfig

EPS = 1e-6
# Heads that fill a program of 16, that leave some of it free, and that need several.
HEADS = [Heads(1, 1, 2), Heads(3, 1, 34), Heads(8, 4, 64), Heads(16, 8, 128)]


def make_arguments(heads, num_tokens, has_norm, dtype, random, device):
    """Everything that the gradient takes."""
    positions = torch.randperm(num_tokens, generator=random, device=device).int()
    rotary = build_rope_tables(RopeConfig(10_000.0), heads.head_dim, max(num_tokens, 1), device)
    before = torch.randn(num_tokens, heads.q_width + heads.kv_width, generator=random).to(dtype)
    norms = [torch.rand(heads.head_dim, generator=random) + 0.5 for _ in range(2)]
    grad = torch.randn(num_tokens, heads.qkv_width, generator=random).to(dtype)
    return before if has_norm else None, heads, positions, rotary, *(norms if has_norm else (None, None)), EPS, grad


def upcast(arguments):
    return [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments]


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("heads, num_tokens", [*((heads, 9) for heads in HEADS), (HEADS[1], 1), (HEADS[2], 33)])
def test_matches_the_truth(backend, dtype, random, device, heads, num_tokens, has_norm):
    arguments = make_arguments(heads, num_tokens, has_norm, dtype, random, device)
    results = backend.qk_norm_rope_backward(*arguments)
    truths = reference.BACKEND.qk_norm_rope_backward(*upcast(arguments))
    peers = reference.BACKEND.qk_norm_rope_backward(*arguments)
    for result, truth, peer in zip(results, truths, peers, strict=True):
        if truth is None:
            assert result is None and not has_norm
            continue
        scale = truth.abs().mean()  # terms of both signs cancel: their errors count against their size
        assert_accurate((result + scale).to(result.dtype), truth + scale, (peer + scale).to(peer.dtype))


def test_values_pass_and_the_gradient_given_stays(kernels, dtype, random, device):
    heads = HEADS[2]
    arguments = make_arguments(heads, 9, True, dtype, random, device)
    given = arguments[-1].clone()
    grad, *_ = kernels.qk_norm_rope_backward(*arguments)
    assert torch.equal(arguments[-1], given)
    assert torch.equal(grad[:, -heads.kv_width :], given[:, -heads.kv_width :])


def test_rows_may_lie_apart_and_runs_have_the_same_bits(kernels, dtype, random, device):
    before, *others, grad = make_arguments(HEADS[2], 33, True, dtype, random, device)
    before_apart, grad_apart = (torch.zeros(33, x.shape[1] + 8, dtype=dtype)[:, : x.shape[1]] for x in (before, grad))
    before_apart.copy_(before)
    grad_apart.copy_(grad)
    first = kernels.qk_norm_rope_backward(before, *others, grad)
    second = kernels.qk_norm_rope_backward(before_apart, *others, grad_apart)
    assert all(map(torch.equal, first, second))


def test_empty(backend, dtype, random, device):
    grad, *grad_norms = backend.qk_norm_rope_backward(*make_arguments(HEADS[1], 0, True, dtype, random, device))
    assert grad.shape == (0, HEADS[1].qkv_width)
    assert all(torch.equal(grad_norm, torch.zeros(34)) for grad_norm in grad_norms)
