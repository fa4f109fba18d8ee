import base64
import json
import pickle
import zlib

import pytest

from codescaler.errors import InvalidInput
from codescaler.tasks import read_tasks
from codescaler.types import StdioTests


def read(tmp_path, record, **changes):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(record | changes))
    return read_tasks(path)[0]


def passes(tests, program):
    scope = {}
    exec(tests.prelude + program, scope)
    for statement in tests.statements:
        try:
            exec(statement, scope)
        except AssertionError:
            yield False
        else:
            yield True


def stdin(text, output):
    return {"input": text, "output": output, "testtype": "stdin"}


LIVE = {
    "question_title": "Add",
    "question_content": "Add one.",
    "question_id": "1873_A",
    "difficulty": "easy",
    "starter_code": "",
    "public_test_cases": json.dumps([stdin("1", "2")]),
    "private_test_cases": base64.b64encode(
        zlib.compress(pickle.dumps(json.dumps([stdin("3", "4"), stdin("5", "6")])))
    ).decode(),
    "metadata": "{}",
}


def test_livecodebench_of_programs(tmp_path):
    task = read(tmp_path, LIVE)
    assert task.tests == StdioTests((("1", "2"), ("3", "4"), ("5", "6")))
    assert (task.task_id, task.prompt, task.difficulty) == ("livecodebench/1873_A", "Add one.", "easy")
    plain = read(tmp_path, LIVE, private_test_cases=json.dumps([stdin("7", "8")]))
    assert plain.tests.cases == (("1", "2"), ("7", "8"))


def test_livecodebench_of_functions(tmp_path):
    cases = [
        {"input": '"a"\n[1, null]', "output": "[true, 1.5]", "testtype": "functional"},
        {"input": '"b"\n[]', "output": "[false, 1.5]", "testtype": "functional"},
    ]
    changes = {
        "public_test_cases": json.dumps(cases),
        "private_test_cases": "",
        "starter_code": "class Solution:\n    def f(self, a: str, b: List[int]) -> list:\n        ",
        "metadata": '{"func_name": "f"}',
    }
    task = read(tmp_path, LIVE, **changes)
    assert task.tests.statements == (
        "assert Solution().f('a', [1, None]) == [True, 1.5]",
        "assert Solution().f('b', []) == [False, 1.5]",
    )
    assert task.tests.entry_points == ("Solution",)
    assert task.prompt == f"Add one.\n\nComplete this code:\n```python\n{changes['starter_code']}\n```"
    program = "class Solution:\n    def f(self, a: str, b: List[int]) -> list:\n        return [a == 'a', 1.5]\n"
    assert list(passes(task.tests, program)) == [True, True]
    assert list(passes(task.tests, program.replace("== 'a'", "== 'b'"))) == [False, False]
    for metadata, message in (("{}", "func_name is None"), ('{"func_name": "f(1)"}', "give the name of a function")):
        with pytest.raises(InvalidInput, match=f"line 1: metadata: .*{message}"):
            read(tmp_path, LIVE, **changes | {"metadata": metadata})
    with pytest.raises(InvalidInput, match=r"private_test_cases\[0\] is 'NaN', which is not JSON"):
        read(tmp_path, LIVE, **changes | {"private_test_cases": json.dumps([cases[0] | {"output": "NaN"}])})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"public_test_cases": json.dumps([stdin("", "") | {"testtype": "functional"}])}, "testtype 'functional', 'st"),
        ({"public_test_cases": json.dumps([{"input": "1"}])}, r"public_test_cases\[0\]: testtype is None"),
        ({"public_test_cases": "[3]"}, r"public_test_cases is '\[3\]'; give a list of objects"),
        ({"private_test_cases": "????"}, "private_test_cases is neither a JSON list nor a packed string"),
    ],
)
def test_livecodebench_is_checked(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=f"line 1.*{message}"):
        read(tmp_path, LIVE, **changes)


