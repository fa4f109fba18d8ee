import pytest

from codescaler.errors import InvalidInput

from .plain import read

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
    assert task.tests.cases == (("1", "2"), ("3", "4"), ("5", "6"))
    assert (task.tests.comparison, task.tests.cpu_seconds, task.tests.input_file) == ("codecontests", None, "")
    limited = read(tmp_path, CONTEST, time_limit={"seconds": 2, "nanos": 500000000}, input_file="in.txt").tests
    assert (limited.cpu_seconds, limited.input_file, limited.output_file) == (3, "in.txt", "")
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


@pytest.mark.parametrize(
    "name, place",
    [("1575_A. Add", "A"), ("1133_f1_spanning_tree_10945", "F"), ("p00001 Add", None), ("9_z. Add", None)],
)
def test_a_place_in_a_contest_is_read_off_the_name(tmp_path, name, place):
    assert read(tmp_path, CONTEST, difficulty=None, name=name).difficulty == place


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
        ({"input_file": "../in.txt"}, "input_file is '../in.txt'; give the name of a file"),
        ({"time_limit": {"seconds": -1}}, "time_limit is .*; give {seconds, nanos}"),
        ({"difficulty": 1.5}, "difficulty is 1.5; give a number or a name"),
    ],
)
def test_codecontests_is_checked(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=f"line 1.*{message}"):
        read(tmp_path, CONTEST, **changes)


def test_codecontests_plus(tmp_path):
    record = {
        "id": "1575_A", "description": "Add.", "test_cases": [{"input": "1", "output": "2"}], "time_limit": 2500,
        "correct_submissions": [{"language": "py3", "code": "print 1"}, {"language": "py3", "code": "x = 1"}],
    }  # fmt: skip
    task = read(tmp_path, record)
    assert (task.task_id, task.reference, task.tests.cases) == ("codecontests+/1575_A", "x = 1", (("1", "2"),))
    assert (task.tests.cpu_seconds, task.tests.comparison) == (3, "codecontests")
    with pytest.raises(InvalidInput, match="time_limit is 'x'; give a whole number of milliseconds"):
        read(tmp_path, record, time_limit="x")
