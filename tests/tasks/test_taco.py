import json
import sys

import pytest

from codescaler.errors import InvalidInput

from .plain import passes, read

TACO = {
    "question": "Add one.",
    "solutions": json.dumps(["print input() + 1", "def f(a):\n    return a + 1"]),
    "input_output": json.dumps({"inputs": ["1\n", ["2", "3"]], "outputs": ["2\n", ["3"]]}),
    "difficulty": "VERY_HARD",
    "starter_code": "",
}


def test_taco_of_programs(tmp_path):
    task = read(tmp_path, TACO)
    assert task.tests.cases == (("1\n", "2\n"), ("2\n3", "3"))
    assert (task.tests.comparison, task.tests.allows_return, task.tests.cpu_seconds) == ("apps", True, 4)
    scope = {}
    exec(task.tests.prelude, scope)
    assert scope["log2"](8) == 3 and scope["heappop"]([1]) == 1 and scope["stdin"] is sys.stdin and "pow" not in scope
    assert (task.reference, task.difficulty) == ("def f(a):\n    return a + 1", "VERY_HARD")
    assert task.task_id == read(tmp_path, TACO, difficulty="EASY").task_id
    assert task.task_id != read(tmp_path, TACO, question="Add two.").task_id
    tagged = read(tmp_path, TACO, tags="['Sorting', 'Graphs']", skill_types="['Sorting', 'Data structures']")
    assert tagged.tags == ("Sorting", "Graphs", "Data structures") and read(tmp_path, TACO, tags="[]").tags == ()
    for empty in (None, "", "{}", json.dumps({"inputs": [], "outputs": []})):
        assert read(tmp_path, TACO, input_output=empty).tests is None


def test_taco_of_functions(tmp_path):
    called = {"fn_name": "f", "inputs": [[1], [2], [3]], "outputs": [[2], 3, [[4]]]}
    task = read(tmp_path, TACO, input_output=json.dumps(called))
    assert task.tests.statements == (
        "assert _is_expected(f(1), [2])",
        "assert _is_expected(f(2), 3)",
        "assert _is_expected(f(3), [[4]])",
    )
    assert task.tests.entry_points == ("f",)
    assert passes(task.tests, task.reference) == [True, True, False]
    starter = "class Solution:\n    def f(self, a: int) -> int:"
    method = read(tmp_path, TACO, input_output=json.dumps(called), starter_code=starter)
    assert method.tests.statements[1] == "assert _is_expected(Solution().f(2), 3)"
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


@pytest.mark.parametrize(
    "inputs, outputs, call",
    [
        ([{"1": 2, "-3": 4}], [{"5": 6}], "f({1: 2, -3: 4}), [{5: 6}]"),
        ([{"1": 2}, {"3": 4}], {"5": {"6": 7}}, "f({1: 2}, {'3': 4}), [{5: {'6': 7}}]"),
        ([{"a": 2}], {"5": 6, "a": 7}, "f({'a': 2}), {'5': 6, 'a': 7}"),
        ([[{"1": 2}]], [[{"1": 2}]], "f([{'1': 2}]), [[{'1': 2}]]"),
    ],
)
def test_keys_of_json_become_numbers_where_all_are(tmp_path, inputs, outputs, call):
    called = {"fn_name": "f", "inputs": [inputs], "outputs": [outputs]}
    task = read(tmp_path, TACO, input_output=json.dumps(called))
    assert task.tests.statements == (f"assert _is_expected({call})",)


def test_a_reference_is_a_program_that_compiles(tmp_path):
    programs = ["print 1", "for x in y: pass\nbreak", "x = 1\nif x:\n    return", "x = 1"]
    assert read(tmp_path, TACO, solutions=json.dumps(programs)).reference == programs[2]


def test_apps_is_told_by_its_id(tmp_path):
    task = read(tmp_path, TACO | {"problem_id": 4000})
    assert (task.task_id, task.tests.comparison) == ("apps/4000", "apps")
    with pytest.raises(InvalidInput, match="problem_id is None; give a whole number"):
        read(tmp_path, TACO, problem_id=None)


@pytest.mark.parametrize("tags", ["Sorting", "[1]", "['a'", 3, {"a": 1}], ids=str)
def test_tags_of_another_kind_are_named(tmp_path, tags):
    with pytest.raises(InvalidInput, match=r"line 1: tags is .*; give a list of strings"):
        read(tmp_path, TACO, tags=tags)