CONTEST = {
    "name": "1575_A. Add",
    "description": "Add one.",
    "public_tests": {"input": ["1"], "output": ["2"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["3", "5"], "output": ["4", "6"]},
    "solutions": {"language": [1, 2, 3, 3], "solution": ["print input()", "int main() {}", "a = 1", "b = 1"]},
    "incorrect_solutions": {"language": [], "solution": []},
    "difficulty": 9,
}


def test_codecontests(tmp_path):
    task = read(tmp_path, CONTEST)
    assert task.tests == StdioTests((("1", "2"), ("3", "4"), ("5", "6")))
    assert (task.task_id, task.reference, task.difficulty) == ("codecontests/1575_A. Add", "a = 1", "C")
    listed = read(
        tmp_path,
        CONTEST,
        public_tests=[{"input": "1", "output": "2"}],
        private_tests=None,
        generated_tests=[],
        solutions=[{"language": "CPP", "solution": "x"}, {"language": "PYTHON3", "solution": "c = 1"}],
        difficulty="HARD",
    )
    assert (listed.tests.cases, listed.reference, listed.difficulty) == ((("1", "2"),), "c = 1", "HARD")


@pytest.mark.parametrize("number, name", [(0, None), (1, "EASY"), (6, "EXTERNAL"), (7, "A"), (28, "V")])
def test_difficulties_of_codecontests(tmp_path, number, name):
    assert read(tmp_path, CONTEST, difficulty=number).difficulty == name


def test_codecontests_of_fewer_fields(tmp_path):
    record = {"name": "n", "statement": "Add.", "tags": ["math"], "solution": "a = 1", "tests": [["1", "2"], ["", ""]]}
    task = read(tmp_path, record)
    assert (task.prompt, task.reference, task.tests.cases) == ("Add.", "a = 1", (("1", "2"), ("", "")))
    assert read(tmp_path, record, tests=[]).tests is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"public_tests": {"input": ["1"], "output": []}}, "give lists input and output of one length"),
        ({"public_tests": {"input": ["1"]}}, "give lists input and output of one length"),
        ({"public_tests": {"input": [1], "output": ["2"]}}, r"public_tests\[0\]: input is 1; give a string"),
        ({"solutions": {"language": [3], "solution": [3]}}, r"solutions\[0\]: solution is 3"),
        ({"difficulty": 29}, "difficulty is 29; give a number from 0 to 28, or a name"),
        ({"difficulty": 1.5}, "difficulty is 1.5; give a number or a name"),
    ],
)
def test_codecontests_is_checked(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=f"line 1.*{message}"):
        read(tmp_path, CONTEST, **changes)


TACO = {
    "question": "Add one.",
    "solutions": json.dumps(["print input() + 1", "def f(a):\n    return a + 1"]),
    "input_output": json.dumps({"inputs": ["1\n", ["2", "3"]], "outputs": ["2\n", ["3"]]}),
    "difficulty": "VERY_HARD",
    "starter_code": "",
}


def test_taco_of_programs(tmp_path):
    task = read(tmp_path, TACO)
    assert task.tests == StdioTests((("1\n", "2\n"), ("2\n3", "3")))
    assert (task.reference, task.difficulty) == ("def f(a):\n    return a + 1", "VERY_HARD")
    assert task.task_id == read(tmp_path, TACO, difficulty="EASY").task_id
    assert task.task_id != read(tmp_path, TACO, question="Add two.").task_id
    for empty in (None, "", "{}", json.dumps({"inputs": [], "outputs": []})):
        assert read(tmp_path, TACO, input_output=empty).tests is None


def test_taco_of_functions(tmp_path):
    called = {"fn_name": "f", "inputs": [[1], [2], [3]], "outputs": [[2], 3, [[4]]]}
    task = read(tmp_path, TACO, input_output=json.dumps(called))
    assert task.tests.statements == (
        "assert f(1) in ([2], 2)",
        "assert f(2) == 3",
        "assert f(3) in ([[4]], [4])",
    )
    assert task.tests.entry_points == ("f",)
    assert list(passes(task.tests, task.reference)) == [True, True, False]
    starter = "class Solution:\n    def f(self, a: int) -> int:"
    method = read(tmp_path, TACO, input_output=json.dumps(called), starter_code=starter)
    assert method.tests.statements[1] == "assert Solution().f(2) == 3"
    assert method.tests.entry_points == ("Solution",)


@pytest.mark.parametrize(
    "value, message",
    [
        ({"inputs": ["1"]}, "give lists inputs and outputs of one length"),
        ({"inputs": ["1"], "outputs": [2]}, r"tests\[0\]: outputs is 2; give a string"),
        ({"inputs": ["1"], "outputs": ["2"], "fn_name": "f"}, r"tests\[0\]: inputs is '1'; give a list of arguments"),
        ({"inputs": [[1]], "outputs": ["2"], "fn_name": "1f"}, "fn_name is '1f'; give the name of a function"),
        ([], None),
        ([3], r"input_output is \[3\]; give an object"),
    ],
)
def test_taco_is_checked(tmp_path, value, message):
    if message is None:
        assert read(tmp_path, TACO, input_output=value).tests is None
        return
    with pytest.raises(InvalidInput, match=f"line 1.*{message}"):
        read(tmp_path, TACO, input_output=json.dumps(value))
