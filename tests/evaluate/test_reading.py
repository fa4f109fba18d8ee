"""Tests of reading: scorers whose reading is known get their figures, and are called what they are."""

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.combination import combine_units
from codescaler.evaluate.problems import parse_problem
from codescaler.evaluate.reading import build_reading_cases, evaluate_reading, list_standards, list_units
from codescaler.evaluate.scorers import score_with_all
from codescaler.io.records import Candidate, Group
from codescaler.text.mismatches import CONSTANT, DROPPED, KINDS, NEAR_MISS, NONE, OTHER, RENAMED

# What is asked, a correct body and an incorrect body: of functions with one or two parameters.
PROBLEMS = {
    "add": ("a, b", "return a + b", "return a - b", "add(1, 2) == 3"),
    "double": ("a", "return a * 2", "return a", "double(4) == 8"),
    "minus": ("a, b", "return a - b", "return b", "minus(3, 1) == 2"),
    "negate": ("a", "return -a", "return 1", "negate(3) == -3"),
}


def make_problem(name, args, good, bad, test):
    codes = [f"def {name}({args}):\n    {body}" for body in (good, bad)]
    candidates = (Candidate(codes[0], True), Candidate(codes[1], False), Candidate(codes[0], True))
    return parse_problem(Group(name, f"Problem {name}.\nassert {test}", candidates, name))


@pytest.fixture
def cases():
    return build_reading_cases([make_problem(name, *parts) for name, parts in PROBLEMS.items()])


def score(cases, judge):
    """The scores of a function of problem and program."""
    return [np.array([float(judge(*r.pair.turns)) for r in unit.responses]) for unit in list_units(cases)]


def is_right(problem, code):
    """Reads the problem, and knows its answers; a program under another name is wrong."""
    name = problem.split(".")[0].removeprefix("Problem ")
    return f"def {name}({PROBLEMS[name][0]}):\n    {PROBLEMS[name][1]}" == code


def test_what_stands_beside_a_correct_program(cases):
    texts = {kind: response.text for kind, response in zip(cases[0].kinds, cases[0].mismatched.responses, strict=True)}
    assert texts == {
        NEAR_MISS: "def adds(a, b):\n    return a + b",
        OTHER: "def minus(a, b):\n    return a - b",
        RENAMED: "def add(a, b):\n    return a - b",
        DROPPED: "def add(a, b):\n    pass",
        NONE: "def add(a, b):\n    return None",
        CONSTANT: "def add(a, b):\n    return 3",
    }
    assert all(set(case.kinds) == set(KINDS) for case in cases)
    prompts = [case.swapped.responses[0].pair.turns[0].split(".")[0] for case in cases]
    assert prompts == [f"Problem {name}" for name in ("double", "minus", "negate", "add")]


def test_a_program_of_fewer_parameters_gets_more():
    problems = [make_problem(name, *PROBLEMS[name]) for name in ("add", "double")]
    texts = [dict(zip(case.kinds, [r.text for r in case.mismatched.responses], strict=True))
             for case in build_reading_cases(problems)]  # fmt: skip
    assert texts[0][RENAMED] == "def add(arg0, a):\n    return a * 2"
    assert RENAMED not in texts[1]
    assert texts[1][OTHER] == "def add(a, b):\n    return a + b"


