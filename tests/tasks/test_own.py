import json

import pytest

from codescaler.errors import InvalidInput
from codescaler.tasks import make_task_record, read_tasks
from codescaler.types import CallTests, StdioTests, Task

TASKS = [
    Task("a", "p", CallTests(("assert f() == 1", "f()"), ("f",), "import math", "x = 1"), "def f(): ..."),
    Task("b", "", CallTests((), ()), "", "hard", "train", "MIT", "graphs"),
    Task("c", "p", StdioTests((("1\n", "2\n"), ("", "")))),
    Task("c2", "p", StdioTests((("1\n", "2\n"),), "import math", "apps", True, 6, "in.txt", "out.txt")),
    Task("c4", "p", StdioTests((("", ""),), language="cpp", harness="int main() {}")),
    Task("c3", "p", CallTests(("f()",), ("f",), classes=("A",), comparison="livecodebench", cpu_seconds=3)),
    Task("d", "p"),
    Task("e", "p", tags=("graphs", "trees"), rating=1900),
]


def test_a_task_comes_back_as_it_was(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(make_task_record(task)) + "\n" for task in TASKS))
    assert [make_task_record(task) for task in read_tasks(path)] == [make_task_record(task) for task in TASKS]
    for index, (task, again) in enumerate(zip(TASKS, read_tasks(path), strict=True), start=1):
        assert again.name == f"{path}, line {index}"
        assert (again.task_id, again.prompt, again.tests) == (task.task_id, task.prompt, task.tests)
        assert (again.reference, again.difficulty, again.split) == (task.reference, task.difficulty, task.split)
        assert (again.license, again.domain) == (task.license, task.domain)
        assert (again.tags, again.rating) == (task.tags, task.rating)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tests": {"statements": [], "cases": []}}, "tests is .*; give an object with statements, or one with cases"),
        ({"tests": {"entry_points": []}}, "give an object with statements, or one with cases"),
        ({"tests": {"statements": [3]}}, r"tests: statements is \[3\]; give a list of strings"),
        ({"tests": {"cases": [["1"]]}}, r"tests.cases\[0\]: stdin is None; give a string"),
        ({"tests": {"cases": [["1", 2]]}}, r"tests.cases\[0\]: stdout is 2; give a string"),
        ({"tests": {"cases": [], "comparison": "exact"}}, "comparison is 'exact'; give one of lines, livecodebench"),
        ({"tests": {"cases": [], "language": "perl"}}, "tests: language is 'perl'; give one of python, c, cpp"),
        ({"tests": {"cases": [], "cpu_seconds": 0}}, "cpu_seconds is 0; give a whole number of at least 1"),
        ({"difficulty": 3}, "difficulty is 3; give a string"),
        ({"tags": [3]}, "tags is .3.; give a list of strings"),
        ({"rating": "1900"}, "rating is '1900'; give a whole number"),
        ({"task_id": 3}, "task_id is 3; give a string"),
    ],
)
def test_a_malformed_record_is_named(tmp_path, changes, message):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(make_task_record(TASKS[-1]) | changes))
    with pytest.raises(InvalidInput, match=f"line 1.*{message}"):
        read_tasks(path)
