"""The Triton backend: where it runs and where it says why not; under the interpreter, whole forwards and their bits."""

import functools
import itertools
import json

import numpy as np
import pytest
import torch
from codescaler.kernels.configurations import AttentionConfiguration

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.env import is_triton_interpreted
from codescaler.errors import BackendUnavailable
from codescaler.model.decoder import build_decoder
from codescaler.ops import AttentionSpec, Heads, Tree, reference, select_backend
from codescaler.ops.plan import plan
from codescaler.ops.triton import make_backend
from codescaler.testing import (
    assert_accurate,
    make_branching_lists,
    make_random_qkv,
    make_random_tree,
    run_forward_lists,
    save_chat,
    save_random_checkpoint,
)
from codescaler.train import trainer
from codescaler.train.config import TrainConfig
from codescaler.train.model import build_model

interpreted = pytest.mark.skipif(not is_triton_interpreted(), reason="needs Triton's interpreter: make test-triton")
DEVICE = torch.device("cpu" if is_triton_interpreted() else "cuda")
runs = pytest.mark.skipif(
    not is_triton_interpreted() and not torch.cuda.is_available(),
    reason="needs a GPU, or Triton's interpreter: make test-triton",
)
FAMILIES = [
    "qwen3",
    "gemma2",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_moe", "qwen2", "llama")),
]


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
@pytest.mark.parametrize("family", ["qwen3", pytest.param("gemma2", marks=pytest.mark.slow)])
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


def compute_gradients(folder, backend, dtype, lists, is_checkpointed):
    """Loss of a pair in every two lists, and the gradient of each tensor that learns."""
    config = TrainConfig(gradient_checkpointing=is_checkpointed)
    model = build_model(open_checkpoint(folder), backend, config, dtype, DEVICE)
    (batch,) = plan(lists, 10**9)
    labels = torch.arange(len(lists), device=DEVICE) % 2 == 0
    offsets = torch.tensor([0, len(lists)], device=DEVICE)
    loss, _ = model.backend.pairwise_loss(model(Tree.from_batch(batch, DEVICE))[-1], labels, offsets, None, 0.1)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.get_trainable_parameters().items()}


@runs
@pytest.mark.parametrize("family, is_checkpointed", [("qwen3", False), ("gemma2", True)])
def test_loss_and_gradients_of_a_model_match_the_truth(tmp_path, dtype, family, is_checkpointed):
    save_random_checkpoint(tmp_path, family, num_hidden_layers=2)
    lists = make_branching_lists()
    loss, gradients = compute_gradients(tmp_path, select_backend("triton", DEVICE.type), dtype, lists, is_checkpointed)
    true_loss, truths = compute_gradients(tmp_path, reference.BACKEND, torch.float32, lists, False)
    _, peers = compute_gradients(tmp_path, reference.BACKEND, dtype, lists, False)
    assert torch.allclose(loss, true_loss, rtol=1e-5 if dtype == torch.float32 else 1e-2)
    for name, truth in truths.items():
        assert gradients[name].dtype == torch.float32
        if dtype == torch.float32:  # float32 noise: a thousandth of a percent of the tensor's largest gradient
            assert (gradients[name] - truth).abs().max() <= 1e-5 * truth.abs().max() + 1e-9, name
    if dtype != torch.float32:  # all tensors together, since a small one's peer may be right by chance
        scales = {name: truth.abs().max() for name, truth in truths.items()}
        assert not any(gradients[name].any() for name, scale in scales.items() if scale == 0)
        together = (
            torch.cat([1.0 + tensors[name].ravel() / scale for name, scale in scales.items() if scale > 0])
            for tensors in (gradients, truths, peers)
        )
        assert_accurate(*together)


@runs
def test_a_training_run_has_the_losses_of_the_cpu(tmp_path, monkeypatch):
    save_random_checkpoint(tmp_path / "model", "qwen3", "CausalLM", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path / "model")
    programs = [("return a + b", True), ("return a - b", False), ("return b + a", True)]
    groups = [
        {"task_id": f"t/{n}", "prompt": f"Add {n}.", "candidates": [{"code": c, "passed": p} for c, p in programs]}
        for n in range(2)
    ]
    config = TrainConfig(learning_rate=1e-3, max_steps=2, dtype="float32", step_tokens=50)
    losses = []
    for name, device in (("cpu", "cpu"), ("triton", DEVICE.type)):
        select = functools.partial(select_backend, name, device)
        monkeypatch.setattr(trainer, "select_backend", lambda *_, select=select: select())
        trainer.fit(tmp_path / "model", groups, tmp_path / name, config, device=device)
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line["kind"] == "step"])
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-4)


@runs
@pytest.mark.parametrize("window", [None, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("key_step", [32, 64, pytest.param(128, marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_how_keys_are_read(key_step, window):
    """With values of NaN and infinity too: a tile that meets them is computed again."""
    spec = AttentionSpec(Heads(2, 1, 32), 0.2, window=window)
    with DEVICE:
        tree = make_random_tree([(70, (1, 30, 100)), (128, (5,))])
        qkv = make_random_qkv(tree, spec.heads, torch.float16, torch.Generator(DEVICE).manual_seed(0))
        qkv[-1, -1], qkv[90, -1] = torch.nan, torch.inf
        results = []
        for reads in ("lists", "runs", "tma"):
            tile = AttentionConfiguration(16, key_step, 4, 2, reads)
            results.append(
                make_backend(tile).tree_attention(qkv, spec, tree, tree.all_queries).nan_to_num(nan=1e4, posinf=1e4)
            )
    assert 0 < (results[0] >= 1e4).sum() < len(qkv)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


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
