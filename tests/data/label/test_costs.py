"""Costs on the candidates that passed, from a meter that knows them."""

import json

import pytest

from codescaler.data.label.costs import measure_groups
from codescaler.errors import InvalidInput
from codescaler.types import CallTests, Task

TASKS = [Task(f"t/{index}", "p", CallTests(("assert f()",))) for index in range(3)] + [Task("t/3", "p")]
LIMITS = {"cpu_seconds": 5}


class Meter:
    def __init__(self):
        self.asked = []

    def measure_many(self, jobs, *, num_rounds):
        for codes, tests in jobs:
            assert tests == TASKS[0].tests
            self.asked.append(codes)
            yield [None if "never" in code else (len(code) / 1000,) * num_rounds for code in codes]


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labelled.jsonl"
    candidates = [
        [("a = 1", True), ("bb = 2", True), ("a = 1", True), ("c", False), (None, False)],
        [("a = 1", True), ("a = 1", True), ("b", None)],
        [("never", True), ("b = 22", True)],
        [("a = 1", True), ("b = 2", True)],
    ]
    with path.open("w") as file:
        for index, programs in enumerate(candidates):
            stale = [{"code": code, "passed": passed, "cost_seconds": [9.0], "x": 1} for code, passed in programs]
            file.write(json.dumps({"task_id": f"t/{index}", "prompt": "p", "candidates": stale, "y": 2}) + "\n")
    return path


def costs(path):
    return [[c.get("cost_seconds") for c in json.loads(line)["candidates"]] for line in path.read_text().splitlines()]


def test_programs_that_passed_have_a_cost_where_there_are_two(labelled, tmp_path):
    target, meter, done = tmp_path / "costs.jsonl", Meter(), []
    assert measure_groups(labelled, TASKS, target, meter, limits=LIMITS, advance=done.append) == (4, 1)
    assert meter.asked == [["a = 1", "bb = 2"], ["never", "b = 22"]]
    a, b = [0.005] * 5, [0.006] * 5
    assert costs(target) == [[a, b, a, None, None], [None, None, None], [None, b], [None, None]]
    record = json.loads(target.read_text().splitlines()[0])
    assert record["y"] == 2 and record["candidates"][0]["x"] == 1
    assert sum(done) == 4


def test_a_run_that_was_stopped_goes_on(labelled, tmp_path):
    whole, target = tmp_path / "whole.jsonl", tmp_path / "costs.jsonl"
    measure_groups(labelled, TASKS, whole, Meter(), limits=LIMITS)

    def stop(number):
        if number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_groups(labelled, TASKS, target, Meter(), limits=LIMITS, advance=stop)
    assert not target.exists()
    with pytest.raises(InvalidInput, match="num_rounds"):
        measure_groups(labelled, TASKS, target, Meter(), num_rounds=6, limits=LIMITS)
    meter = Meter()
    assert measure_groups(labelled, TASKS, target, meter, limits=LIMITS) == (2, 1)
    assert meter.asked == [["never", "b = 22"]]
    assert target.read_bytes() == whole.read_bytes()


def test_bad_input(labelled, tmp_path):
    with pytest.raises(InvalidInput, match="there is no task 't/3'"):
        measure_groups(labelled, TASKS[:3], tmp_path / "out.jsonl", Meter(), limits=LIMITS)
    with pytest.raises(InvalidInput, match="num_rounds=4; fewer than 5"):
        measure_groups(labelled, TASKS, tmp_path / "out.jsonl", Meter(), num_rounds=4, limits=LIMITS)
    assert not (tmp_path / "out.jsonl").exists()
