"""Calibration of gaps: a curve that is recovered where it is known, bins, and what a file of gaps must hold."""

import json
import math

import numpy as np
import pytest

from codescaler.errors import InvalidInput, WeightsError
from codescaler.evaluate.calibration import make_calibration_record, measure_calibration, read_calibration
from codescaler.evaluate.problems import parse_problem
from codescaler.io.records import Candidate, Group


def problem(right, wrong, task_id="t"):
    """A problem of different programs, and their scores."""
    labels = [True] * len(right) + [False] * len(wrong)
    candidates = tuple(Candidate(f"x = {index}", passed) for index, passed in enumerate(labels))
    return parse_problem(Group(task_id, "p", candidates)), np.array([*right, *wrong], dtype=float)


def figures(*problems):
    units, scores = zip(*problems, strict=True)
    return measure_calibration(units, scores)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def drawn(slope, num_problems, seed=0):
    """Problems of one pair each, right as often as a curve with this slope says."""
    generator = np.random.default_rng(seed)
    for index in range(num_problems):
        gap = generator.exponential(0.5)
        gap *= 1 if generator.random() < sigmoid(slope * gap) else -1
        yield problem([gap], [0.0], str(index))


def test_a_known_curve_is_found():
    found = figures(*drawn(2.0, 4000))
    low, high = found["slope"]["interval"]
    assert low < 2.0 < high < low + 0.5
    assert found["num_pairs"] == found["num_problems"] == 4000
    assert [part["num_pairs"] for part in found["bins"]] == [800] * 5
    for part in found["bins"]:
        low, high = part["right"]["interval"]
        assert low < part["right"]["mean"] < high
        assert low - 0.02 < part["curve"]["mean"] < high + 0.02
    ends = [end for part in found["bins"] for end in part["gap"]]
    assert ends == sorted(ends)


def test_scores_that_say_nothing_or_mislead_are_a_coin():
    for problems in (drawn(0.0, 500), drawn(-2.0, 500), [problem([1.0], [1.0])]):
        found = figures(*problems)
        assert found["bins"][-1]["curve"]["interval"][0] == 0.5
    assert found["bins"] == [
        {
            "gap": [0.0, 0.0], "num_pairs": 1, "num_problems": 1, "right": {"mean": 0.5, "interval": (0.5, 0.5)},
            "curve": {"mean": 0.5, "interval": (0.5, 0.5)},
        }
    ]  # fmt: skip


def test_a_handful_of_problems_promise_no_certainty():
    found = figures(problem([2.0], [1.0], "a"), problem([3.0], [2.0], "b"))
    assert found["pairs_ranked_right"]["mean"] == 1.0
    # One half-right problem beside two correct ones: the likeliest chance at the gap of all three is 2.5 / 3.
    assert found["bins"][0]["curve"]["mean"] == pytest.approx(2.5 / 3, abs=1e-3)


def test_each_problem_weighs_the_same():
    many = problem([0.0], -1.0 - np.arange(100) / 1e6, "many")
    found = figures(many, *(problem([0.0], [1.0 + index / 100], str(index)) for index in range(3)))
    assert found["pairs_ranked_right"]["mean"] == pytest.approx(0.25)
    assert found["num_pairs"] == 103
    assert found["slope"]["mean"] == 0.0


def test_a_task_in_two_groups_is_one_problem():
    found = figures(problem([1.0], [0.0], "a"), problem([2.0], [0.5], "a"), problem([0.0], [1.0], "b"))
    assert (found["num_problems"], found["num_pairs"]) == (2, 3)
    assert found["pairs_ranked_right"]["mean"] == pytest.approx(0.5)


def test_copies_count_once_and_contradictions_not():
    programs = [("a", True), ("a", True), ("b", True), ("b", False), ("c", False)]
    unit = parse_problem(Group("t", "p", tuple(Candidate(code, passed) for code, passed in programs)))
    assert measure_calibration([unit], [np.array([1.0, 1.0, 3.0, 3.0, 0.0])])["num_pairs"] == 1


@pytest.mark.parametrize("right, wrong, message", [([1.0], [1.0, np.inf], "not finite"), ([1.0], [], "none of 1")])
def test_what_cannot_be_measured_is_refused(right, wrong, message):
    with pytest.raises(InvalidInput, match=message):
        figures(problem(right, wrong))


TEXT = {"system_prompt": None, "control_tokens": "text"}


@pytest.fixture
def record():
    found = figures(*drawn(2.0, 60))
    return make_calibration_record(
        found, head_digest="abc", text=TEXT, dtype="float32", name="Sums", file="f.jsonl", split=None
    )


def write(path, record):
    path.write_text(json.dumps(record))
    return path


def test_a_file_gives_chances(record, tmp_path):
    gaps = read_calibration(write(tmp_path / "calibration.json", record), "abc", TEXT)
    assert (gaps.name, gaps.num_problems) == ("Sums", 60)
    assert gaps.estimate_chance(0.0) == {"mean": 0.5, "interval": (0.5, 0.5)}
    slope, largest = record["slope"]["mean"], record["largest_gap"]
    assert gaps.estimate_chance(0.3)["mean"] == pytest.approx(sigmoid(0.3 * slope))
    assert gaps.estimate_chance(1e9) == gaps.estimate_chance(largest) == gaps.estimate_chance(-largest)
    low, high = gaps.estimate_chance(0.3)["interval"]
    assert 0.5 <= low < gaps.estimate_chance(0.3)["mean"] < high < 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"head_digest": "abd"}, "head has the digest 'abd', not abc; measure it anew"),
        ({"slope": {"mean": 1.0, "interval": [2.0, 0.5]}}, "has a slope or largest_gap that is none"),
        ({"slope": {"mean": float("nan"), "interval": [0.0, 1.0]}}, "has a slope or largest_gap that is none"),
        ({"largest_gap": -1}, "has a slope or largest_gap that is none"),
        ({"largest_gap": None}, "holds no calibration"),
        ({"slope": [1, 2]}, "holds no calibration"),
        ({"num_problems": float("inf")}, "holds no calibration"),
        ({"text": TEXT | {"control_tokens": "tokens"}}, "measured with control_tokens 'tokens', and it is 'text' now"),
        ({"text": {}}, "measured with control_tokens None"),
        ({"text": 3}, "holds no calibration"),
    ],
)
def test_a_damaged_file_is_refused(record, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        read_calibration(write(tmp_path / "calibration.json", record | change), "abc", TEXT)


def test_a_file_that_is_no_object_is_refused(tmp_path):
    for content in ([], 1, "x"):
        with pytest.raises(WeightsError, match="holds no calibration"):
            read_calibration(write(tmp_path / "calibration.json", content), "abc", TEXT)
    with pytest.raises(WeightsError, match="holds no calibration"):
        read_calibration(tmp_path / "absent.json", "abc", TEXT)
