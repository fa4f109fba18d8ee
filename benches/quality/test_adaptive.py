"""The bench of adaptive rankings: a table of all exits and promises, from features that a second run finds again."""

import json

import numpy as np
import pytest

from benches.quality import adaptive
from codescaler.errors import InvalidInput
from codescaler.io.records import Candidate, Group
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.train.exits import Contest, split_contests


def test_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adaptive, "RESULTS", tmp_path)
    save_random_checkpoint(tmp_path / "rm", "qwen3", vocab_size=258, pad_token_id=None, num_hidden_layers=4)
    save_chat(tmp_path / "rm")
    random = np.random.default_rng(0)
    with (tmp_path / "groups.jsonl").open("w") as file:
        for number in range(52):
            codes = [f"x = {random.integers(1000)}" for _ in range(4)]
            group = {"task_id": str(number), "prompt": f"Problem {number}", "candidates": [{"code": c} for c in codes]}
            file.write(json.dumps(group) + "\n")
    command = [str(tmp_path / "groups.jsonl"), "--rm", f"tiny={tmp_path / 'rm'}", "--cascade", "--dtype", "float32"]
    command += ["-n", "3", "--at-most", "0.2", "0.5", "--features", str(tmp_path), "--speed", "2", "--save", "tiny"]
    assert adaptive.main(command) == 0
    first = (tmp_path / "adaptive_tiny.json").read_text()
    rows, speed = (json.loads(first)[key] for key in ("rows", "speed"))
    kinds = ["frozen", "trained", "cascade"]
    expected = []
    for model, some in (("nano", kinds[:2]), ("tiny", kinds)):
        expected += [(model, kind, of, p) for kind in some for of in ("first", "order") for p in (0.2, 0.5)]
        expected += [(model, "ceiling", "first", 0.2)]
    assert [(row["model"], row["exits"], row["promise"], row["at_most"]) for row in rows] == expected
    assert all(row["num_counted"] == 26 and row["bound"] > row["num_missed"] / 26 for row in rows)
    ceiling = rows[-1]
    assert ceiling["num_missed"] == 0 and ceiling["dropped"] == pytest.approx(2 / 3)
    assert all(figures["alone"]["token_layers"] >= 1.0 for figures in speed.values())
    assert "less work" in capsys.readouterr().out
    assert adaptive.main([*command[:-4], "--save", "tiny"]) == 0
    assert json.loads((tmp_path / "adaptive_tiny.json").read_text())["rows"] == rows
    for changed in ([*command, "-n", "5"], [*command, "--dtype", "bfloat16"]):
        with pytest.raises(InvalidInput, match="has features of other programs, layers or weights; remove it"):
            adaptive.main(changed)


@pytest.mark.parametrize("num, num_counted", [(80, 40), (348, 174), (349, 299), (803, 473)])
def test_the_sides_are_those_of_fit_exits_or_halves(num, num_counted):
    contests = [Contest(str(number), ()) for number in range(num)]
    chosen, counted = adaptive.split(contests)
    assert len(counted) == num_counted and {*chosen, *counted} == {*contests} and len(chosen) + len(counted) == num
    assert num < 349 or (chosen, counted) == split_contests(contests, num_counted)


def test_a_group_is_filled_with_mutants_and_copies():
    codes = ["def f(a):\n    return a + 1", "def f(b):\n    if b > 2:\n        return b\n    return 2", "def f("]
    filled = adaptive.fill_group(Group("t", "Add one.", tuple(map(Candidate, codes)), "t"), 12)
    programs = [candidate.code for candidate in filled.candidates]
    assert programs[:3] == codes and len(set(programs)) == 12
    assert "def f(a):\n    return a - 1" in programs
    assert adaptive.fill_group(filled, 5).candidates == filled.candidates[:5]
