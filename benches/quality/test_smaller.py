"""A copy of a model ranks as the model, and another model does not."""

import json

import torch

from benches.quality import smaller
from codescaler.testing import edit_tensors, save_chat, save_random_checkpoint


def test_a_copy_keeps_all_and_another_head_does_not(tmp_path, capsys, monkeypatch):
    for name in ("model", "copy", "other"):
        save_random_checkpoint(tmp_path / name, "llama", "SequenceClassification", vocab_size=300, pad_token_id=299)
        save_chat(tmp_path / name)
    edit_tensors(
        tmp_path / "other/model.safetensors",
        lambda tensors: tensors | {"score.weight": torch.flip(tensors["score.weight"], [1])},
    )
    codes = [f"def f(x):\n    return x + {n}\n" for n in range(8)]
    group = {
        "task_id": "a",
        "prompt": "Write f.",
        "candidates": [{"code": code, "passed": "3" in code} for code in codes],
    }
    (tmp_path / "groups.jsonl").write_text(json.dumps(group) + "\n")
    monkeypatch.setattr(smaller, "RESULTS", tmp_path)
    models = [f"--rm={name}={tmp_path / name}" for name in ("copy", "other")]
    assert smaller.main([str(tmp_path / "model"), str(tmp_path / "groups.jsonl"), *models, "--save", "test"]) == 0
    found = json.loads((tmp_path / "smaller_test.json").read_text())
    rows = found["models"]
    assert (found["num_problems"], found["num_mixed"]) == (1, 1)
    assert rows["copy"] == rows["model"] and rows["copy"]["tau"]["mean"] == 1.0
    assert rows["other"]["tau"]["mean"] < 1.0 and rows["copy"]["megabytes"] > 0
    assert "1 problems" in capsys.readouterr().out
