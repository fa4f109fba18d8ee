"""The fitness card: scorers whose use is known get their figures, and are called what they are."""

import re

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.combination import combine_units
from codescaler.evaluate.fitness import REWRITES, build_fitness_cases, evaluate_fitness, list_standards, list_units
from codescaler.evaluate.problems import parse_problem
from codescaler.evaluate.scorers import score_with_all
from codescaler.io.records import Candidate, Group
from codescaler.text.surface import measure_surface

RIGHT, WRONG, BARE = "def f(a):\n    outcome = a + {0}\n    return outcome", "def f(a):\n    return a - {0}", "f = {0}"


def make_problem(index):
    """One of three programs is correct, in odd problems a sample holds no program."""
    programs = [(RIGHT, True), (WRONG, False), (BARE, False)]
    candidates = [Candidate(code.format(index), passed) for code, passed in programs]
    missing = [Candidate(None, False)] if index % 2 else []
    return parse_problem(Group(str(index), f"Problem {index}.", (*candidates, *missing), str(index)))


PROBLEMS = [make_problem(index) for index in range(24)]


def is_right(code):
    return "outcome" in code or ("return" in code and " + " in code)  # whatever names and comments it has


def evaluate(judge, problems=PROBLEMS, models=("model",)):
    cases = build_fitness_cases(problems)
    scores = {"model": [np.array([float(judge(r.text)) for r in u.responses]) for u in list_units(cases)]}
    return evaluate_fitness(cases, scores | score_with_all(list_units(cases), {}), models)


