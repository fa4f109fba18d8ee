"""The order of candidates, by a scorer that knows their length alone."""

import pytest

from codescaler.engine.ranking import compare_ranked, rank_candidates
from codescaler.errors import InvalidInput
from codescaler.types import RankedCandidate

CANDIDATES = ["def g(x):\n    return x + 1", "def f(x): return 1", "def f(x):", "f = 1"]
TURNS = [{"role": "system", "content": "assert h() == 1"}, {"role": "user", "content": "assert f(1) == 1"}]


def rank(problem, candidates, *, asked_first=True, extract=False, language="python", top_k=None):
    def score_pairs(pairs, names):
        return (float(len(pair.turns[-1] if isinstance(pair.turns[0], str) else pair.turns[-1]["content"]))
                for pair in pairs)  # fmt: skip

    return rank_candidates(score_pairs, problem, candidates, extract, top_k, language, None, None, asked_first)


@pytest.mark.parametrize("problem", ["assert f(1) == 1", TURNS])
def test_programs_that_define_what_is_asked_come_first(problem):
    ranked = rank(problem, CANDIDATES)
    assert [candidate.index for candidate in ranked] == [1, 3, 0, 2]
    assert [candidate.missing for candidate in ranked] == [(), (), ("f",), ("f",)]
    assert [candidate.is_eligible for candidate in ranked] == [True, True, False, False]
    assert [candidate.index for candidate in rank(problem, CANDIDATES, top_k=1)] == [1]
    plain = rank(problem, CANDIDATES, asked_first=False)
    assert [candidate.index for candidate in plain] == [0, 1, 3, 2]
    assert {candidate.missing for candidate in plain} == {()}
    assert {c.index: c.score for c in plain} == {c.index: c.score for c in ranked}


def test_nobody_is_marked_where_nothing_is_named():
    ranked = rank("Add one.", CANDIDATES)
    assert [candidate.index for candidate in ranked] == [0, 1, 3, 2]
    assert {candidate.missing for candidate in ranked} == {()}


def test_each_candidate_needs_a_name():
    with pytest.raises(InvalidInput, match="names has 1 names, and there are 2 of candidate"):
        rank_candidates(lambda pairs, names: [], "p", ["a", "b"], False, None, "python", ["x"], None)


def test_the_next_candidate_is_not_known_where_one_was_dropped():
    scored = [RankedCandidate(index, score, True, f"x = {index}") for index, score in enumerate((3.0, 1.0))]
    dropped = RankedCandidate(2, None, True, "x = 2", dropped_at=1)
    assert [each.gap_to_next for each in compare_ranked(scored)] == [2.0, None]
    assert [(each.gap_to_first, each.gap_to_next) for each in compare_ranked([*scored, dropped])] == [
        (0.0, None), (2.0, None), (None, None)
    ]  # fmt: skip


def test_completions_and_other_languages():
    ranked = rank(
        "assert f(1) == 1", ["no code", *(f"```python\n{code}\n```" for code in CANDIDATES[:2])], extract=True
    )
    assert [(candidate.index, candidate.missing) for candidate in ranked] == [(2, ()), (1, ("f",)), (0, ())]
    assert {c.missing for c in rank("assert f(1) == 1", ["int g() { return 1; }"], language="cpp")} == {()}
