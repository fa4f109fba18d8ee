"""The Triton backend: where it runs and where it says why not; under the interpreter, whole forwards and their bits."""

import itertools

import numpy as np
import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.env import is_triton_interpreted
from codescaler.errors import BackendUnavailable
from codescaler.model.decoder import build_decoder
from codescaler.ops import reference, select_backend
from codescaler.testing import (
    assert_accurate,
    make_branching_lists,
    run_forward_lists,
    save_random_checkpoint,
)

interpreted = pytest.mark.skipif(not is_triton_interpreted(), reason="needs Triton's interpreter: make test-triton")
DEVICE = torch.device("cpu" if is_triton_interpreted() else "cuda")
runs = pytest.mark.skipif(
    not is_triton_interpreted() and not torch.cuda.is_available(),
    reason="needs a GPU, or Triton's interpreter: make test-triton",
)
FAMILIES = ["qwen3", "qwen2", "llama", "gemma2"]


@pytest.mark.skipif(is_triton_interpreted(), reason="the interpreter is asked for")
def test_without_a_gpu_it_says_so():
    with pytest.raises(BackendUnavailable, match="run on a GPU; use device='cuda', or set TRITON_INTERPRET=1"):
        select_backend("triton", "cpu")


@interpreted
def test_the_interpreter_takes_the_cpu_and_no_bfloat16(tmp_path):
    with pytest.raises(BackendUnavailable, match="the interpreter runs on device 'cpu', not 'cuda'"):
        select_backend("triton", "cuda")
    save_random_checkpoint(tmp_path, "qwen3", num_hidden_layers=1)
    with pytest.raises(BackendUnavailable, match="bfloat16 in Triton's interpreter"):
        Engine.from_pretrained(tmp_path, device="cpu", backend="triton", dtype="bfloat16")
    engine = Engine.from_pretrained(tmp_path, device="cpu", backend="triton")
    assert engine.backend == "triton"
    assert np.isfinite(engine.score_tokens([[1, 2, 3], [1, 2]])).all()
    assert "torch's linear" in repr(engine)
    assert "deterministic linear" in repr(Engine.from_pretrained(tmp_path, backend="triton", deterministic=True))


def test_a_reference_on_a_gpu_is_not_deterministic():
    assert select_backend("reference", "cpu", deterministic=True) is reference.BACKEND
    with pytest.raises(BackendUnavailable, match="use backend='triton'"):
        select_backend("reference", "cuda", deterministic=True)


def forward(folder, backend, dtype, lists):
    """Features and scores in the order of `lists`."""
    checkpoint = open_checkpoint(folder)
    return run_forward_lists(build_decoder(checkpoint.config, checkpoint.get, backend, dtype, DEVICE), lists)


@runs
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_forward_matches_the_truth(tmp_path, dtype, family):
    save_random_checkpoint(tmp_path, family, num_hidden_layers=2)
    lists = make_branching_lists()
    results = forward(tmp_path, select_backend("triton", DEVICE.type), dtype, lists)
    truths = forward(tmp_path, reference.BACKEND, torch.float64, lists)
    peers = forward(tmp_path, reference.BACKEND, dtype, lists)
    for result, truth, peer in zip(results, truths, peers, strict=True):
        assert_accurate(result, truth, peer)


@runs
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_a_sequence_has_the_same_bits_alone_in_a_batch_and_behind_a_shared_prefix(tmp_path, family):
    save_random_checkpoint(tmp_path, family, num_hidden_layers=2)
    backend = select_backend("triton", DEVICE.type, deterministic=True)
    lists = make_branching_lists()
    together = forward(tmp_path, backend, torch.float32, lists)
    for index, tokens in enumerate(lists):
        alone = forward(tmp_path, backend, torch.float32, [tokens])
        for result, expected in zip(alone, together, strict=True):
            assert torch.equal(result[0], expected[index]), f"sequence {index} of {len(tokens)} tokens"
    unshared = forward(tmp_path, backend, torch.float32, [lists[3], np.array([7] * 30, dtype=np.int32)])
    assert torch.equal(unshared[1][0], together[1][3])


@runs
def test_the_gradient_of_the_loss_is_autograds():
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(100, generator=random, dtype=torch.float64).requires_grad_()
    labels, offsets = torch.rand(100, generator=random) < 0.5, torch.tensor([0, 3, 70, 100])
    margins = torch.rand(3, generator=random)
    losses = []
    for g, (start, end) in enumerate(itertools.pairwise(offsets)):
        group, right = scores[start:end], labels[start:end]
        i, j = group[right].unsqueeze(1), group[~right].unsqueeze(0)
        if i.numel() and j.numel():
            pairs = torch.nn.functional.softplus(j - i + margins[g].double()) + 0.01 * (i + j) ** 2
            losses.append(pairs.mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    inputs = (tensor.to(DEVICE) for tensor in (scores, labels, offsets, margins))
    result = select_backend("triton", DEVICE.type).pairwise_loss(*inputs, 0.01)
    assert_accurate(result[0].cpu(), loss.detach(), loss.detach())
    assert_accurate(result[1].cpu(), scores.grad, scores.grad)
