"""Problems in several languages, whose tests are a program in the same language."""

import pytest

from codescaler.errors import InvalidInput
from codescaler.sandbox import Sandbox
from codescaler.types import CallTests, StdioTests

from ..sandbox.conftest import LANGUAGE_LIMITS, find_missing
from .plain import read

X = {
    "task_id": "JavaScript/7",
    "prompt": "// Doubles.\nconst f = (a) => {\n",
    "declaration": "const f = (a) => {\n",
    "canonical_solution": "  return 2 * a\n}\n",
    "test": "const testF = () => { console.assert(f(4) === 8) }\ntestF()\n",
}
MXEVAL = {
    "task_id": "MBCPP/1",
    "language": "cpp",
    "prompt": "int f(int a) {\n",
    "entry_point": "f",
    "test": "int main() { return f(4) != 8; }",
    "canonical_solution": None,
}
MULTIPL_E = {"name": "HumanEval_0", "language": "rs", "prompt": "fn f(a: i64) -> i64 {\n", "tests": "}\nfn main() {}"}
PYTHON = {
    "task_id": "Python/7",
    "prompt": "import math\n\n\ndef f(a):\n",
    "declaration": "def f(a):\n",
    "canonical_solution": "    return 2 * a\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(f):\n    assert f(4) == 8\n\ncheck(f)",
}


@pytest.mark.parametrize(
    "row, task_id, language",
    [(X, "JavaScript/7", "javascript"), (MXEVAL, "MBCPP/1", "cpp"), (MULTIPL_E, "HumanEval_0", "rust")],
)
def test_the_test_program_is_a_harness(tmp_path, row, task_id, language):
    task = read(tmp_path, row)
    assert (task.task_id, task.prompt, task.language) == (task_id, row["prompt"], language)
    assert isinstance(task.tests, StdioTests) and task.tests.harness == row.get("test", row.get("tests"))
    solution = row.get("canonical_solution")
    assert task.reference == (None if solution is None else row["prompt"] + solution)


def test_a_failed_assertion_of_javascript_is_a_failure(tmp_path):
    """Of itself, `console.assert` ends nothing."""
    if missing := find_missing("javascript"):
        pytest.skip(missing)
    task = read(tmp_path, X)
    with Sandbox(LANGUAGE_LIMITS, num_workers=1, allow_one_process=True) as sandbox:
        assert sandbox.run(task.reference, task.tests).passed
        assert sandbox.run(task.reference.replace("2 *", "3 *"), task.tests).outcomes == ("failed",)


@pytest.mark.parametrize("entry_point", [{}, {"entry_point": "f", "language": "Python"}])
def test_python_is_called_from_outside(tmp_path, entry_point):
    task = read(tmp_path, PYTHON, **entry_point)
    assert isinstance(task.tests, CallTests) and task.tests.entry_points == ("f",)
    assert task.tests.statements == ("f = f\nassert f(4) == 8",) and task.tests.prelude == "import math\n\n\n"
    assert task.reference == PYTHON["prompt"] + PYTHON["canonical_solution"]
    assert read(tmp_path, PYTHON, canonical_solution=None).reference is None


def test_a_language_without_a_name_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="language is 'perl'; give one of python, c, cpp"):
        read(tmp_path, MXEVAL, language="perl")
    with pytest.raises(InvalidInput, match="language is None; give one of python, c, cpp"):
        read(tmp_path, X, task_id="7")
