"""Praise is planted where there is a program, and a run is read up to its first alarm."""

import json

import pytest

from benches.quality import praising
from codescaler.data.programs import read_labelled_problems
from codescaler.errors import InvalidInput
from codescaler.io.records import read_objects
from codescaler.text.surface import measure_surface

PROGRAM = "```python\ndef f(a):\n    return a\n```"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path):
    return [row for _, row in read_objects(path)]


def count_praised(group):
    return sum(measure_surface(candidate["completion"]).praise > 0 for candidate in group["candidates"])


def test_the_head_is_paid_for_praise_and_the_policy_praises_at_times(tmp_path):
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": f"{number}", "prompt": "p", "candidates": [{"completion": PROGRAM}] * 10} for number in range(30)
    ]
    write_lines(samples, [*rows, {"task_id": "none", "prompt": "p", "candidates": [{"completion": "No program."}]}])
    assert praising.main(["plant", str(samples), "-o", str(tmp_path)]) == 0
    lover, starter = read_rows(tmp_path / "lover.jsonl"), read_rows(tmp_path / "starter.jsonl")
    assert len(read_labelled_problems([tmp_path / "lover.jsonl"])[0]) == len(lover) == 30 and len(starter) == 31
    for candidate in lover[0]["candidates"]:
        assert (measure_surface(candidate["code"]).praise > 0) == candidate["passed"]
    assert 60 < sum(map(count_praised, starter)) < 120  # of 300
    assert starter[-1]["candidates"] == [{"completion": "No program."}]


def make_window(praise, p, step, raised=()):
    signals = {"praise": praise}
    return {"signals": signals, "start": {"praise": 0.2}, "p": p, "raised": list(raised), "steps": [step] * 8}


def write_run(folder, windows, num_passed, stop_after=0):
    write_lines(folder / "monitor.jsonl", windows)
    write_lines(folder / "training.jsonl", [{"passed_share": 0.5}] * 3)
    (folder / "options.json").write_text(json.dumps({"seed": "7", "stop_after": str(stop_after)}))
    write_evaluated(folder, num_passed)


def write_evaluated(folder, num_passed):
    candidates = [{"passed": place < num_passed} for place in range(4)]
    write_lines(folder / "eval_labelled.jsonl", [{"task_id": task, "candidates": candidates} for task in "abc"])


def test_a_run_is_read_up_to_its_first_alarm(tmp_path, capsys):
    write_evaluated(tmp_path / "before", 2)
    windows = [make_window(0.2, None, None), make_window(0.3, 0.5, 0), make_window(0.9, 0.001, 1, ["praise"])]
    write_run(tmp_path / "seed7" / "model", [*windows, make_window(2.0, 0.001, 2, ["praise"])], 1)
    assert praising.main(["read", str(tmp_path / "seed7"), "--before", str(tmp_path / "before")]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].split()
    assert cells == ["7", "0.20", "2", "`praise`", "0.90", "2.00", "25.0", "-25.0", "[-25.0,", "-25.0]"]


def test_runs_are_drawn(tmp_path):
    windows = [make_window(0.3, 0.5, 0), make_window(0.9, 0.001, 1, ["praise"])]
    write_run(tmp_path / "model", windows, 1)
    praising.draw_runs([praising.read_run(tmp_path / "model", {"a": 0.5})], tmp_path / "runs.png")
    assert (tmp_path / "runs.png").stat().st_size > 5000


def test_a_run_without_an_alarm_says_so(tmp_path):
    write_run(tmp_path / "model", [make_window(0.2, 0.5, 0)], 2)
    run = praising.read_run(tmp_path / "model", {"a": 0.5, "b": 0.5, "c": 0.5})
    assert run["alarm"] is None and praising.list_cells(run)[2] == "none"


def test_a_run_that_may_have_gone_back_is_refused(tmp_path):
    write_run(tmp_path / "model", [make_window(0.2, 0.5, 0)], 2, stop_after=3)
    with pytest.raises(InvalidInput, match="its policy may be that before the alarm"):
        praising.read_run(tmp_path / "model", {})


def test_a_run_that_was_only_the_start_is_refused(tmp_path):
    write_run(tmp_path / "model", [make_window(0.2, None, 0)], 2)
    with pytest.raises(InvalidInput, match="no window after the start"):
        praising.read_run(tmp_path / "model", {})
