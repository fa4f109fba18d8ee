"""Narrow MLPs bring the model's hidden states to where they were, as far as transformers can tell."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from codescaler.checkpoint.load import open_checkpoint
from codescaler.cli import main
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, UnsupportedModel, WeightsError
from codescaler.testing import edit_tensors, save_chat, save_random_checkpoint
from codescaler.text.encoder import build_encoder
from codescaler.text.program import make_conversation
from codescaler.train import narrowing
from codescaler.train.pruning import prune

PAIRS = [("Write one.", f"def f(x):\n    return {n} * x\n") for n in range(5)]


@pytest.fixture(scope="module", params=["qwen3", "phi3"])
def model(request, tmp_path_factory):
    """Every MLP channel is there twice."""
    folder = tmp_path_factory.mktemp(request.param)
    sizes = {"vocab_size": 300, "pad_token_id": 299, "intermediate_size": 96, "num_hidden_layers": 2}
    save_random_checkpoint(folder, request.param, "SequenceClassification", **sizes)
    save_chat(folder)

    places = torch.arange(48)

    def double(tensors):
        for name, tensor in tensors.items():
            if name.endswith((".gate_proj.weight", ".up_proj.weight")):
                tensor[places + 48] = tensor[places]
            elif name.endswith("gate_up_proj.weight"):
                tensor[places + 48], tensor[places + 144] = tensor[places], tensor[places + 96]
        return tensors

    edit_tensors(folder / "model.safetensors", double)
    return folder


@pytest.fixture
def groups(tmp_path):
    codes = [f"def f(x):\n    y = x * {n}\n    return y + {chr(97 + n)}\n" for n in range(20)]
    candidates = [{"code": code, "passed": True} for code in codes] + [{"code": None, "passed": False}]
    rows = [{"task_id": name, "prompt": f"Write {name}.", "candidates": candidates} for name in ("one", "two")]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "groups.jsonl"


def test_a_model_without_its_copies_scores_nearly_as_before(model, groups, tmp_path):
    narrow = tmp_path / "narrow"
    report = prune(model, narrow, mlp_width=64, groups=groups)
    assert (report.mlp_width, report.mlp_width_before, len(report.lost)) == (64, 96, 2)
    assert max(report.lost) < 0.03 and report.num_parameters < report.num_parameters_before
    scores = [Engine.from_pretrained(m, device="cpu", dtype="float32").score(PAIRS) for m in (model, narrow)]
    assert np.abs(scores[1] - scores[0]).max() < 0.15 * np.abs(scores[0]).max()
    assert open_checkpoint(narrow).config.intermediate_size == 64


def watch_layers(model, ids):
    """What each layer of a transformers model gives, and what its MLP adds there."""
    streams, added = [], []
    for layer in model.model.layers:
        layer.register_forward_hook(
            lambda *call: streams.append((call[2][0] if isinstance(call[2], tuple) else call[2])[0])
        )
        layer.mlp.register_forward_hook(lambda *call: added.append(call[2][0]))
    with torch.no_grad():
        model(ids)
    return streams, added


@pytest.mark.parametrize("num_passes", [0, 6])
def test_what_a_layer_loses_is_what_transformers_misses_there(num_passes, model, tmp_path, monkeypatch):
    monkeypatch.setattr(narrowing, "_STEP_TOKENS", 64)
    code = "".join(f"def f{n}(x):\n    return {n} * x\n" for n in range(12))
    row = {"task_id": "one", "prompt": "Write one.", "candidates": [{"code": code, "passed": True}]}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
    report = prune(model, tmp_path / "narrow", mlp_width=24, groups=tmp_path / "one.jsonl", num_passes=num_passes)
    encoder = build_encoder(open_checkpoint(model))
    ids = torch.tensor([encoder.encode_pairs([make_conversation("Write one.", code)], ["one"]).sequences[0].tolist()])
    load = AutoModelForSequenceClassification.from_pretrained
    whole, _ = watch_layers(load(model, dtype=torch.float32), ids)
    narrow, added = watch_layers(load(tmp_path / "narrow", dtype=torch.float32), ids)
    for index, lost in enumerate(report.lost):
        weights = whole[index].square().mean(dim=1, keepdim=True).rsqrt()
        missed = ((narrow[index] - whole[index]) * weights).square().mean()
        wanted = ((whole[index] - (narrow[index] - added[index])) * weights).square().mean()
        assert lost == pytest.approx(float(missed / wanted), rel=0.05, abs=0.01)


def test_training_loses_less_than_the_fit_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr(narrowing, "_STEP_TOKENS", 64)
    rows = [
        {"task_id": str(n), "prompt": f"Write {n}.", "candidates": [{"code": f"def f(x):\n    return {n} * x + {m}\n"}
         for m in range(4)]}
        for n in range(16)
    ]  # fmt: skip
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lost = [
        prune(model, tmp_path / str(n), mlp_width=12, groups=tmp_path / "groups.jsonl", num_passes=n).lost
        for n in (0, 20)
    ]
    assert all(trained < 0.95 * fitted for fitted, trained in zip(*lost, strict=True))


def test_layers_tokens_and_channels_go_by_one_command(model, groups, tmp_path, capsys):
    arguments = ["prune", str(model), "-o", str(tmp_path / "wide"), "--layers", "1", "--mlp-width", "32"]
    assert main([*arguments, "--groups", str(groups)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 layers" in printed and "32 of 96 channels in each MLP" in printed
    assert np.isfinite(Engine.from_pretrained(tmp_path / "wide", device="cpu").score(PAIRS)).all()
    assert not list(tmp_path.glob(".wide*")), "nothing is left of the wide model"


def test_what_cannot_be_pruned_is_refused(model, groups, tmp_path):
    for settings in ({"mlp_width": 48}, {"groups": groups}):
        with pytest.raises(InvalidInput, match="give both or none"):
            prune(model, tmp_path / "narrow", **settings)
    with pytest.raises(InvalidInput, match=r"mlp_width=97; .* has 96"):
        prune(model, tmp_path / "narrow", mlp_width=97, groups=groups)
    with pytest.raises(InvalidInput, match="num_passes=-1"):
        prune(model, tmp_path / "narrow", mlp_width=48, groups=groups, num_passes=-1)
    (tmp_path / "none.jsonl").write_text(json.dumps({"task_id": "a", "prompt": "b", "candidates": []}) + "\n")
    with pytest.raises(InvalidInput, match="no program"):
        prune(model, tmp_path / "narrow", mlp_width=48, groups=tmp_path / "none.jsonl")
    few = {"task_id": "a", "prompt": "b", "candidates": [{"code": "pass", "passed": True}]}
    (tmp_path / "few.jsonl").write_text(json.dumps(few) + "\n")
    with pytest.raises(InvalidInput, match=r"programs have \d+ distinct tokens to fit to, too few for 48 channels"):
        prune(model, tmp_path / "narrow", mlp_width=48, groups=tmp_path / "few.jsonl")
    save_random_checkpoint(tmp_path / "experts", "qwen3_moe", vocab_size=300)
    save_chat(tmp_path / "experts")
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        prune(tmp_path / "experts", tmp_path / "narrow", mlp_width=8, groups=groups)
    save_random_checkpoint(tmp_path / "gemma", "gemma2", vocab_size=300)
    save_chat(tmp_path / "gemma")
    with pytest.raises(UnsupportedModel, match="norm behind each MLP"):
        prune(tmp_path / "gemma", tmp_path / "narrow", mlp_width=8, groups=groups)
    assert not (tmp_path / "narrow").exists()


def test_mlps_with_biases_and_training_that_fails_lose_no_more_than_the_fit(groups, tmp_path, monkeypatch):
    sizes = {"vocab_size": 300, "pad_token_id": 299, "intermediate_size": 96, "num_hidden_layers": 2, "mlp_bias": True}
    save_random_checkpoint(tmp_path / "llama", "llama", "SequenceClassification", **sizes)
    save_chat(tmp_path / "llama")

    def narrow(name, num_passes):
        report = prune(tmp_path / "llama", tmp_path / name, mlp_width=24, groups=groups, num_passes=num_passes)
        return report.lost, open_checkpoint(tmp_path / name).read_tensor("layers.1.mlp.down_proj.bias")

    fitted, bias = narrow("fitted", 0)
    monkeypatch.setattr(narrowing, "_STEP_SIZE", 100.0)
    failed, same = narrow("failed", 1)
    assert failed == fitted and torch.equal(same, bias) and min(fitted) > 0 and max(fitted) < 1
    monkeypatch.setattr(narrowing, "_STEP_SIZE", 0.06)
    trained, other = narrow("trained", 20)
    assert sum(trained) < sum(fitted) and not torch.equal(other, bias)


def test_hidden_states_that_are_no_numbers_are_named(model, groups, tmp_path):
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    name = "model.layers.1.self_attn.o_proj.weight"
    edit_tensors(broken / "model.safetensors", lambda tensors: tensors | {name: tensors[name] * torch.nan})
    with pytest.raises(WeightsError, match="behind layer 1 are not finite"):
        prune(broken, tmp_path / "narrow", mlp_width=24, groups=groups)


def test_problems_held_out_are_not_learned_from(model, groups, tmp_path):
    """The first of two: other programs of it change nothing but the figures."""
    rows = [json.loads(line) for line in groups.read_text().splitlines()]
    other = rows[0] | {"candidates": [{"code": "import os\n" * 9}]}
    tensors, lost = [], []
    for name, first in (("a", rows[0]), ("b", other)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (first, rows[1])))
        report = prune(model, tmp_path / name, mlp_width=24, groups=tmp_path / f"{name}.jsonl", num_passes=0)
        tensors.append(open_checkpoint(tmp_path / name).read_tensor("layers.1.mlp.down_proj.weight"))
        lost.append(report.lost)
    assert torch.equal(*tensors) and lost[0] != lost[1]
