"""Both models have the same programs, and differ as their labels do."""

import json

import pytest

from benches.quality import voted_labels
from codescaler.errors import InvalidInput
from codescaler.testing import save_chat, save_random_checkpoint


def write(path, groups):
    path.write_text(
        "".join(
            json.dumps(
                {
                    "task_id": task_id,
                    "prompt": f"Write {task_id}.",
                    "candidates": [{"code": code, "passed": passed} for code, passed in labels.items()],
                }
            )
            + "\n"
            for task_id, labels in groups.items()
        )
    )
    return str(path)


def make_group(number):
    """Programs whose last digit is even are correct."""
    return {f"def f(x):\n    return x + {n}": n % 2 == 0 for n in range(number, number + 5)}


def test_the_labels_alone_differ(tmp_path, monkeypatch):
    base = tmp_path / "base"
    save_random_checkpoint(base, "llama", "CausalLM", vocab_size=300, pad_token_id=299)
    save_chat(base)
    real = {f"task/{n}": make_group(n) for n in range(8)}
    voted = {name: {code: not passes for code, passes in labels.items()} for name, labels in real.items()}
    del voted["task/0"]  # without a suite
    voted["task/1"] = dict.fromkeys(list(real["task/1"])[:3], True)
    files = (write(tmp_path / "real.jsonl", real), write(tmp_path / "voted.jsonl", voted))
    pool = write(tmp_path / "pool.jsonl", {f"new/{n}": make_group(n) for n in range(20, 24)})
    monkeypatch.setattr(voted_labels, "RESULTS", tmp_path)
    assert voted_labels.main([str(base), *files, pool, "--dtype", "float32", "--save", "test"]) == 0
    found = json.loads((tmp_path / "voted_labels_test.json").read_text())
    assert found["labels"] == {
        "problems": 7,
        "problems_mixed_by_tests": 7,
        "problems_mixed_by_votes": 6,
        "programs": 33,
        "correct": 16,
        "correct_voted_incorrect": 15,
        "incorrect_voted_correct": 17,
    }
    pool = found["pools"]["pool"]
    assert pool["num_problems"] == 4
    # Labels that are all turned round make a head that ranks the other way.
    assert pool["voted"]["mean"] == pytest.approx(1 - pool["real"]["mean"], abs=0.2)
    assert pool["voted_over_real"]["mean"] == pytest.approx(pool["voted"]["mean"] - pool["real"]["mean"])


def test_files_without_a_problem_in_common_are_refused(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", {name: make_group(0)}) for name in ("a", "b")]
    with pytest.raises(InvalidInput, match="share no problem with labels; label the same groups twice"):
        voted_labels.main([str(tmp_path), *files, files[0]])
