"""Which format a record is in, what a file may hold, and that a record, however wrong, raises InvalidInput at most."""

import gzip
import itertools
import json
import sys

import pytest

from codescaler.errors import InvalidInput
from codescaler.tasks import FORMATS, read_challenge_tasks, read_tasks

# The smallest record of each shape that says all that is read.
RECORDS = {
    "codescaler": {
        "task_id": "t/1",
        "prompt": "Add.",
        "tests": {"statements": ["assert f(1) == 2"], "entry_points": ["f"], "prelude": "", "setup": ""},
        "reference": None,
        "difficulty": "easy",
    },
    "mbpp": {
        "task_id": 601,
        "text": "Write a function to add.",
        "code": "def f(a):\r\n    return a + 1",
        "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
        "test_setup_code": "",
        "challenge_test_list": ["assert f(-1) == 0"],
    },
    "leetcode": {
        "task_id": "two-sum",
        "difficulty": "Easy",
        "query": "Add.",
        "prelude": "from typing import *",
        "entry_point": "Solution().f",
        "completion": "class Solution: ...",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    },
    "humaneval-x": {
        "task_id": "CPP/0",
        "prompt": "int f(int a) {\n",
        "declaration": "int f(int a) {\n",
        "canonical_solution": "return a + 1; }",
        "test": "int main() { return f(1) != 2; }",
    },
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'import math\n\ndef f(a):\n    """Add."""\n',
        "canonical_solution": "    return a + 1\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": "f",
    },
    "livecodebench": {
        "question_id": "1873_A",
        "question_content": "Add.",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        "private_test_cases": "",
        "metadata": "{}",
    },
    "codecontests": {
        "name": "1575_A. Add",
        "description": "Add.",
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": {"input": ["3\n"], "output": ["4\n"]},
        "solutions": {"language": [2, 3], "solution": ["int main() {}", "print(int(input()) + 1)"]},
        "difficulty": 7,
    },
    "codecontests+": {
        "id": "1575_A",
        "description": "Add.",
        "test_cases": [{"input": "1\n", "output": "2\n"}],
        "time_limit": 2500,
        "correct_submissions": [{"language": "cpp", "code": "int main() {}"}, {"language": "py3", "code": "x = 1"}],
    },
    "apps": {
        "problem_id": 1,
        "question": "Add.",
        "solutions": json.dumps(["print input() + 1", "print(int(input()) + 1)"]),
        "input_output": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]}),
        "difficulty": "introductory",
        "starter_code": "",
    },
    "taco": {
        "question": "Add.",
        "solutions": json.dumps(["print input() + 1", "print(int(input()) + 1)"]),
        "input_output": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]}),
        "difficulty": "EASY",
        "starter_code": "",
    },
}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_every_format_has_a_record_here():
    assert RECORDS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", RECORDS)
def test_auto_is_the_format_by_name(tmp_path, name):
    path = write(tmp_path / "tasks.jsonl", RECORDS[name])
    (task,) = read_tasks(path)
    assert read_tasks(str(path), name) == [task]
    assert task.tests is not None
    assert task.name == f"{path}, line 1"


def test_formats_may_be_mixed_and_the_file_packed_or_an_array(tmp_path):
    lines = write(tmp_path / "tasks.jsonl", *RECORDS.values())
    packed = tmp_path / "tasks.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    array = tmp_path / "tasks.json"
    array.write_text("\ufeff\n" + json.dumps(list(RECORDS.values()), indent=1), encoding="utf-8")
    tasks = read_tasks(lines)
    assert len(tasks) == len(RECORDS)
    for path, word in ((packed, "line"), (array, "item")):
        again = read_tasks(path)
        assert [task.task_id for task in again] == [task.task_id for task in tasks]
        assert [task.tests for task in again] == [task.tests for task in tasks]
        assert again[2].name == f"{path}, {word} 3"


def test_challenge_tests_stand_in_for_the_published_ones(tmp_path):
    without = RECORDS["mbpp"] | {"task_id": 602, "challenge_test_list": []}
    (task,) = read_challenge_tasks(write(tmp_path / "mbpp.jsonl", without, RECORDS["mbpp"]))
    assert (task.task_id, task.tests.statements) == ("mbpp/601", ("assert f(-1) == 0",))
    assert task.prompt.endswith("\nassert f(1) == 2")


@pytest.mark.parametrize(
    "records, message",
    [
        (
            [{"a": 1, "b": 2}],
            "line 1 has the fields 'a, b', none of these sets: codescaler: prompt, task_id, tests; mbpp",
        ),
        ([RECORDS["mbpp"], RECORDS["mbpp"]], r"line 2: task_id 'mbpp/601' is that of .*line 1 too"),
    ],
)
def test_what_cannot_be_told_is_named(tmp_path, records, message):
    with pytest.raises(InvalidInput, match=message):
        read_tasks(write(tmp_path / "tasks.jsonl", *records))


