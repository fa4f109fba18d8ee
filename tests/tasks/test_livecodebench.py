import base64
import json
import pickle
import zlib

import pytest

from codescaler.errors import InvalidInput

from .plain import passes, read, run_prelude


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
    assert task.tests.cases == (("1", "2"), ("3", "4"), ("5", "6"))
    assert (task.tests.comparison, task.tests.allows_return, task.tests.cpu_seconds) == ("livecodebench", True, 6)
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
        "assert _is_expected(Solution().f('a', [1, None]), [True, 1.5])",
        "assert _is_expected(Solution().f('b', []), [False, 1.5])",
    )
    assert task.tests.entry_points == ("Solution",)
    assert task.prompt == f"Add one.\n\nComplete this code:\n```python\n{changes['starter_code']}\n```"
    program = "class Solution:\n    def f(self, a: str, b: List[int]) -> list:\n        return [a == 'a', 1.5]\n"
    assert passes(task.tests, program) == [True, True]
    assert passes(task.tests, program.replace("[a == 'a', 1.5]", "(a == 'a', 1.5)")) == [True, True]
    assert passes(task.tests, program.replace("== 'a'", "== 'b'")) == [False, False]
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


# What solutions count on: names, and which module's each is, after all imports of the grader.
@pytest.mark.parametrize(
    "expression",
    [
        "pow(2, 10, 1000) == 24", "math.pow(2, 3) == 8.0", "copy.deepcopy([[1]]) == [[1]]",
        "datetime.datetime(2020, 1, 1).year == 2020", "random.Random(1)", "re.findall('a', 'aa') == ['a', 'a']",
        "string.ascii_lowercase == ascii_lowercase", "heapq.heapify is heapify", "bisect.bisect_left is bisect_left",
        "collections.deque is deque and Counter('aab')['a'] == 2",
        "operator.add(1, 2) == add(1, 2) == 3", "json.loads('[1]') == loads('[1]')",
        "statistics.median([1, 2, 3]) == median([1, 2, 3]) == 2", "itertools.chain is chain", "inf == math.inf",
        "functools.reduce is reduce", "List[int] and Optional[int]",
        "io.StringIO is StringIO", "open.__module__ in ('io', '_io')", "stdin is not None", "gcd(4, 6) == 2",
        "sum([1, 2]) == 3 and max(1, 2) == 2 and abs(-1) == 1", "callable(setrecursionlimit)",
    ],
)  # fmt: skip
def test_the_prelude_has_the_names_of_the_grader(tmp_path, expression):
    scope, limit = run_prelude(read(tmp_path, LIVE).tests)
    assert eval(expression, scope) and limit == 50_000
    assert all(name in scope for name in ("string", "re", "datetime", "collections", "io", "sys", "json"))


def test_long_numbers_are_read_and_written(tmp_path):
    number = "1" + "0" * 5000
    case = {"input": f"[{number}]\n-{number}", "output": number, "testtype": "functional"}
    changes = {
        "public_test_cases": json.dumps([case]),
        "private_test_cases": "",
        "metadata": '{"func_name": "f"}',
    }
    tests = read(tmp_path, LIVE, **changes).tests
    program = "class Solution:\n    def f(self, a, b):\n        return a[0] if b < 0 else 1\n"
    assert passes(tests, program) == [True]
    assert passes(tests, program.replace("a[0]", "a[0] + 1")) == [False]
