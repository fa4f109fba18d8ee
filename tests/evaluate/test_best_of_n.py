"""Best-of-N and pairs, against plain enumeration of every draw and every pair."""

import itertools
import math

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.best_of_n import evaluate_best_of_n
from codescaler.evaluate.problems import Strata, parse_problem
from codescaler.evaluate.scorers import score_with_all
from codescaler.io.records import Candidate, Group

VALUES = [-math.inf, -1.5, 0.0, 2.0, math.inf]


def random_problem(random, name, size):
    """Few distinct programs, labels and scores, so that copies, contradictions, ties and infinities are common."""
    codes = [random.choice(np.array([None, "", "a = 1", "a = 2", "b"], dtype=object)) for _ in range(size)]
    candidates = tuple(Candidate(code, bool(random.random() < 0.4)) for code in codes)
    return parse_problem(Group(name, random.choice(["p", "Write a function `a`."]), candidates, name))


def random_scores(random, problem):
    of_code = {response.text: VALUES[random.integers(len(VALUES))] for response in problem.responses}
    return np.array([of_code[response.text] for response in problem.responses])


def best_by_enumeration(problem, scores, n):
    """The mean over draws of the share of correct ones among the best-scored programs drawn; 0 without a program."""
    score_of = dict(zip(np.flatnonzero(problem.has_code).tolist(), scores, strict=True))
    chances = []
    for draw in itertools.combinations(range(len(problem.codes)), n):
        held = [index for index in draw if index in score_of]
        best = [index for index in held if score_of[index] == max(score_of[other] for other in held)]
        chances.append(np.mean([problem.is_correct[index] for index in best]) if held else 0.0)
    return np.mean(chances)


def pairs_by_enumeration(problem, scores, is_counted=lambda text: True):
    """The mean over pairs of distinct labelled programs of 1, 1/2 or 0; None without a pair."""
    held = zip(problem.responses, scores, strict=True)
    labelled = {(r.text, r.is_correct): score for r, score in held if is_counted(r.text)}
    wins = [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for (_, is_correct), good in labelled.items()
        for (_, is_also_right), bad in labelled.items()
        if is_correct and not is_also_right
    ]
    return np.mean(wins) if wins else None


@pytest.mark.parametrize("seed", range(30))
def test_figures_are_means_over_all_draws_and_pairs(seed):
    random = np.random.default_rng(seed)
    problems = [random_problem(random, str(i), int(random.integers(4, 8))) for i in range(6)]
    scores = {name: [random_scores(random, problem) for problem in problems] for name in ("first", "second")}
    figures = evaluate_best_of_n(problems, scores, ["first"])
    num = min(len(problem.codes) for problem in problems)
    mixed = [problem for problem in problems if problem.is_mixed]
    assert figures["num_mixed"] == len(mixed)
    means = {}
    for name, of_problems in scores.items():
        of_problem = dict(zip(problems, of_problems, strict=True))
        for key, chosen in (("best_of_n", problems), ("best_of_n_on_mixed", mixed)):
            expected = [np.mean([best_by_enumeration(p, of_problem[p], n) for p in chosen]) for n in range(1, num + 1)]
            assert [point["mean"] for point in figures["scorers"][name][key]] == pytest.approx(
                expected if chosen else []
            )
            means[name, key] = expected[-1]
        pairs = [pairs_by_enumeration(problem, of_problem[problem]) for problem in problems]
        assert [accuracy is not None for accuracy in pairs] == [problem.is_mixed for problem in problems]
        means[name, "pair_accuracy"] = np.mean([accuracy for accuracy in pairs if accuracy is not None])
        assert figures["scorers"][name]["pair_accuracy"]["mean"] == pytest.approx(means[name, "pair_accuracy"])
        pairs = [
            pairs_by_enumeration(p, of_problem[p], lambda text, p=p: p.prompt == "p" or text.startswith("a"))
            for p in problems
        ]
        defining = [accuracy for accuracy in pairs if accuracy is not None]
        assert figures["num_mixed_defining"] == len(defining)
        means[name, "pair_accuracy_defining"] = np.mean(defining) if defining else None
    for key, gain in figures["gains"]["first"]["second"].items():
        if means["first", key] is None:
            assert gain is None
            continue
        assert gain["mean"] == pytest.approx(means["first", key] - means["second", key])
        assert gain["interval"][0] <= gain["mean"] + 1e-12
        assert gain["interval"][1] >= gain["mean"] - 1e-12


