"""The two rules of correctness, on numbers counted by hand."""

import pytest

from codescaler.data.prefer.correctness import make_correctness_preferences
from codescaler.data.programs import LabelledProblem, Program
from codescaler.errors import InvalidInput


def problem(*rates):
    programs = [Program(f"x = {i}", n == m, f"{i}", n, m) for i, (n, m) in enumerate(rates)]
    return LabelledProblem("t", "p", "train", tuple(programs))


def pairs(problem, rule):
    return [(item.chosen.form, item.rejected.form) for item in make_correctness_preferences(problem, rule)]


def test_all_pairs_what_passed_with_what_did_not():
    assert pairs(problem((3, 3), (2, 3), (0, 3), (3, 3)), "all") == [
        ("0", "1"), ("0", "2"), ("3", "1"), ("3", "2")
    ]  # fmt: skip
    assert pairs(problem((3, 3)), "all") == pairs(problem((0, 3)), "all") == []


@pytest.mark.parametrize(
    "chosen, rejected, is_pair",
    [
        ((5, 5), (3, 5), True),  # 1.0 and 0.6
        ((4, 5), (2, 5), True),  # 0.8 and 0.4: both bounds at once, which floats would miss
        ((8, 10), (4, 10), True),
        ((79, 100), (1, 100), False),  # chosen below 0.8
        ((4, 5), (41, 100), False),  # a gap of 0.39
        ((5, 5), (0, 5), False),  # rejected passed nothing
        ((5, 5), (4, 5), False),
        ((2, 3), (1, 3), False),
    ],
)
def test_acecoders_bounds(chosen, rejected, is_pair):
    assert pairs(problem(chosen, rejected), "acecoder") == ([("0", "1")] if is_pair else [])


def test_evidence_says_what_was_counted():
    (found,) = make_correctness_preferences(problem((5, 5), (2, 5)), "acecoder")
    assert found.evidence == {
        "rule": "acecoder",
        "chosen": {"passed_tests": 5, "num_tests": 5},
        "rejected": {"passed_tests": 2, "num_tests": 5},
    }
    assert (found.aspect, found.margin, found.split) == ("correctness", 0.0, "train")


def test_acecoder_without_counts_and_unknown_rules_are_refused():
    with pytest.raises(InvalidInput, match="passed_tests 3 of num_tests None; the rule acecoder needs both"):
        pairs(problem((3, None), (1, 2)), "acecoder")
    with pytest.raises(InvalidInput, match="rule 'most' is unknown"):
        pairs(problem((1, 1)), "most")
