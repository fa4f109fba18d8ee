"""The model that learns: its loss and gradients are those of transformers, and its tensors find their way back."""

import dataclasses

import numpy as np
import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.model.decoder import build_decoder
from codescaler.ops import Tree, cpu, reference
from codescaler.ops.autograd import hold_casts, make_differentiable
from codescaler.ops.plan import plan
from codescaler.testing import save_random_checkpoint, save_random_lora
from codescaler.train.config import TrainConfig
from codescaler.train.model import build_model

FAMILIES = ("qwen3", "qwen2", "llama", "gemma2")
CPU = torch.device("cpu")


def random_sequences(seed=0):
    """Two problems with candidates of several lengths; the first two tokens are common to all."""
    random = np.random.default_rng(seed)
    sequences = []
    for prompt_length, lengths in ((20, (1, 30, 70)), (66, (5, 64))):
        prompt = np.concatenate([[7, 8], random.integers(3, 200, prompt_length)])
        sequences += [np.concatenate([prompt, random.integers(3, 200, n)]).astype(np.int32) for n in lengths]
    return sequences


LABELS, OFFSETS = torch.tensor([True, False, True, False, True]), torch.tensor([0, 3, 5])


def loss_of(model, sequences):
    (batch,) = plan(sequences, 10**9)
    scores = torch.empty(len(sequences), dtype=torch.float32)
    scores = model(Tree.from_batch(batch, CPU))[-1, torch.from_numpy(np.argsort(batch.sequences))]
    return model.backend.pairwise_loss(scores, LABELS, OFFSETS, None, 0.1)[0]


def loss_of_transformers(model, sequences):
    scores = torch.cat([model(torch.from_numpy(ids[None].astype(np.int64))).logits.flatten() for ids in sequences])
    pairs = torch.nn.functional.logsigmoid
    first = [-pairs(scores[i] - scores[1]) + 0.1 * (scores[i] + scores[1]) ** 2 for i in (0, 2)]
    second = -pairs(scores[4] - scores[3]) + 0.1 * (scores[4] + scores[3]) ** 2
    return ((first[0] + first[1]) / 2 + second) / 2


def gradients(model):
    """By canonical name."""
    found = {name: p.grad for name, p in model.get_trainable_parameters().items()}
    assert all(gradient is not None for gradient in found.values())
    return dict(dataclass_free_canonical(model, found))


