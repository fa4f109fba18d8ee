"""Runs the training benches on a tiny model: their agreement with TRL, and figures that a count by hand confirms."""

import json
import sys

import pytest

from benches.quality import train_study
from benches.speed import train_speed
from codescaler.testing import save_chat, save_random_checkpoint

RIGHT, WRONG = "def f(a, b):\n    return a + b", "def f(a, b):\n    return a - b - 1"


@pytest.fixture
def files(tmp_path):
    model, data = tmp_path / "rm", tmp_path / "groups.jsonl"
    save_random_checkpoint(model, "llama", vocab_size=300, pad_token_id=1)
    save_chat(model)
    with data.open("w") as file:
        for task in range(40):
            programs = [(f"{RIGHT} + {task}", True), (WRONG, False), (f"{WRONG} - {task + 1}", False)]
            record = {
                "task_id": task,
                "prompt": f"Add two numbers ({task}).",
                "candidates": [{"code": code, "passed": passed} for code, passed in programs],
                "split": "validation" if task >= 36 else "train",
            }
            file.write(json.dumps(record) + "\n")
    return model, data


def run(module, monkeypatch, tmp_path, *arguments):
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


@pytest.mark.filterwarnings("ignore")  # of TRL's own imports
def test_a_step_beside_trl_s(files, tmp_path, monkeypatch, capsys):
    run(train_speed, monkeypatch, tmp_path, *files, "--rounds", 1, "--save", "tiny")
    result = json.loads((tmp_path / "train_speed_tiny.json").read_text())
    assert result["agreement"]["gradient_difference"] < 1e-3
    pairs, groups = (result[name]["median"] for name in ("pairs", "groups"))
    assert pairs["ours_tokens_per_pair"] < pairs["trl_tokens_per_pair"]
    assert groups["ours_tokens_per_pair"] < pairs["ours_tokens_per_pair"]
    assert "ratio" in capsys.readouterr().out


def test_the_study(files, tmp_path, monkeypatch, capsys):
    options = ("--only", "full 1e-5", "--shares", 0.5, "--step-tokens", 2000, "--save", "tiny")
    run(train_study, monkeypatch, tmp_path, *files, tmp_path / "runs", *options)
    runs = json.loads((tmp_path / "train_study_tiny.json").read_text())["runs"]
    assert [figures["num_problems"] for figures in runs.values()] == [36, 18]
    assert all(figures["num_pairs"] == 2 * figures["num_problems"] for figures in runs.values())
    assert "4 validation problems" in capsys.readouterr().out