def test_a_bad_row_or_a_doubled_one_is_left_out_with_its_reason(tmp_path):
    path = write(tmp_path / "tasks.jsonl", {"a": 1}, RECORDS["mbpp"], RECORDS["mbpp"] | {"task_id": 3}, RECORDS["mbpp"])
    path.write_text("{\n[3]\n" + path.read_text() + json.dumps(RECORDS["mbpp"] | {"task_id": 4, "code": 1}))
    left_out = []
    assert [task.task_id for task in read_tasks(path, left_out=left_out)] == ["mbpp/601", "mbpp/3"]
    lines = [(1, "is not JSON"), (2, "holds a JSON list"), (3, "has the fields"), (6, "is that of"), (7, "code is 1;")]
    for error, (line, message) in zip(left_out, lines, strict=True):
        assert f"line {line}" in str(error) and message in str(error)
    with pytest.raises(InvalidInput, match="line 1 is not JSON"):
        read_tasks(path)
    array = tmp_path / "tasks.json"
    array.write_text(json.dumps([3, RECORDS["mbpp"]]))
    assert len(read_tasks(array, left_out=left_out)) == 1
    with pytest.raises(InvalidInput, match="line 1 has the fields"):
        read_tasks(write(path, {"a": 1}), left_out=[])


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="format 'atcoder' is not known; use auto or one of codescaler, mbpp"):
        read_tasks(tmp_path / "tasks.jsonl", "atcoder")


@pytest.mark.parametrize(
    "content, message",
    [
        ("[{", "is not JSON"),
        ('[{"a": 1}, 3]', "item 1 has the fields"),
        ("[3]", "item 1 holds a JSON int"),
        ("[" * 100_000, "is not JSON"),
        ("\n\n[]", None),
        ("  \n", None),
    ],
)
def test_arrays_are_checked(tmp_path, content, message):
    path = tmp_path / "tasks.json"
    path.write_text(content)
    if message is None:
        assert read_tasks(path) == []
        return
    with pytest.raises(InvalidInput, match=message):
        read_tasks(path)


def test_an_array_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("codescaler.io.records.MAX_ARRAY_CHARS", 10)
    path = tmp_path / "tasks.json"
    path.write_text('[{"a": "0123456789"}]')
    with pytest.raises(InvalidInput, match="array of more than 10 characters; use JSON lines"):
        read_tasks(path)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = [
    *(None, True, 3, -1, 2.5, "", "x", "\ud800", "\0", "[", "[3]", "{}", '{"inputs": 3}'),
    '{"fn_name": "f", "inputs": [1], "outputs": [1]}',
    *([], [3], ["x"], [["a"]], [["a", 3]], {}, {"a": 3}, {"input": 3, "output": []}),
    *(nested(300), json.dumps(nested(300)), {"statements": [3]}, {"cases": [["a"]]}, {"cases": 3}),
]


def outcome(path, name):
    """The error's text, "" for none; any other error than InvalidInput is the test's."""
    try:
        read_tasks(path, name)
    except InvalidInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", RECORDS)
def test_any_value_in_any_field_is_a_task_or_an_error_that_names_the_line(tmp_path, name):
    path = tmp_path / "tasks.jsonl"
    refused = []
    for field, value in itertools.product(RECORDS[name], WRONG):
        write(path, RECORDS[name] | {field: value})
        refused += filter(None, [outcome(path, name)])
    assert len(refused) > len(RECORDS[name]) * 3
    assert all(message.startswith(f"{path}, line 1") for message in refused)


def test_json_just_shallow_enough_to_be_read_is_written_as_python_too(tmp_path):
    path, outcomes = tmp_path / "tasks.jsonl", []
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        called = '{"fn_name": "f", "inputs": [[' + "[" * depth + "]" * depth + ']], "outputs": [1]}'
        for value in (called, json.dumps(called)):
            path.write_text('{"question": "q", "input_output": ' + value + "}")
            outcomes.append(outcome(path, "taco"))
    assert outcomes[0] == ""
    assert {message for message in outcomes if "is not JSON" not in message} == {""}


@pytest.mark.parametrize("name", RECORDS)
def test_a_field_that_tells_the_format_may_not_be_absent(tmp_path, name):
    for field in RECORDS[name]:
        path = write(tmp_path / "tasks.jsonl", {key: RECORDS[name][key] for key in RECORDS[name] if key != field})
        needed = any(field in shape for shape in FORMATS[name][1])
        assert ("none of these sets" in outcome(path, name)) == needed
        # A row of APPS without its id is one of TACO.
        assert ("none of these sets" in outcome(path, "auto")) == (needed and field != "problem_id")
