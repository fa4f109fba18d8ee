"""Runs the bench of best-of-N on two problems: who is right, and that every candidate is another text."""

import json

from benches.speed import best_of_n_latency
from codescaler.evaluate.problems import read_evaluation_problems
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.types import CallTests

RIGHT = "def f(a):\n    total = a + 1\n    return total"
# The second passes the shown test alone.
WRONG = ("def f(a):\n    total = 2\n    return total", "def f(a):\n    total = a\n    return total")


def write_groups(folder):
    candidates = [{"code": RIGHT, "passed": True}, *({"code": code, "passed": False} for code in WRONG)]
    rows = [{"task_id": str(p), "prompt": f"Problem {p}.", "candidates": candidates} for p in range(2)]
    tests = {"statements": ["assert f(1) == 2", "assert f(4) == 5"], "entry_points": ["f"]}
    tasks = [{"task_id": str(p), "prompt": f"Problem {p}.", "tests": tests} for p in range(2)]
    for name, lines in (("groups.jsonl", rows), ("tasks.jsonl", tasks)):
        (folder / name).write_text("\n".join(map(json.dumps, lines)))
    return folder / "groups.jsonl", folder / "tasks.jsonl"


def test_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(best_of_n_latency, "RESULTS", tmp_path)
    save_random_checkpoint(tmp_path / "rm", "llama", vocab_size=300, pad_token_id=1)
    save_chat(tmp_path / "rm")
    options = ("--rm", f"tiny={tmp_path / 'rm'}", "--n", "3", "6", "--warmup", "0", "--save", "tiny")
    assert best_of_n_latency.main([*map(str, write_groups(tmp_path)), *options]) == 0
    result = json.loads((tmp_path / "best_of_n_latency_tiny.json").read_text())
    assert result["num_own"] == 3 and list(result["sizes"]) == ["3", "6"]
    three = result["sizes"]["3"]
    assert list(three) == ["tiny", "shown test", "all tests", "random"]
    assert three["all tests"]["accuracy"]["mean"] == 1
    assert three["shown test"]["accuracy"]["mean"] == 0.5  # of two that pass the shown test, one is correct
    assert three["random"]["accuracy"]["mean"] == 1 / 3 and three["random"]["seconds"] is None
    assert all(three[name]["seconds"]["mean"] > 0 for name in ("tiny", "shown test", "all tests"))


def test_copies_fill_a_group_and_keep_verdicts(tmp_path):
    problem = read_evaluation_problems(write_groups(tmp_path)[0])[0]
    filled = best_of_n_latency.fill_candidates(problem, CallTests(("assert f(1) == 2",)), 32)
    assert len({*filled.codes}) == 32 and filled.num_own == 3
    assert {*filled.codes[:3]} == {RIGHT, *WRONG}
    for code, is_correct in zip(filled.codes, filled.is_correct, strict=True):
        names = {}
        exec(code, names)
        assert (names["f"](4) == 5) == is_correct
    assert best_of_n_latency.fill_candidates(problem, CallTests(("assert f(1) == 2",)), 10_000) is None
