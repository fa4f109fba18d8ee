"""Runs the measurement of rankings on a tiny model, and holds its figures against a count by hand."""

import json
import sys

import pytest

from benches.quality import ranking
from codescaler.testing import save_chat, save_random_checkpoint

RIGHT, WRONG = "def f(a, b):\n    return a + b", "def f(a, b):\n    return a - b - 1"


def write_groups(path, num_problems=8, validation="validation"):
    with path.open("w") as file:
        for task in range(num_problems):
            candidates = [{"code": f"{RIGHT} + {task} - {task}", "passed": True}, {"code": WRONG, "passed": False}]
            record = {
                "task_id": task,
                "prompt": f"Add two numbers ({task}).",
                "candidates": [*candidates, candidates[1], {"code": None, "passed": False}],
                "split": validation if task % 4 == 3 else "train",
            }
            file.write(json.dumps(record) + "\n")


@pytest.fixture
def run(tmp_path, monkeypatch):
    save_random_checkpoint(tmp_path / "lm", "qwen3", "CausalLM", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path / "lm")
    monkeypatch.setattr(ranking, "RESULTS", tmp_path)

    def run(*options):
        arguments = ["ranking", tmp_path / "lm", tmp_path / "groups.jsonl", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        return ranking.main()

    return run


def test_figures(run, tmp_path, capsys):
    write_groups(tmp_path / "groups.jsonl")
    assert run("--save", "tiny", "--parity-programs", 4) == 0
    scorers = json.loads((tmp_path / "ranking_tiny.json").read_text())["figures"]["scorers"]
    # The correct program is the longer one: once among two different ones, once among three samples that parse.
    assert {name: scorer["pair_accuracy"]["mean"] for name, scorer in scorers.items() if name != ranking.OURS} == {
        "random": 0.5,
        "shortest": 0.0,
        "longest": 1.0,
        "parses": 0.5,
        "defines": 0.5,
        "oracle": 1.0,
    }
    assert scorers["random"]["best_of_n_on_mixed"][3]["mean"] == pytest.approx(1 / 3)
    assert [point["mean"] for point in scorers["oracle"]["best_of_n"]] == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1.0])
    assert "PASS: transformers' scores of 4 programs" in capsys.readouterr().out


def test_splits_are_checked(run, tmp_path):
    write_groups(tmp_path / "groups.jsonl", validation="test")
    with pytest.raises(SystemExit, match="line 4: split is 'test'"):
        run()
    lines = [json.dumps({"task_id": 1, "prompt": "", "candidates": [], "split": s}) for s in ("train", "validation")]
    (tmp_path / "groups.jsonl").write_text("\n".join(lines))
    with pytest.raises(SystemExit, match="1 is in both splits"):
        run()
