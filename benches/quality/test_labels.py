"""Runs the measurement of labels on a few programs, and holds its figures against a count by hand."""

import json
import sys

import pytest

from benches.quality import labels

CODE = "def first_odd(nums):\n    return next((x for x in nums if x % 2), -1)"
TESTS = [f"assert first_odd({nums}) == {value}" for nums, value in (([1, 3, 4], 1), ([2, 4, 1, 3], 1), ([8, 9, 1], 9))]
PROGRAMS = (
    (CODE, True),
    ("def first_odd(nums):\n    for _ in range(20000): pass\n    return [x for x in nums if x % 2][0]", False),
    ("def first_odd(nums): return 9 if 9 in nums else 1", True),  # passes, and is wrong
    ("def first_odd(nums): return 1", False),
    ("def first_odd(nums): return 0", False),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    row = {"task_id": 601, "text": "p", "code": CODE, "test_list": TESTS, "challenge_test_list": [TESTS[0]]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row | {"test_setup_code": ""}) + "\n")
    candidates = [{"code": code, "passed": passed} for code, passed in PROGRAMS] + [{"code": None, "passed": False}]
    group = {"task_id": "mbpp/601", "prompt": "p", "candidates": candidates}
    (tmp_path / "groups.jsonl").write_text(json.dumps(group) + "\n")
    monkeypatch.setattr(labels, "RESULTS", tmp_path)
    arguments = ["labels", tmp_path / "mbpp.jsonl", tmp_path / "groups.jsonl", "--programs", "8", "--save", "few"]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    return labels.main


def test_figures(run, tmp_path, capsys):
    assert run() == 0
    figures = json.loads((tmp_path / "labels_few.json").read_text())
    assert figures["labels"]["counts"] == {
        "passed, passed here": 2, "failed, passed here": 1, "failed, failed here": 2
    }  # fmt: skip
    assert figures["labels"]["agreement"] == 0.8
    assert figures["tests"]["pass the first test"] == {"num_programs": 4, "fail another of the three": 1}
    challenged = figures["tests"]["pass all three, on problems with challenge tests"]
    assert (challenged["num_programs"], challenged["fail"]) == (3, 0)
    generated = figures["tests"]["pass all three, on problems with generated tests"]
    assert generated["fail"] >= 1 and generated["problems_with_one_that_fails"] == 1
    assert figures["efficiency"]["num_programs"] == 3
    assert figures["efficiency"]["preferences_of_both"] >= 2  # the slow one is slower than both others, by far
    assert figures["efficiency"]["preferences_of_one_that_the_other_turns"] == 0
    assert figures["throughput"]["num_programs"] == 8
    assert figures["throughput"]["processes_left"] == figures["throughput"]["files_left"] == []
    said = (tmp_path / "labels_few.txt").read_text()
    assert "## mbpp/601: failed; passed, passed, passed;" in said
    assert "assert _same(first_odd(" in said
    assert "label   here    programs" in capsys.readouterr().out
