"""Moments are those of the inputs that transformers gives the linear layers, of every token and in every layer."""

import numpy as np
import pytest
import torch
import transformers

from codescaler.checkpoint.load import open_checkpoint
from codescaler.errors import WeightsError
from codescaler.model import moments as observing
from codescaler.model.moments import observe_moments
from codescaler.ops import select_backend
from codescaler.testing import edit_tensors, save_random_checkpoint

# No two begin alike: a tree has a shared token once.
PROGRAMS = [[[1, 2, 3, 4, 5], [6, 2, 3], [7] * 9], [[8, 1, 1, 2], [9, 20, 30]]]
KINDS = ("q_proj", "o_proj", "gate_proj", "down_proj")


def observe(folder, **options):
    checkpoint = open_checkpoint(folder)
    programs = [[np.array(ids, np.int32) for ids in lists] for lists in PROGRAMS]
    backend = select_backend("auto", "cpu")
    return list(observe_moments(checkpoint.config, checkpoint.get, backend, programs, **options))


@pytest.fixture(params=["qwen3", "gemma2"])
def folder(request, tmp_path):
    save_random_checkpoint(tmp_path, request.param, "SequenceClassification", vocab_size=300, num_hidden_layers=3)
    return tmp_path


def test_moments_are_those_of_transformers(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = {}
    for name, module in model.model.named_modules():
        if name.endswith(KINDS):
            inputs[name] = []
            module.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0][0]))
    with torch.no_grad():
        for ids in (ids for lists in PROGRAMS for ids in lists):
            model.model(torch.tensor([ids]))
    found = observe(folder)
    assert [moments.names[0] for moments in found] == list(inputs)
    for names, moments, num_tokens in found:
        x = torch.cat(inputs[names[0]])
        assert num_tokens == len(x) == 24
        expected = x.T @ x / len(x)
        assert torch.allclose(moments, expected, atol=1e-4 * expected.abs().max().item()), names


def test_memory_decides_how_many_come_of_a_pass(folder, monkeypatch):
    whole = observe(folder, kinds=("down_proj",))
    monkeypatch.setattr(observing, "MAX_MOMENT_BYTES", 1)
    one_by_one = observe(folder, kinds=("down_proj",))
    assert [names for names, *_ in whole] == [(f"layers.{index}.mlp.down_proj",) for index in range(3)]
    assert all(torch.equal(a.moments, b.moments) and a.names == b.names for a, b in zip(whole, one_by_one, strict=True))


def test_weights_that_are_no_numbers_are_named(folder):
    edit_tensors(
        folder / "model.safetensors",
        lambda tensors: (
            tensors | {"model.layers.1.mlp.up_proj.weight": tensors["model.layers.1.mlp.up_proj.weight"] / 0}
        ),
    )
    with pytest.raises(WeightsError, match=r"inputs of layers\.1\.mlp\.down_proj are not finite"):
        observe(folder)
