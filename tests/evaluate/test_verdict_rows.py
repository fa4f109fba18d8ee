import json

import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.problems import read_evaluation_problems
from codescaler.types import Task


def read(tmp_path, *rows, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_evaluation_problems(path, **options)


def test_rows_of_a_problem_become_a_group(tmp_path):
    rows = [
        {"task_id": "Mbpp/2", "solution": "a = 1", "base_status": "pass", "plus_status": "fail"},
        {"task_id": "HumanEval/0", "completion": "    return 1", "base_status": "pass", "plus_status": "pass"},
        {"task_id": "Mbpp/2", "solution": "a = 2", "base_status": "pass", "plus_status": None},
    ]
    tasks = [Task("mbpp/2", "Set."), Task("HumanEval/0", "def f():\n")]
    first, second = read(tmp_path, *rows, tasks=tasks)
    assert (first.prompt, first.codes, first.is_correct.tolist()) == ("Set.", ("a = 1", "a = 2"), [False, True])
    assert second.codes == ("def f():\n    return 1",)
    with pytest.raises(InvalidInput, match="line 1 has no prompt; give the problem 'Mbpp/2' by --tasks"):
        read(tmp_path, *rows)


def test_rows_of_other_languages_are_read(tmp_path):
    rows = [
        {"task_id": "CPP/0", "prompt": "int f() {\n", "generation": "return 1; }", "result": "passed"},
        {"task_id": "CPP/0", "prompt": "int f() {\n", "generation": "return 2; }", "passed": False},
        {"task_id": "CPP/0", "prompt": "int f() {\n", "generation": "return 3; }"},
        {"question_id": 7, "program": "let x = 1;", "pass": True, "prompt": "p"},
    ]
    first, second = read(tmp_path, *rows)
    assert first.codes == ("int f() {\nreturn 1; }", "int f() {\nreturn 2; }")
    assert first.is_correct.tolist() == [True, False]
    assert (second.task_id, second.codes) == ("7", ("let x = 1;",))
    parsed, _ = read(tmp_path, rows[0], rows[1] | {"generation": "return (; }"}, rows[3], require_syntax=True)
    assert parsed.codes == ("int f() {\nreturn 1; }", None)
    unknown = rows[3] | {"language": "cobol"}
    assert read(tmp_path, unknown)[0].codes == ("let x = 1;",)
    with pytest.raises(InvalidInput, match="language is 'cobol'; give one of python, c, cpp"):
        read(tmp_path, unknown, require_syntax=True)
    with pytest.raises(InvalidInput, match="line 1: pass is 'yes'; give true or false"):
        read(tmp_path, rows[3] | {"pass": "yes"})