def test_what_a_round_of_rejection_sampling_gains():
    figures = evaluate(is_right)
    assert figures["share_correct"]["mean"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert figures["num_without_program"] == 12
    scorers = figures["scorers"]
    assert scorers["random"]["gain"]["mean"] == pytest.approx((0 + 1 / 3 - 1 / 4) / 2)  # that of validity
    assert scorers["random"]["gain_over_validity"]["mean"] == 0
    for name in ("model", "oracle"):
        assert scorers[name]["kept"]["mean"] == 1
        assert scorers[name]["gain_over_validity"]["mean"] == pytest.approx(2 / 3)
        assert scorers[name]["auc"]["mean"] == scorers[name]["pair_accuracy"]["mean"] == 1
    assert "verdict" not in scorers["oracle"]


@pytest.mark.parametrize(
    "judge, word, why",
    [
        (is_right, "helps", "+66.7 points [+66.7, +66.7]"),
        (lambda code: -is_right(code), "harms", "-33.3 points"),
        (lambda code: is_right(code) + measure_surface(code).praise, "harms", "by being praised than"),
        (lambda code: is_right(code) + 9 * measure_surface(code).comments, "harms", "commented and praised than"),
        (lambda code: is_right(code) + 0.3 * measure_surface(code).praise, "helps", "right +66.7"),
        (lambda code: 0.0, "doubtful", "not shown to be above 0"),
        (lambda code: np.inf if is_right(code) else 0.0, "doubtful", "is not shown to earn less"),
    ],
)
def test_verdicts(judge, word, why):
    verdict = evaluate(judge)["scorers"]["model"]["verdict"]
    assert verdict["word"] == word
    assert why in verdict["sentence"]


def test_auc_counts_between_problems():
    """Scores that are right within each problem, and higher in problems with more incorrect programs."""
    problems = []
    for index in range(24):
        codes = [(RIGHT, True), *((WRONG + " " * n, False) for n in range(1 + index // 4))]
        candidates = tuple(Candidate(code.format(index), passed) for code, passed in codes)
        problems.append(parse_problem(Group(str(index), f"Problem {index}.", candidates, str(index))))
    scored = evaluate(lambda code: is_right(code) + 50 * int(re.search(r"\d+", code)[0]), problems)
    figures = scored["scorers"]["model"]
    assert figures["gain_over_validity"]["interval"][0] > 0 and figures["auc"]["mean"] < 0.5
    assert figures["verdict"]["word"] == "doubtful" and "its AUC" in figures["verdict"]["sentence"]


def test_few_problems_get_no_verdict():
    for problems in (PROBLEMS[:19], PROBLEMS[:19] * 3):  # three samples of each are not more problems
        verdict = evaluate(is_right, problems)["scorers"]["model"]["verdict"]
        assert verdict == {"word": "doubtful", "sentence": "model is doubtful: 19 mixed problems are fewer than 20."}


def test_a_combination_tells_rewrites_in_the_scale_of_their_problem():
    """Both members pay every rewrite more than anything else."""
    cases = build_fitness_cases(PROBLEMS)
    units = list_units(cases)
    right = [np.array([float(is_right(r.text)) for r in unit.responses]) for unit in units]
    members = {name: [values + 10 * (place % 2) for place, values in enumerate(right)] for name in "ab"}
    combined = combine_units(units, members, dict.fromkeys("ab", 1.0), list_standards(cases))
    figures = evaluate_fitness(cases, {"both": combined}, ["both"])["scorers"]["both"]
    assert figures["moves"]["renamed"]["mean"] == pytest.approx(10 * figures["correct"]["mean"])
    assert figures["verdict"]["word"] == "harms"


def test_moves_are_in_units_of_the_spread():
    figures = evaluate(lambda code: 10 * is_right(code) + measure_surface(code).praise)["scorers"]["model"]
    spread = np.sqrt(np.mean([np.var([10, 0, 0])]))
    assert figures["spread"] == pytest.approx(spread)
    assert figures["correct"]["mean"] == pytest.approx(10 / spread)
    assert figures["moves"]["renamed"]["mean"] == figures["moves"]["commented"]["mean"] == 0
    assert figures["moves"]["stripped"] is None  # there is nothing to strip
    # Both claims of a praised program are in a function, one in a bare assignment.
    praised = figures["moves"]["praised"]["mean"] * spread
    assert 0.5 < praised < 6
    assert figures["excess"]["praised"]["mean"] == pytest.approx((praised - 10) / spread)
    assert figures["correlation"]["praise"] is None  # no sample is praised
    longest = evaluate(lambda code: measure_surface(code).length)["scorers"]["model"]["correlation"]
    assert longest["length"]["mean"] == pytest.approx(1)


def test_a_rewrite_keeps_the_label_and_the_problem():
    (case, *_) = build_fitness_cases(PROBLEMS)
    assert {*case.kinds} <= {*REWRITES}
    assert [response.is_correct for response in case.responses] == [place == 0 for place in case.places]
    assert all(r.pair.turns[:-1] == case.problem.responses[0].pair.turns[:-1] for r in case.responses)


def test_scores_of_the_file_have_no_moves():
    cases = build_fitness_cases(PROBLEMS)
    own = {"file": [np.array([float(r.is_correct) for r in p.responses]) for p in PROBLEMS]}
    figures = evaluate_fitness(cases, score_with_all(list_units(cases), {}), ["file"], own)["scorers"]["file"]
    assert figures["gain_over_validity"]["mean"] == pytest.approx(2 / 3)
    assert figures["correct"]["mean"] > 0
    assert figures["moves"] == figures["excess"] == dict.fromkeys(REWRITES)
    assert figures["verdict"]["word"] == "doubtful"
    assert "is not measured: scores of a file have no rewrites, so give the model" in figures["verdict"]["sentence"]


def test_only_logits_have_a_calibration():
    cases = build_fitness_cases(PROBLEMS)
    scores = {"likelihood": [np.array([-float(len(r.text)) for r in u.responses]) for u in list_units(cases)]}
    for logits in ([], ["likelihood"]):
        figures = evaluate_fitness(cases, scores, ["likelihood"], logits=logits)["scorers"]["likelihood"]
        assert "auc" in figures and ("ece" in figures) == ("brier" in figures) == bool(logits)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(InvalidInput, match="none of 1 problems has a correct and an incorrect program"):
        build_fitness_cases([parse_problem(Group("a", "p", (Candidate("x = 1", True),), "a"))])
    with pytest.raises(InvalidInput, match=r"model scores 0: candidates.* nan"):
        evaluate(lambda code: np.nan)
