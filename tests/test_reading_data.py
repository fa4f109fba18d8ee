"""The problems of the model that reads: what is kept from training, and that packed programs come back whole."""

import gzip
import json
from pathlib import Path

import pytest

from benches.quality import sampled
from benches.quality.reading_data import FIRST_LATE, make_reference_groups, take_before_window
from codescaler.evaluate.tables import format_percent
from codescaler.text.mismatches import DROPPED, NEAR_MISS, OTHER, RENAMED
from codescaler.types import Task

ROOT = Path(__file__).parents[1]


def test_problems_that_livecodebench_may_hold_are_left_out():
    names = ["leetcode/two-sum", "leetcode/hard", FIRST_LATE, "leetcode/late"]
    levels = ["Easy", "Hard", "Easy", "Medium"]
    tasks = [Task(name, "p", None, difficulty=level) for name, level in zip(names, levels, strict=True)]
    assert [task.task_id for task in take_before_window(tasks)] == ["leetcode/two-sum"]
    with pytest.raises(ValueError, match="not in list"):  # a file in another order cannot be cut
        take_before_window(tasks[:2])


def test_a_solution_is_a_group():
    tasks = [
        Task("t/1", "p", None, reference="a\r\nb"),
        Task("t/2", "p" * 9999, None, reference="a"),
        Task("t/3", "p", None),
    ]
    (group,) = make_reference_groups(tasks)
    assert group["task_id"] == "t/1/reference" and group["candidates"] == [{"code": "a\nb", "passed": True}]


def test_packed_programs_come_back(tmp_path):
    candidates = [
        {"completion": "```python\nx = 1\n```", "code": "x = 1", "finish": "stop", "passed": True, "passed_tests": 3},
        {"completion": "none", "code": None, "finish": "length", "passed": False},
    ]
    record = {
        "task_id": "t/1",
        "split": "validation",
        "prompt": "p",
        "candidates": candidates,
        "generator": {"seed": 1},
    }
    packed = sampled.pack_group(record)
    assert "prompt" not in packed and "code" not in packed["candidates"][0]
    path = tmp_path / "packed.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(packed).encode()))
    (group,) = sampled.read_sampled(path, [Task("t/1", "p", None)])
    del candidates[0]["passed_tests"]
    assert group == record


@pytest.mark.parametrize(("run", "name"), [("student", "nano"), ("untaught", "student"), ("student", "student")])
def test_figures_of_the_page_are_those_measured(run, name):
    measured = json.loads((ROOT / f"benches/results/reading_{run}.json").read_text())["figures"]["scorers"][name]
    page = (ROOT / "docs/training.md").read_text()
    for kind in (OTHER, RENAMED, NEAR_MISS, DROPPED):
        assert format_percent(measured["before"][kind]) in page, kind
    assert format_percent(measured["pair_accuracy_own"]) in page
    assert format_percent(measured["fall"], "+") in page
