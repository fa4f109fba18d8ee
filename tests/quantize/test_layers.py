"""Linear layers are rounded for what they read behind the rounded ones, which transformers computes here."""

import numpy as np
import pytest
import torch
import transformers

from codescaler.checkpoint.load import open_checkpoint
from codescaler.errors import WeightsError
from codescaler.model.decoder import build_decoder
from codescaler.ops import Tree, select_backend
from codescaler.ops.autograd import make_differentiable
from codescaler.ops.plan import plan
from codescaler.quantize.layers import round_layers
from codescaler.testing import edit_tensors, save_random_checkpoint

# No two begin alike: a tree has a shared token once.
PROGRAMS = [[[1, 2, 3, 4, 5], [6, 2, 3], [7] * 9], [[8, 1, 1, 2], [9, 20, 30]]]
TOKENS = [[np.array(ids, np.int32) for ids in lists] for lists in PROGRAMS]
CPU = torch.device("cpu")


@pytest.fixture(params=["qwen2", "gemma2"])
def folder(request, tmp_path):
    save_random_checkpoint(tmp_path, request.param, "SequenceClassification", vocab_size=300, num_hidden_layers=3)
    return tmp_path


def round_coarsely(weight, steps=6):
    scale = weight.abs().amax(dim=1, keepdim=True) / steps
    return (weight / scale).round() * scale


def run(folder, round_weight):
    """Returns names, weights and moments that `round_weight` got, by the first name."""
    checkpoint, seen = open_checkpoint(folder), {}

    def keep(names, weight, moments):
        seen[names[0]] = (names, weight, moments)
        return round_weight(weight)

    decoder = build_decoder(
        checkpoint.config, checkpoint.get, make_differentiable(select_backend("auto", "cpu")), torch.float32, CPU
    )
    trees = [Tree.from_batch(batch, CPU) for lists in TOKENS for batch in plan(lists, 10**6)]
    embedding = round_coarsely(decoder.embedding.float(), 60)
    round_layers(decoder, embedding, trees, keep)
    return seen, embedding


def load(folder):
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def watch(model):
    """Of all tokens: inputs of each linear layer and of each layer, and what each layer and each MLP gives."""
    found = {}

    def keep(name, tensor):
        found.setdefault(name, []).append((tensor[0] if isinstance(tensor, tuple) else tensor)[0])

    for name, module in model.model.named_modules():
        if name.endswith("_proj") or (name.count(".") == 1 and name.startswith("layers.")):
            module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args))
        if name.endswith(".mlp") or (name.count(".") == 1 and name.startswith("layers.")):
            module.register_forward_hook(lambda _, args, out, name=name: keep(f"{name} gives", out))
    with torch.no_grad():
        for ids in (ids for lists in PROGRAMS for ids in lists):
            model.model(torch.tensor([ids]))
    return {name: torch.cat(tensors) for name, tensors in found.items()}


def put(model, seen, embedding, round_weight):
    tensors = dict(model.model.named_parameters())
    with torch.no_grad():
        tensors["embed_tokens.weight"].copy_(embedding)
        for names, weight, _ in seen.values():
            parts = round_weight(weight).split([len(tensors[f"{name}.weight"]) for name in names])
            for name, part in zip(names, parts, strict=True):
                tensors[f"{name}.weight"].copy_(part)
    return model


def test_weights_and_moments_are_those_for_inputs_behind_rounded_layers(folder):
    checkpoint, (seen, embedding) = open_checkpoint(folder), run(folder, round_coarsely)
    assert list(seen) == [
        f"layers.{index}.{name}"
        for index in range(3)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    ]
    rounded, whole = watch(put(load(folder), seen, embedding, round_coarsely)), watch(load(folder))
    for name, (names, moved, moments) in seen.items():
        weight = torch.cat([checkpoint.read_tensor(f"{part}.weight").float() for part in names])
        x, layer = rounded[name], ".".join(name.split(".")[:2])
        missed, share = (whole[name] - x) @ weight.T, torch.ones(len(x), 1)
        if name.endswith(("o_proj", "down_proj")) and not checkpoint.config.has_post_norms:
            stream, behind = whole[f"{layer} gives"], rounded[f"{layer} gives"] - rounded[f"{layer}.mlp gives"]
            if name.endswith("o_proj"):
                stream, behind = stream - whole[f"{layer}.mlp gives"], rounded[layer]
            missed, share = stream - behind - x @ weight.T, stream.square().mean(dim=1, keepdim=True).rsqrt()
        x = x * share
        expected, trust = x.T @ x / len(x), len(x) / (len(x) + x.shape[1])
        damping = 0.01 * expected.diagonal().mean() * torch.eye(len(expected))
        expected = trust * expected + (1 - trust) * torch.diag(expected.diagonal())
        assert torch.allclose(moments, expected, atol=2e-3 * expected.abs().max().item()), name
        change = trust * ((missed * share).T @ x / len(x)) @ torch.linalg.inv(expected + damping)
        assert change.abs().max() > 1e-3 * weight.abs().max(), name
        assert torch.allclose(moved - weight, change, atol=0.02 * change.abs().max().item()), name


def test_moved_weights_lose_less_than_rounding_to_the_nearest(folder):
    seen, embedding = run(folder, round_coarsely)
    wanted = watch(load(folder))["layers.2 gives"]
    nearest = {
        names[0]: (
            names,
            torch.cat([load(folder).model.get_parameter(f"{name}.weight").detach() for name in names]),
            None,
        )
        for names, *_ in seen.values()
    }
    lost = [
        float((watch(put(load(folder), weights, embedding, round_coarsely))["layers.2 gives"] - wanted).square().mean())
        for weights in (seen, nearest)
    ]
    assert lost[0] < 0.9 * lost[1]


@pytest.mark.parametrize("name", ["layers.1.self_attn.o_proj", "layers.2.mlp.down_proj"])
def test_weights_that_are_no_numbers_are_named(folder, name):
    edit_tensors(
        folder / "model.safetensors",
        lambda tensors: tensors | {f"model.{name}.weight": tensors[f"model.{name}.weight"] * torch.nan},
    )
    with pytest.raises(WeightsError, match=f"inputs or outputs of {name} are not finite"):
        run(folder, round_coarsely)
