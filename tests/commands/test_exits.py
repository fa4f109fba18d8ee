"""`fit-exits` and `rerank --adaptive`: what they print, and what they refuse."""

import json

import numpy as np
import pytest

from codescaler import cli
from codescaler.testing import save_chat, save_random_checkpoint

CODES = ["x = 1\ny = 2", "x = 3", "while x:\n    x -= 1", "print(x)", "y = [x] * 9", "import os"]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a smaller one, and groups without labels."""
    path = tmp_path_factory.mktemp("exits")
    for name, layers in (("model", 4), ("small", 1)):
        save_random_checkpoint(path / name, "qwen3", vocab_size=258, pad_token_id=None, num_hidden_layers=layers)
        save_chat(path / name)
    random = np.random.default_rng(0)
    with (path / "groups.jsonl").open("w") as file:
        for number in range(80):
            codes = [f"{code}\nz = {random.integers(1000)}" for code in CODES]
            group = {"task_id": str(number), "prompt": f"Problem {number}", "candidates": [{"code": c} for c in codes]}
            file.write(json.dumps(group) + "\n")
    assert run("fit-exits", path / "model", path / "groups.jsonl", "--differs", 0.2, "--num-threads", 1) == 0
    return path


def test_the_report_says_what_is_certified(folder, capsys):
    command = ("fit-exits", folder / "model", folder / "groups.jsonl", "--cascade", folder / "small")
    assert run(*command, "--differs", 0.2, "--top-k", 2, "--num-threads", 1, "--deterministic") == 0
    shown = capsys.readouterr().out
    assert "margins chosen on 50 problems" in shown and "before the first layer" in shown
    assert "certified: another program is among the first 2 in at most 20.00% of problems, at 95% confidence" in shown
    assert "of 30 problems counted" in shown and "% of that of all scores" in shown


def test_the_report_of_a_promise_of_order(folder, capsys):
    command = ("fit-exits", folder / "model", folder / "groups.jsonl", "--cascade", folder / "small")
    command += ("--differs", 0.2, "--promise", "order", "--num-threads", 1)
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert "certified: a dropped program is better than a scored one in at most 20.00% of problems" in shown
    assert run(*command, "--top-k", 2) == 2
    assert "top_k=2 with the promise of order" in capsys.readouterr().err


def test_dropped_programs_are_shown_behind_the_others(folder, capsys):
    command = ("rerank", folder / "groups.jsonl", "--model", folder / "model", "--json")
    assert run(*command) == 0
    dense = [json.loads(line)["ranking"] for line in capsys.readouterr().out.splitlines()]
    assert run(*command, "--adaptive") == 0
    found = [json.loads(line)["ranking"] for line in capsys.readouterr().out.splitlines()]
    num_dropped = 0
    for full, ranking in zip(dense, found, strict=True):
        scores = {fact["index"]: fact["score"] for fact in full}
        dropped = [fact["dropped_at"] is not None for fact in ranking]
        assert dropped == sorted(dropped)
        for fact, is_dropped in zip(ranking, dropped, strict=True):
            assert fact["score"] == (None if is_dropped else scores[fact["index"]])
        num_dropped += sum(dropped)
    assert num_dropped
    assert run(*command[:-1], "--adaptive") == 0
    assert "dropped after 1 layers" in (shown := capsys.readouterr().out) or "dropped after 2 layers" in shown
    assert run(*command[:-1], "--adaptive", "--top-k", 2) == 2
    assert "top_k=2, and the exits were made for 1" in capsys.readouterr().err
    assert run(*command[:-1], "--adaptive", "--top-k", 1) == 0


def test_pairs_without_scores_are_not_counted(folder, tmp_path, capsys):
    records = [json.loads(line) for line in (folder / "groups.jsonl").read_text().splitlines()]
    for record in records:
        record["candidates"] = [{**c, "passed": n == 0} for n, c in enumerate(record["candidates"])]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    command = ("rerank", tmp_path / "labelled.jsonl", "--model", folder / "model")
    for adaptive, said in (((), "% (a coin: 50%)"), (("--adaptive",), "not known, since some have no score")):
        assert run(*command, *adaptive) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--adaptive", "--rm", "nano", "--rm", "a=nano", "--combine", "z"), "--adaptive is of one model"),
        (("--model", "nano", "--adaptive"), "has no exits.json"),
    ],
)
def test_what_has_no_exits(folder, arguments, message, capsys):
    assert run("rerank", folder / "groups.jsonl", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_promise_that_needs_more_problems(folder, capsys):
    assert run("fit-exits", folder / "model", folder / "groups.jsonl") == 2
    assert "269 are missing; add groups, or promise less" in capsys.readouterr().err
