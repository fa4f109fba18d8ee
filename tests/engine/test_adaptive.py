"""`AdaptiveRanker` on scores that are known: who is dropped, who stays, and what equal programs change."""

import logging

import numpy as np
import pytest

from codescaler.engine.adaptive import AdaptiveRanker, CascadeScores
from codescaler.engine.certificate import STATISTICS, Certificate
from codescaler.engine.exits import DROPPED, Rule
from codescaler.errors import InvalidInput, WeightsError
from codescaler.text.program import make_conversation

EARLY = {"a = 1": 10.0, "b = 1": 5.0, "c = 1": 4.0, "d = 1": 3.0}
LAST = {"a = 1": 8.0, "b = 1": 3.0, "c = 1": 9.0, "d = 1": 1.0}


class Scorer:
    """Gives each program its score, and remembers what it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def score_stream(self, pairs, names=None):
        for pair in pairs:
            self.asked.append(pair.turns[-1])
            yield self.scores[self.asked[-1]]


def make_ranker(rule, num_candidates=(3, 4)):
    reference = tuple((0.0,) * 64 for _ in STATISTICS)
    certificate = Certificate(rule, "first", 0.01, 0.95, 0.01, 299, 0, 1, num_candidates, False, reference)
    large = Scorer(LAST)
    return AdaptiveRanker(CascadeScores(large, Scorer(EARLY)), certificate), large


def rank(ranker, codes, top_k=None):
    return ranker.rank(lambda: "in full", "p", codes, False, top_k, "python", None, None, False)


def test_a_cascade_scores_who_is_left():
    pairs = [make_conversation("p", code) for code in EARLY]
    large = Scorer(LAST)
    values = CascadeScores(large, Scorer(EARLY)).compute(pairs, [*EARLY], Rule((5.5,)))
    assert values.tolist() == [[10, 8], [5, 3], [4, DROPPED], [3, DROPPED]]
    assert large.asked == ["a = 1", "b = 1"]


def test_equal_programs_are_one():
    """The margin is from the second best program, and not from a copy of the best."""
    ranker, large = make_ranker(Rule((1.5,), top_k=2))
    found = rank(ranker, ["a = 1", "a = 1", "b = 1", "c = 1", "d = 1", "a = 1"], top_k=2)
    assert [(each.index, each.score) for each in found] == [(3, 9.0), (0, 8.0)]
    assert large.asked == ["a = 1", "b = 1", "c = 1"]
    everything = rank(ranker, ["d = 1", "a = 1", "b = 1", "d = 1", "c = 1", "a = 1"])
    assert [(each.index, each.score, each.dropped_at) for each in everything] == [
        (4, 9.0, None), (1, 8.0, None), (5, 8.0, None), (2, 3.0, None), (0, None, 0), (3, None, 0)
    ]  # fmt: skip


def test_copies_do_not_move_what_is_watched():
    seen = []
    for codes in ([*EARLY], ["a = 1"] * 13 + [*EARLY]):
        ranker, _ = make_ranker(Rule((np.inf,)))
        ranker._monitor.add = seen.append
        rank(ranker, codes)
    assert seen[0] == seen[1] == (4, 10, 4.5, 9)


def test_sizes_that_were_not_counted_are_ranked_in_full(caplog):
    ranker, _ = make_ranker(Rule((1.0,)), num_candidates=(2, 3))
    with caplog.at_level(logging.WARNING):
        assert rank(ranker, ["a = 1", "a = 1"]) == "in full" and not caplog.records
        assert rank(ranker, [*EARLY]) == rank(ranker, [*EARLY]) == "in full"
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "a problem has 4 programs that may be first, and those that the certificate counted had at most 3"
    ]
    with pytest.raises(InvalidInput, match="top_k=2, and the exits were made for 1"):
        rank(ranker, [*EARLY], top_k=2)


def test_programs_of_another_language_were_not_counted():
    ranker, _ = make_ranker(Rule((1.0,)))
    with pytest.raises(InvalidInput, match="language='c', and exits are made of Python programs"):
        ranker.rank(lambda: "in full", "p", [*EARLY], False, None, "c", None, None, False)


def test_an_infinite_score_is_not_taken_for_a_dropped_one():
    """Of the small model it goes on, and of the large one it is an error."""
    pairs = [make_conversation("p", code) for code in EARLY]
    small = Scorer(EARLY | {"d = 1": -np.inf})
    values = CascadeScores(Scorer(LAST), small).compute(pairs, [*EARLY], Rule((5.5,)))
    assert values[3].tolist() == pytest.approx([np.nan, 1], nan_ok=True)
    large = Scorer(dict.fromkeys(LAST, -np.inf))
    assert np.isnan(CascadeScores(large, Scorer(EARLY)).compute(pairs, [*EARLY], None)[:, 1]).all()
    ranker, _ = make_ranker(Rule((5.5,)))
    ranker.scores = CascadeScores(large, Scorer(EARLY))
    with pytest.raises(WeightsError, match="candidate 0"):
        rank(ranker, [*EARLY])
