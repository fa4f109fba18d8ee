"""Channels of an MLP that others stand for go first, and the rest does what all did."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.cli import main
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.testing import edit_tensors, save_chat, save_random_checkpoint
from codescaler.train.channels import choose_channels
from codescaler.train.pruning import prune

PAIRS = [("Write one.", f"def f(x):\n    return {n} * x\n") for n in range(5)]


def measure_loss(x, down, kept):
    """The least mean square that the kept channels leave, by a solver of its own."""
    wanted = x @ down.T
    fitted = torch.linalg.lstsq(x[:, list(kept)], wanted).solution
    return float((x[:, list(kept)] @ fitted - wanted).square().mean()), fitted.T


def test_one_channel_less_is_the_best_of_all_choices(random):
    for _ in range(20):
        x = torch.randn(300, 6, generator=random) @ torch.randn(6, 6, generator=random)
        x, down = x.double(), torch.randn(4, 6, generator=random).double()
        kept, fitted, lost = choose_channels(down.float(), (x.T @ x / 300).float(), 5)
        losses = {choice: measure_loss(x, down, choice) for choice in combinations(range(6), 5)}
        chosen, whole = losses[tuple(kept.tolist())], float((x @ down.T).square().mean())
        # Damping may decide between two that are as good.
        assert chosen[0] <= 1.05 * min(loss for loss, _ in losses.values()) + 1e-3 * whole
        assert torch.allclose(fitted.double(), chosen[1], atol=0.05 * fitted.abs().max().item())
        assert lost == pytest.approx(chosen[0] / whole, abs=5e-3)


def test_copies_of_channels_go_and_nothing_is_lost(random):
    x = torch.randn(500, 8, generator=random)
    x = torch.cat([x, 2 * x, x[:, :4] + x[:, 4:8]], dim=1)
    down = torch.randn(5, 20, generator=random)
    kept, fitted, lost = choose_channels(down, x.T @ x / 500, 8)
    assert kept.tolist() == sorted(kept.tolist()) and abs(lost) < 2e-3
    wanted = x @ down.T
    assert (x[:, kept] @ fitted.T - wanted).square().mean() < 2e-3 * wanted.square().mean()


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


def test_a_model_without_its_copies_scores_as_before(model, groups, tmp_path):
    narrow = tmp_path / "narrow"
    report = prune(model, narrow, mlp_width=64, groups=groups)
    assert (report.mlp_width, report.mlp_width_before, len(report.lost)) == (64, 96, 2)
    assert max(report.lost) < 0.01 and report.num_parameters < report.num_parameters_before
    scores = [Engine.from_pretrained(m, device="cpu", dtype="float32").score(PAIRS) for m in (model, narrow)]
    assert np.abs(scores[1] - scores[0]).max() < 0.06 * np.abs(scores[0]).max()
    assert open_checkpoint(narrow).config.intermediate_size == 64


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
    (tmp_path / "none.jsonl").write_text(json.dumps({"task_id": "a", "prompt": "b", "candidates": []}) + "\n")
    with pytest.raises(InvalidInput, match="no program"):
        prune(model, tmp_path / "narrow", mlp_width=48, groups=tmp_path / "none.jsonl")
    few = json.loads(groups.read_text().splitlines()[0]) | {"candidates": [{"code": "pass", "passed": True}]}
    (tmp_path / "few.jsonl").write_text(json.dumps(few) + "\n")
    with pytest.raises(InvalidInput, match="too few to choose among 96 channels"):
        prune(model, tmp_path / "narrow", mlp_width=48, groups=tmp_path / "few.jsonl")
    save_random_checkpoint(tmp_path / "experts", "qwen3_moe", vocab_size=300)
    save_chat(tmp_path / "experts")
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        prune(tmp_path / "experts", tmp_path / "narrow", mlp_width=8, groups=groups)
    assert not (tmp_path / "narrow").exists()
