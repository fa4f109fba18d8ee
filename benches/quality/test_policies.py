"""Gains of a policy are paired by problem."""

import json

import pytest

from benches.quality import policies
from codescaler.errors import InvalidInput


def write_run(folder, name, passed):
    (folder / name).mkdir()
    lines = [
        json.dumps({"task_id": task, "candidates": [{"passed": verdict} for verdict in verdicts]})
        for task, verdicts in passed.items()
    ]
    (folder / name / "eval_labelled.jsonl").write_text("\n".join(lines))
    figure = {"mean": 0.5, "interval": [0.4, 0.6]}
    record = {"run": name, "seed": 0, "minutes": 1.0, "num_problems": 2, "num_samples": 2}
    with (folder / "figures.jsonl").open("a") as file:
        file.write(json.dumps(record | dict.fromkeys(policies.SHOWN, figure)) + "\n")


def test_gains_are_those_of_the_same_problems(tmp_path, capsys):
    write_run(tmp_path, "base", {"a": [True, False], "b": [False, False]})
    write_run(tmp_path, "model", {"b": [True, False], "a": [True, True]})
    assert policies.main([str(tmp_path)]) == 0
    # Each problem gains a half, so no draw of problems gives another mean.
    assert "base: 50.0 [50.0, 50.0]" in capsys.readouterr().out


def test_samples_that_could_not_be_judged_do_not_count(tmp_path):
    write_run(tmp_path, "base", {"a": [True, None], "b": [None, None], "c": [True, False]})
    assert policies.read_shares(tmp_path / "base/eval_labelled.jsonl") == {"a": 1.0, "c": 0.5}


def test_a_problem_that_one_run_could_not_judge_is_left_out(tmp_path, capsys):
    write_run(tmp_path, "base", {"a": [False], "b": [True]})
    write_run(tmp_path, "model", {"a": [True], "b": [None]})
    assert policies.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "base: 100.0 [100.0, 100.0]" in out and "left out: 1 problems" in err


def test_runs_on_other_problems_are_refused(tmp_path):
    write_run(tmp_path, "base", {"a": [True]})
    write_run(tmp_path, "model", {"b": [True]})
    with pytest.raises(InvalidInput, match="no problem that was judged in both"):
        policies.main([str(tmp_path)])