def dataclass_free_canonical(model, tensors):
    # A gradient has no offset to take off.
    config = model.config
    model.config = dataclasses.replace(config, norm_weight_offset=0.0)
    try:
        return list(model.iterate_canonical(tensors))
    finally:
        model.config = config


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("isa", [*cpu.list_supported_isas(), "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(tmp_path, family, isa, is_checkpointed):
    peer = save_random_checkpoint(tmp_path, family, attn_implementation="eager")
    backend = reference.BACKEND if isa == "reference" else cpu.make_backend(isa)
    config = TrainConfig(gradient_checkpointing=is_checkpointed)
    model = build_model(open_checkpoint(tmp_path), backend, config, torch.float32, CPU)
    sequences = random_sequences()

    loss, expected = loss_of(model, sequences), loss_of_transformers(peer, sequences)
    loss.backward()
    expected.backward()

    assert torch.allclose(loss, expected, rtol=1e-5)
    ours = gradients(model)
    theirs = {name.removeprefix("model."): p.grad for name, p in peer.named_parameters()}
    theirs["head.weight"] = theirs.pop("score.weight")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        # float32 noise: a thousandth of a percent of the tensor's largest gradient
        assert (ours[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_go_back_to_where_they_came_from(tmp_path, family):
    save_random_checkpoint(tmp_path, family)
    checkpoint = open_checkpoint(tmp_path)
    model = build_model(checkpoint, reference.BACKEND, TrainConfig(), torch.float32, CPU)
    back = dict(model.iterate_canonical(model.get_trainable_parameters()))
    assert back.keys() == checkpoint.sources.keys()
    for name, tensor in back.items():
        # Gemma's 1 + w - 1 loses w's last bits.
        tolerance = 1e-7 * checkpoint.config.norm_weight_offset
        assert torch.allclose(tensor, checkpoint.read_tensor(name), rtol=0, atol=tolerance)


def test_forward_values_are_the_engine_s(tmp_path):
    """Training changes the linear layers' library and nothing else."""
    save_random_checkpoint(tmp_path, "qwen3")
    checkpoint, backend = open_checkpoint(tmp_path), cpu.make_backend()
    model = build_model(checkpoint, backend, TrainConfig(), torch.float32, CPU)
    decoder = build_decoder(checkpoint.config, checkpoint.get, backend, torch.float32, CPU)
    (batch,) = plan(random_sequences(), 10**9)
    tree = Tree.from_batch(batch, CPU)
    with torch.no_grad():
        expected = decoder.forward(tree)[1]
        assert torch.allclose(model(tree), expected[None], rtol=1e-5)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_scores_at_exits_are_those_of_a_model_that_ends_there(tmp_path, is_checkpointed):
    save_random_checkpoint(tmp_path, "qwen3", num_hidden_layers=4)
    checkpoint, backend = open_checkpoint(tmp_path), cpu.make_backend()
    config = TrainConfig(exit_weight=0.5, gradient_checkpointing=is_checkpointed)
    model = build_model(checkpoint, backend, config, torch.float32, CPU)
    (batch,) = plan(random_sequences(), 10**9)
    tree = Tree.from_batch(batch, CPU)
    scores = model(tree)
    assert model.exits == (1, 2) and scores.shape == (3, len(batch.sequences))
    alone = []
    for num_layers in (1, 2, 4):
        short = dataclasses.replace(checkpoint.config, num_layers=num_layers)
        alone.append(build_decoder(short, checkpoint.get, backend, torch.float32, CPU).forward(tree)[1])
    assert torch.allclose(scores, torch.stack(alone), rtol=1e-5, atol=1e-6)
    # What an exit says depends on the layers before it only.
    scores[1].sum().backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[1] for name in names if name.startswith("layers")} == {"0", "1"}


def test_bfloat16_activations_leave_weights_and_gradients_float32(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3")
    checkpoint, backend = open_checkpoint(tmp_path), cpu.make_backend()
    exact, rounded = (
        build_model(checkpoint, backend, TrainConfig(), dtype, CPU) for dtype in (torch.float32, torch.bfloat16)
    )
    sequences = random_sequences()
    for model in (exact, rounded):
        loss_of(model, sequences).backward()
    for name, gradient in gradients(rounded).items():
        truth = gradients(exact)[name]
        assert gradient.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), truth.flatten(), dim=0) > 0.98, name


def test_casts_are_held_while_asked_for_and_no_longer(tmp_path):
    """A fused optimizer changes a weight and not its version: only who calls it knows."""
    save_random_checkpoint(tmp_path, "qwen3", num_hidden_layers=1)
    model = build_model(open_checkpoint(tmp_path), cpu.make_backend(), TrainConfig(), torch.bfloat16, CPU)
    sequences = random_sequences()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    with hold_casts(model, torch.bfloat16):
        first = loss_of(model, sequences)
        assert torch.equal(loss_of(model, sequences), first)
        first.backward()
        layer = model.layers[0].qkv
        held = layer.cast
        assert torch.equal(held, layer.weight.to(torch.bfloat16))
        loss_of(model, sequences)
        assert layer.cast is held
    optimizer.step()
    assert layer.cast is None
    loss_of(model, sequences)
    with hold_casts(model, torch.bfloat16):
        loss_of(model, sequences)
        assert torch.equal(layer.cast, layer.weight.to(torch.bfloat16))
        assert not torch.equal(layer.cast, held)


@pytest.mark.parametrize("method, parts", [("head", {"head"}), ("lora", {"head", "a", "b"})])
def test_only_what_the_method_names_learns(tmp_path, method, parts):
    save_random_checkpoint(tmp_path, "qwen3")
    config = TrainConfig(method=method, lora_rank=3)
    model = build_model(open_checkpoint(tmp_path), reference.BACKEND, config, torch.float32, CPU)
    names = model.get_trainable_parameters()
    assert {part for name in names for part in name.split(".") if part in ("head", "a", "b")} == parts
    loss_of(model, random_sequences()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in names), name


def test_lora_computes_what_peft_does(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_random_checkpoint(base, "qwen3")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peer = save_random_lora(adapter, base, target_modules=targets, r=4, lora_alpha=12)
    config = TrainConfig(method="lora", lora_rank=4, lora_alpha=12)
    model = build_model(open_checkpoint(base), reference.BACKEND, config, torch.float32, CPU)
    theirs = {
        name.removeprefix("base_model.model.model.").replace(".default", ""): p.detach()
        for name, p in peer.named_parameters()
        if "lora" in name
    }
    head = next(p for name, p in peer.named_parameters() if "score" in name and "modules_to_save" in name)
    with torch.no_grad():
        model.head.copy_(head)
        for name, parameter in model.get_trainable_parameters().items():
            for index, (canonical, tensor) in enumerate(list(model.iterate_canonical({name: parameter}))):
                if "lora" in canonical:
                    (parameter[index] if tensor.ndim < parameter.ndim else parameter).copy_(theirs.pop(canonical))
    assert not theirs
    sequences = random_sequences()
    assert torch.allclose(loss_of(model, sequences), loss_of_transformers(peer.eval(), sequences), rtol=1e-5)


def test_differentiable_keeps_the_name(tmp_path):
    assert make_differentiable(reference.BACKEND).name == "reference"
