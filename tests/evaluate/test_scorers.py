import gc
import math
import weakref

import numpy as np
import pytest

from codescaler.errors import WeightsError
from codescaler.evaluate.problems import parse_problem
from codescaler.evaluate.scorers import BASELINES, score_with_all
from codescaler.io.records import Candidate, Group


class FakeEngine:
    """Scores a response by its length, and remembers what it was asked."""

    def __init__(self, answer=len):
        self.answer, self.asked = answer, []

    def score_stream(self, pairs, names):
        for conversation, _ in zip(pairs, names, strict=True):
            prompt, code = conversation.turns
            self.asked.append((prompt, code))
            yield float(self.answer(code))


def problem(name, *codes):
    return parse_problem(Group(name, name, tuple(Candidate(code, False) for code in codes), name))


def test_every_program_gets_its_score_and_equal_ones_are_scored_once():
    problems, engine = [problem("a", "x", None, "yy", "x"), problem("b", "x"), problem("c", None)], FakeEngine()
    scores = score_with_all(problems, {"rm": lambda: engine})
    assert list(scores) == ["rm", *BASELINES]
    assert [values.tolist() for values in scores["rm"]] == [[1.0, 2.0, 1.0], [1.0], []]
    assert engine.asked == [("a", "x"), ("a", "yy"), ("b", "x")]
    assert [values.tolist() for values in scores["shortest"]] == [[-1.0, -2.0, -1.0], [-1.0], []]


def test_one_model_is_there_at_a_time():
    alive = []

    def open_model():
        gc.collect()
        assert all(reference() is None for reference in alive)
        engine = FakeEngine()
        alive.append(weakref.ref(engine))
        return engine

    score_with_all([problem("a", "x")], dict.fromkeys(("first", "second", "third"), open_model))
    assert len(alive) == 3


def test_a_model_that_gives_nan_is_named():
    with pytest.raises(WeightsError, match=r"rm scores a: candidates\[1\] nan; look for non-finite weights"):
        score_with_all(
            [problem("a", "x", "y")], {"rm": lambda: FakeEngine(lambda code: math.nan if code == "y" else 0)}
        )


def test_infinite_scores_pass():
    scores = score_with_all([problem("a", "x", "y")], {"rm": lambda: FakeEngine({"x": math.inf, "y": -math.inf}.get)})
    assert np.isinf(scores["rm"][0]).all()
