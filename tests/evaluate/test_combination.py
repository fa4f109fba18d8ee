"""Combinations: standardised by hand, in any order the same bits, weights that are recovered, files of other models."""

import json
import math

import numpy as np
import pytest

from codescaler.errors import InvalidInput, SettingsMismatch, WeightsError
from codescaler.evaluate import combination
from codescaler.evaluate.combination import (
    CombinedScorer,
    Member,
    combine_scores,
    combine_units,
    fit_combination,
    make_combination_record,
    read_combination,
)
from codescaler.evaluate.problems import parse_problem
from codescaler.io.records import Candidate, Group
from codescaler.text.program import make_conversation

PROGRAMS = ["a", "b", "c", "d"]
WEIGHTS = {"first": 1.0, "second": 0.5}


def test_by_hand():
    scores = {"first": [1.0, 3.0, 1.0, 3.0], "second": [0.0, 0.0, 0.0, 4.0]}
    deviation = math.sqrt(3.0)
    expected = [-1 - 0.5 / deviation, 1 - 0.5 / deviation, -1 - 0.5 / deviation, 1 + 1.5 / deviation]
    assert combine_scores(PROGRAMS, scores, WEIGHTS).tolist() == pytest.approx(expected)


def test_a_copy_moves_nothing():
    scores = {"first": [1.0, 2.0, 5.0], "second": [3.0, 1.0, 1.0]}
    alone = combine_scores(PROGRAMS[:3], scores, WEIGHTS).tolist()
    copied = combine_scores([*PROGRAMS[:3], "a"], {n: [*s, s[0]] for n, s in scores.items()}, WEIGHTS).tolist()
    assert copied == [*alone, alone[0]]


@pytest.mark.parametrize("values", [[2.5] * 4, [-0.1] * 4, [7e30] * 4, [1e-45, 0.0, 0.0, 0.0]])
def test_a_member_without_spread_says_nothing(values):
    scores = {"first": [1.0, 2.0, 3.0, 4.0], "second": np.float32(values).astype(float)}
    combined = combine_scores(PROGRAMS, scores, WEIGHTS)
    assert np.isfinite(combined).all()
    if len(set(values)) == 1:
        assert combined.tolist() == combine_scores(PROGRAMS, {"first": scores["first"]}, WEIGHTS).tolist()
    assert combine_scores(["a"], {"first": [3.0], "second": [1.0]}, WEIGHTS).tolist() == [0.0]
    assert combine_scores([], {"first": [], "second": []}, WEIGHTS).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_programs_and_members_moves_no_bit(seed):
    random = np.random.default_rng(seed)
    values = np.float32(random.standard_normal((2, 7)) * 10.0 ** random.integers(-20, 20, (2, 7))).astype(float)
    programs, order = [str(k) for k in range(7)], random.permutation(7)
    scores = dict(zip(WEIGHTS, values, strict=True))
    there = combine_scores(programs, scores, WEIGHTS)
    back = combine_scores(
        [programs[k] for k in order], {name: scores[name][order] for name in ("second", "first")}, WEIGHTS
    )
    assert back.tobytes() == there[order].tobytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(WeightsError, match=f"second scores {value}, which is not finite"):
        combine_scores(PROGRAMS, {"first": [1.0] * 4, "second": [1.0, value, 2.0, 3.0]}, WEIGHTS)


class FakeEngine:
    def __init__(self, score):
        self.score, self.asked = score, []

    def score_stream(self, pairs, names):
        self.asked.append("".join(names))
        yield from (float(self.score(pair.turns[-1])) for pair in pairs)


def test_a_stream_is_standardised_problem_by_problem(monkeypatch):
    """Members score programs of several problems together."""
    engines = {"first": FakeEngine(len), "second": FakeEngine(lambda text: text.count("b"))}
    pairs = [make_conversation(problem, code) for problem, code in (("p", "a"), ("p", "bb"), ("q", "bbbb"), ("q", "b"))]
    scores = list(CombinedScorer(engines, WEIGHTS).score_stream(iter(pairs), iter("abcd")))
    assert scores == [-1.5, 1.5, 1.5, -1.5]
    assert engines["first"].asked == ["abcd"]
    monkeypatch.setattr(combination, "_BLOCK", 2)
    assert list(CombinedScorer(engines, WEIGHTS).score_stream(iter(pairs))) == scores
    assert engines["first"].asked[1:] == ["pairs[0]pairs[1]", "pairs[2]pairs[3]"]
    assert list(CombinedScorer(engines, WEIGHTS).score_stream([])) == []


