"""Groups of completions: what is asked, what is kept, and that a stopped run asks no more and no less."""

import dataclasses
import json

import pytest

from codescaler.data.sample.sampling import (
    Completion,
    Sampling,
    choose_tasks,
    derive_seed,
    make_group_record,
    sample_tasks,
)
from codescaler.errors import InvalidInput
from codescaler.io.records import read_groups
from codescaler.types import StdioTests, Task

SAMPLING = Sampling("tiny", num_samples=3)
TASKS = [Task(f"t/{i}", f"Problem {i}", split="train" if i % 2 else "test", license="MIT") for i in range(5)]


class Parrot:
    """Answers with the seed; stops after some requests."""

    identity = "parrot"

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.asked = []

    def complete(self, requests):
        for request in requests:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request.task_id)
            yield [Completion(f"```python\nx = {seed}\n```", "stop") for seed in request.seeds]


def test_a_group_for_each_task(tmp_path):
    counts = sample_tasks(TASKS, Parrot(), SAMPLING, tmp_path / "out.jsonl", lambda _: None)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["task_id"] for record in records] == [task.task_id for task in TASKS]
    assert records[1]["split"] == "train" and records[1]["license"] == "MIT" and records[1]["prompt"] == "Problem 1"
    assert records[1]["generator"] == {
        "model": "tiny", "temperature": 0.8, "top_p": 0.95, "max_tokens": 1024, "seed": 0,
        "answered_by": Parrot.identity,
    }  # fmt: skip
    expected = [f"x = {derive_seed(0, 't/1', index)}" for index in range(3)]
    assert [candidate["code"] for candidate in records[1]["candidates"]] == expected
    assert counts == {
        "groups": 5, "completions": 15, "invalid": 0, "duplicates": 0, "cut_short": 0, "empty": 0
    }  # fmt: skip
    assert len(read_groups(tmp_path / "out.jsonl")) == 5


@pytest.mark.parametrize("stop_after", [0, 1, 4])
def test_a_stopped_run_goes_on_and_ends_with_the_same_file(tmp_path, stop_after):
    sample_tasks(TASKS, Parrot(), SAMPLING, tmp_path / "whole.jsonl", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        sample_tasks(TASKS, Parrot(stop_after), SAMPLING, tmp_path / "out.jsonl", lambda _: None)
    again, told = Parrot(), []
    sample_tasks(TASKS, again, SAMPLING, tmp_path / "out.jsonl", told.append)
    assert again.asked == [task.task_id for task in TASKS[stop_after:]]
    assert sum(told) == 5
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_other_settings_do_not_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sample_tasks(TASKS, Parrot(1), SAMPLING, tmp_path / "out.jsonl", lambda _: None)
    cooler = Sampling("tiny", temperature=0.5, num_samples=3)
    with pytest.raises(InvalidInput, match=r"temperature 0\.8, and it is 0\.5 now"):
        sample_tasks(TASKS, Parrot(), cooler, tmp_path / "out.jsonl", lambda _: None)
    with pytest.raises(InvalidInput, match="made with tasks"):
        sample_tasks(TASKS[:4], Parrot(), SAMPLING, tmp_path / "out.jsonl", lambda _: None)


def test_repeated_programs_stay_and_say_so():
    texts = ["```python\nx = 1\n```", "So:\n```python\nx = 1\n```", "no program", "no program", "other"]
    record = make_group_record(TASKS[0], [Completion(text, "length") for text in texts], SAMPLING, "a parrot")
    assert [candidate.get("duplicate_of") for candidate in record["candidates"]] == [None, 0, None, 2, None]
    assert [candidate["code"] for candidate in record["candidates"]] == ["x = 1", "x = 1", None, None, None]
    assert record["candidates"][1]["completion"] == texts[1]


def test_a_sample_has_a_seed_of_its_own():
    seeds = {derive_seed(seed, task_id, index) for seed in (0, 1) for task_id in ("a", "b") for index in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(1, "2", 3) == derive_seed(1, "2", 3) != derive_seed(1, "3", 2)


def test_tasks_are_chosen_by_split_difficulty_and_number():
    assert [task.task_id for task in choose_tasks(TASKS, "test", 2)] == ["t/0", "t/2"]
    assert len(choose_tasks(TASKS, None, None)) == 5
    with pytest.raises(InvalidInput, match="has the split 'tset'; there are test, train"):
        choose_tasks(TASKS, "tset", None)
    with pytest.raises(InvalidInput, match=r"1 task_ids are there twice, such as 't/0'"):
        choose_tasks([*TASKS, TASKS[0]], None, None)
    words = ("Easy", "Hard", None, "Easy", None)
    graded = [dataclasses.replace(task, difficulty=word) for task, word in zip(TASKS, words, strict=True)]
    assert [task.task_id for task in choose_tasks(graded, None, None, "easy")] == ["t/0", "t/3"]
    assert [task.task_id for task in choose_tasks(graded, None, 1, "Hard")] == ["t/1"]
    with pytest.raises(InvalidInput, match="no task of 5 has the difficulty 'medium'; there are Easy, Hard, None"):
        choose_tasks(graded, None, None, "medium")
    with pytest.raises(InvalidInput, match="limit 0"):
        choose_tasks(TASKS, None, 0)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temperature": -1}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": 0}, "are the same one"),
        ({"top_p": 0}, "top_p 0"),
        ({"top_p": 1.1}, r"top_p 1\.1"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"num_samples": 0}, "num_samples 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InvalidInput, match=message):
        Sampling("m", **settings)


def test_programs_are_taken_out_in_the_language_of_the_task():
    task = Task("CPP/0", "int f() {", StdioTests((("", ""),), language="cpp", harness="int main() {}"))
    texts = ["```cpp\nint f() { return 1; }\n```", "```cpp\nint f( return\n```"]
    record = make_group_record(task, [Completion(text, "stop") for text in texts], SAMPLING, "a parrot")
    assert record["language"] == "cpp"
    assert [candidate["code"] for candidate in record["candidates"]] == ["int f() { return 1; }", None]