def group(name, *candidates):
    return parse_problem(Group(name, "p", tuple(Candidate(*candidate) for candidate in candidates), name))


def test_baselines_by_hand():
    candidates = (("a = 1", True), ("a = (((", False), ("b", False), (None, False))
    problems = [parse_problem(Group("a", "assert a() == 1", tuple(Candidate(*each) for each in candidates), "a"))]
    figures = evaluate_best_of_n(problems, score_with_all(problems, {}), [])
    scorers = figures["scorers"]
    assert {name: scorer["pair_accuracy"]["mean"] for name, scorer in scorers.items()} == {
        "random": 0.5,
        "shortest": 0.5,
        "longest": 0.5,
        "parses": 0.75,
        "defines": 1.0,
        "oracle": 1.0,
    }
    assert {name: scorer["best_of_n"][3]["mean"] for name, scorer in scorers.items()} == pytest.approx(
        {"random": 1 / 3, "shortest": 0.0, "longest": 0.0, "parses": 1 / 2, "defines": 1.0, "oracle": 1.0}
    )
    # One candidate is correct, and of the six draws of two, three hold it: alone, or beside an incorrect program.
    assert scorers["random"]["best_of_n"][1]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 6)
    assert {scorer["best_of_n"][0]["mean"] for scorer in scorers.values()} == {1 / 4}
    assert figures["gains"] == {}
    assert figures["num_without_program"] == 1


def test_n_goes_to_the_smallest_problem_and_larger_ones_are_counted():
    problems = [group("a", *[("a", True)] * 2), group("b", *[("a", False)] * 3), group("c", *[("a", True)] * 5)]
    figures = evaluate_best_of_n(problems, score_with_all(problems, {}), [])
    assert figures["num_candidates"] == {"smallest": 2, "largest": 5, "all": 10}
    assert figures["num_groups_of_more_candidates"] == 2
    assert [point["mean"] for point in figures["scorers"]["oracle"]["best_of_n"]] == pytest.approx([2 / 3, 2 / 3])
    assert figures["num_mixed"] == 0
    assert figures["scorers"]["oracle"]["pair_accuracy"] is None
    assert figures["scorers"]["oracle"]["best_of_n_on_mixed"] == []


def test_groups_of_one_problem_are_drawn_together():
    one = [group("a", ("a", True)), group("b", ("a", False))] * 8
    many = [group(str(i), ("a", i % 2 == 0)) for i in range(16)]
    wide, narrow = (
        evaluate_best_of_n(p, score_with_all(p, {}), [])["scorers"]["random"]["best_of_n"][0] for p in (one, many)
    )
    assert wide == {"mean": 0.5, "interval": (0.0, 1.0)}
    assert narrow["mean"] == 0.5
    assert 0.2 < narrow["interval"][0] < narrow["interval"][1] < 0.8


def test_strata_hold_their_problems_only():
    right, wrong = [("a = 1", True), ("bb = 1", False)], [("a = 1", False), ("bb = 1", True)]
    problems = [group("a", *right), group("b", *wrong), group("c", *wrong), group("d", ("a", True), ("b", True))]
    strata = Strata("difficulty", ("Hard", "easy", "Hard", "Medium"), "by difficulty")
    figures = evaluate_best_of_n(problems, score_with_all(problems, {}), [], strata)
    parts = figures["strata"]["parts"]
    assert list(parts) == ["easy", "Medium", "Hard"]
    assert {label: (part["num_groups"], part["num_mixed"]) for label, part in parts.items()} == {
        "easy": (1, 1),
        "Medium": (1, 0),
        "Hard": (2, 2),
    }
    assert parts["Hard"]["scorers"]["shortest"]["pair_accuracy"]["mean"] == 0.5
    assert parts["easy"]["scorers"]["longest"]["best_of_n"]["mean"] == 1.0
    assert parts["Medium"]["scorers"]["longest"]["pair_accuracy"] is None
    assert parts["Medium"]["scorers"]["longest"]["best_of_n"]["mean"] == 1.0


def test_a_score_that_is_nan_is_refused():
    problems = [group("a", ("a", True), ("b", False))]
    with pytest.raises(InvalidInput, match=r"broken scores a: candidates\[1\] nan"):
        evaluate_best_of_n(problems, {"broken": [np.array([0.0, math.nan])]}, [])