def test_scorers_are_called_what_they_are(cases):
    scores = {
        "reader": score(cases, is_right),
        "fluent": score(cases, lambda problem, code: len(code) + ("a + b" in code or "* 2" in code or "-a" in code)),
        "names": score(cases, lambda problem, code: (f"assert {code[4:].split('(')[0]}(" in problem) * 1.0),
        "constant": score(cases, lambda problem, code: 1.0),
    }
    figures = evaluate_reading(cases, scores, list(scores))
    assert (figures["num_problems"], figures["num_mixed"], figures["num_programs"]) == (4, 4, 8)
    assert figures["num_beside"] == dict.fromkeys(KINDS, 4)
    reader, fluent, names = (figures["scorers"][name] for name in ("reader", "fluent", "names"))
    assert reader["pair_accuracy_own"]["mean"] == 1.0
    assert reader["pair_accuracy_swapped"]["mean"] == 0.5
    assert reader["fall"] == {"mean": 0.5, "interval": (0.5, 0.5)}
    assert {kind: estimate["mean"] for kind, estimate in reader["before"].items()} == dict.fromkeys(KINDS, 1.0)
    assert reader["verdict"].startswith("reader reads the problem: its pair accuracy falls by +50.0 points")
    assert "more than the name" not in reader["verdict"]
    assert fluent["fall"]["mean"] == 0.0
    assert fluent["correlation"]["mean"] == pytest.approx(1.0)
    assert fluent["verdict"].startswith("fluent does not read the problem")
    assert names["before"][NEAR_MISS]["mean"] == names["before"][OTHER]["mean"] == 1.0
    assert names["before"][RENAMED]["mean"] == 0.5
    assert names["verdict"].startswith("names does not read the problem")
    assert figures["scorers"]["constant"]["correlation"] is None


def test_a_scorer_that_knows_the_name_alone_is_told():
    problems = [make_problem(name, *parts) for name, parts in PROBLEMS.items()]
    cases = build_reading_cases(problems)
    scores = score(cases, lambda problem, code: is_right(problem, code) or f"def {problem.split('.')[0][8:]}(" in code)
    for case, values in zip(cases, scores[::3], strict=True):
        values += np.array([response.is_correct for response in case.own.responses])
    for values in scores[2::3]:
        values += 2.0
    figures = evaluate_reading(cases, {"m": scores}, ["m"])["scorers"]["m"]
    assert "reads the problem" in figures["verdict"]
    assert "not shown to know more than the name" in figures["verdict"]


def test_a_combination_that_likes_what_stands_beside_is_told(cases):
    """Both members give every mismatched program more than any own one."""
    members = {name: score(cases, is_right) for name in "ab"}
    members = {name: [v + 10 * (place % 3 == 2) for place, v in enumerate(of)] for name, of in members.items()}
    combined = combine_units(list_units(cases), members, dict.fromkeys("ab", 1.0), list_standards(cases))
    figures = evaluate_reading(cases, {"both": combined}, ["both"])["scorers"]["both"]
    assert all(figures["before"][kind]["mean"] == 0 for kind in KINDS)
    assert figures["pair_accuracy_own"]["mean"] == 1


def test_infinite_scores_are_places_and_have_no_correlation(cases):
    scores = score(cases, lambda problem, code: np.inf if is_right(problem, code) else -np.inf)
    figures = evaluate_reading(cases, {"m": scores}, [])["scorers"]["m"]
    assert figures["pair_accuracy_own"]["mean"] == figures["before"][OTHER]["mean"] == 1.0
    assert figures["correlation"] is None


def test_baselines_meet_the_same_programs(cases):
    figures = evaluate_reading(cases, score_with_all(list_units(cases), {}), [])["scorers"]
    assert figures["defines"]["before"][OTHER]["mean"] == 1.0
    assert figures["defines"]["before"][RENAMED]["mean"] == 0.5
    assert {estimate["mean"] for estimate in figures["oracle"]["before"].values()} == {1.0}
    assert figures["random"]["fall"]["mean"] == 0.0


def test_what_cannot_be_measured_is_said():
    one = make_problem("add", *PROBLEMS["add"])
    with pytest.raises(InvalidInput, match="all problems have the same text"):
        build_reading_cases([one, one])
    silent = [parse_problem(Group(name, name, (Candidate("x = 1", True),), name)) for name in "ab"]
    with pytest.raises(InvalidInput, match="none of 2 problems names a function"):
        build_reading_cases(silent)
    right = [parse_problem(Group(n, f"assert {n}() == 1", (Candidate(f"def {n}(): return 1", True),), n)) for n in "ab"]
    cases = build_reading_cases(right)
    figures = evaluate_reading(cases, {"m": score(cases, lambda problem, code: len(code))}, ["m"])
    assert figures["scorers"]["m"]["fall"] is None
    assert "is not known" in figures["scorers"]["m"]["verdict"]