def make_pairs_of_responses(num, random):
    """Items of two responses, and how far two judges put the correct one ahead."""
    gaps = {"first": 0.8 + random.standard_normal(num), "second": 0.6 + random.standard_normal(num)}
    responses = (Candidate("a", True), Candidate("b", False))
    units = [parse_problem(Group(str(n), "p", responses, str(n))) for n in range(num)]
    return units, {name: [np.array([gap / 2, -gap / 2]) for gap in of] for name, of in gaps.items()}, gaps


def test_of_two_responses_the_gap_counts_if_deviations_are_pooled():
    """Z of two is 1 and -1, so that two models would have the mean of their accuracies."""
    units, scores, gaps = make_pairs_of_responses(400, np.random.default_rng(0))
    weights = dict.fromkeys(scores, 1.0)

    def measure(found):
        return float(np.mean([(first > second) + (first == second) / 2 for first, second in found]))

    alone = [measure(of) for of in scores.values()]
    assert measure(combine_units(units, scores, weights)) == pytest.approx(np.mean(alone))
    pooled = combine_units(units, scores, weights, is_pooled=True)
    assert measure(pooled) > max(alone)
    expected = sum(gap / (np.sqrt((gap**2).mean()) / 2) for gap in gaps.values())
    np.testing.assert_allclose([first - second for first, second in pooled], expected)


def make_problems(num_problems, signs, seed=0):
    """Problems of two correct and two incorrect programs; a member with sign 1 ranks them right, with noise."""
    random = np.random.default_rng(seed)
    problems, scores = [], {name: [] for name in signs}
    for task in range(num_problems):
        labels = [True, True, False, False]
        candidates = tuple(Candidate(f"x = {k}", passed) for k, passed in enumerate(labels))
        problems.append(parse_problem(Group(str(task), "p", candidates, str(task))))
        for name, sign in signs.items():
            scores[name].append(sign * np.array(labels, dtype=float) + random.standard_normal(4))
    return problems, scores


def test_weights_follow_what_members_know():
    problems, scores = make_problems(300, {"good": 1.5, "same": 1.5, "noise": 0.0, "wrong": -1.0})
    found = fit_combination(problems, scores)
    weights, accuracy = found["weights"], found["pair_accuracy"]
    assert weights["good"] == pytest.approx(weights["same"], abs=0.3)
    assert abs(weights["noise"]) < 0.2 < weights["good"]
    assert weights["wrong"] < 0
    assert accuracy["fitted weights"]["mean"] > max(accuracy[name]["mean"] for name in (*scores, "equal weights"))
    assert found["gain_of_fitted_weights"]["equal weights"]["interval"][0] > 0
    assert (found["num_problems"], found["num_pairs"]) == (300, 1200)


def test_weights_of_problems_that_are_all_right_stay_finite():
    problems, _ = make_problems(3, {})
    scores = {"perfect": [np.array([4.0, 3.0, 2.0, 1.0])] * 3, "constant": [np.ones(4)] * 3}
    weights = fit_combination(problems, scores)["weights"]
    assert 0 < weights["perfect"] < 10
    assert weights["constant"] == 0.0
    with pytest.raises(InvalidInput, match="1 problems have a correct and an incorrect program"):
        fit_combination(problems[:1], {name: of[:1] for name, of in scores.items()})


MEMBERS = {"a": Member("0" * 16, {"bos": "x"}), "b": Member("1" * 16, {"bos": "x"})}


@pytest.fixture
def path(tmp_path):
    record = make_combination_record({"weights": {"a": 0.75, "b": -0.5}}, MEMBERS, name="n", file="f", split=None)
    path = tmp_path / "combination.json"
    path.write_text(json.dumps(record))
    return path


def test_a_file_gives_its_weights_to_its_models(path):
    renamed = {"other": MEMBERS["b"], "first": MEMBERS["a"]}
    assert read_combination(path).choose_weights(renamed) == {"other": -0.5, "first": 0.75}


def test_other_models_and_settings_are_refused(path):
    found = read_combination(path)
    with pytest.raises(WeightsError, match="has no weight for c, whose digest is 2222222222222222"):
        found.choose_weights({**MEMBERS, "c": Member("2" * 16, {})})
    for members in ({"a": MEMBERS["a"]}, {**MEMBERS, "again": MEMBERS["a"]}):
        with pytest.raises(WeightsError, match="give each of them once"):
            found.choose_weights(members)
    with pytest.raises(SettingsMismatch, match="was fitted with bos 'x' for a, and it is 'y' now"):
        found.require_member("a", Member("0" * 16, {"bos": "y"}))


@pytest.mark.parametrize("text", ["{}", "[", '{"members": [1]}', '{"members": [{"head_digest": "0"}]}'])
def test_a_file_that_holds_no_weights_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(WeightsError, match="holds no combination"):
        read_combination(path)
