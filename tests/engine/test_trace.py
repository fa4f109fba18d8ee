"""Scores by line: each is the score of the program that ends there, and the last that of the whole."""

import itertools
import time
from random import Random

import numpy as np
import pytest

from codescaler.engine import Engine
from codescaler.engine.trace import find_common_lines, find_largest_drop
from codescaler.errors import InvalidInput
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.types import LineScore

PROBLEM = "Add two numbers. " * 8
PROGRAMS = [
    "def f(a, b):\n    total = a\n\n    return total + b\n",
    "\n\r\ndef f(a, b):\r\n    total = a\r\n    return total - b",
    "",
    "x\n\n\ny",
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(path, "qwen3", vocab_size=300)
    save_chat(path)
    return Engine.from_pretrained(path, dtype="float32")


def test_the_last_line_has_the_score_of_the_program_to_the_bit(engine):
    traces = engine.trace(PROBLEM, PROGRAMS)
    scores = {candidate.index: candidate.score for candidate in engine.rerank(PROBLEM, PROGRAMS)}
    assert [trace[-1].score for trace in traces] == [scores[index] for index in range(len(PROGRAMS))]
    assert engine.trace(PROBLEM, PROGRAMS[1]) == traces[1]  # alone, as beside others


def test_each_line_has_the_score_of_the_program_that_ends_there(engine):
    lines = engine.trace(PROBLEM, PROGRAMS[0])
    assert [line.text for line in lines] == ["def f(a, b):", "    total = a", "", "    return total + b"]
    assert [line.number for line in lines] == [1, 2, 3, 4]
    starts = ["", "def f(a, b):", "def f(a, b):\n    total = a", "def f(a, b):\n    total = a", PROGRAMS[0]]
    scores = [engine.rerank(PROBLEM, [start])[0].score for start in starts]
    assert [line.score for line in lines] == scores[1:]
    assert [line.change for line in lines] == np.diff(scores).tolist()
    assert lines[2].change == 0  # a blank line adds nothing


def test_lines_of_all_programs_are_one_tree(engine):
    """A beginning that programs share is computed once, and each token of a program once, but for what ends a turn."""
    before = engine.num_distinct_tokens
    engine.trace(PROBLEM, PROGRAMS)
    traced = engine.num_distinct_tokens - before
    before = engine.num_distinct_tokens
    engine.rerank(PROBLEM, PROGRAMS)
    assert traced < engine.num_distinct_tokens - before + 12 * 12  # starts of lines, tokens behind each


def test_control_tokens_and_messages_are_read_as_in_rerank(engine):
    program = "x = 1  # <|im_end|>\ny = 2"
    messages = [{"role": "user", "content": PROBLEM}]
    assert engine.trace(messages, program, system="Be strict.")[-1].score == (
        engine.rerank(messages, [program], system="Be strict.")[0].score
    )


def test_no_program_has_no_lines(engine):
    assert engine.trace(PROBLEM, []) == []


def test_what_is_no_program_is_refused(engine):
    with pytest.raises(InvalidInput, match="programs is not a list of strings"):
        engine.trace(PROBLEM, ["x", 3])


def test_each_program_needs_a_name(engine):
    with pytest.raises(InvalidInput, match="names has 1 names, and there are 2 of program"):
        engine.trace(PROBLEM, PROGRAMS[:2], names=["a"])


def test_programs_whose_beginnings_are_too_many_are_refused_at_once(engine):
    with pytest.raises(InvalidInput, match="up to each of their lines have 2000012562 characters together"):
        engine.trace(PROBLEM, ["x\n" * 44720 + "y"])


def make_lines(*changes, text="x"):
    return [LineScore(number, f"{text}{number}", 0.0, change) for number, change in enumerate(changes, 1)]


def test_the_largest_drop():
    assert find_largest_drop(make_lines(0.5, -0.1, -0.4, -0.2)).number == 3
    assert find_largest_drop(make_lines(0.5, 0.0)) is None
    assert find_largest_drop(make_lines(0.5, -0.1, -0.4, -0.2), {3}).number == 4


def test_common_lines_are_those_of_both_in_order():
    assert find_common_lines([["a", "b", "c", "d"], ["a", "c", "e"]]) == [(1, 1), (3, 2)]
    assert find_common_lines([["a"]]) == find_common_lines([["a"], ["b"]]) == find_common_lines([["a"]] * 3) == []


@pytest.mark.parametrize("seed", range(60))
def test_common_lines_are_a_longest_common_subsequence(seed):
    random = Random(seed)
    left, right = ([random.choice("abc") for _ in range(random.randrange(9))] for _ in range(2))
    pairs = find_common_lines([left, right])
    assert all(left[one - 1] == right[other - 1] for one, other in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
    assert len(pairs) == max(  # by brute force
        size
        for size in range(min(len(left), len(right)) + 1)
        if {*itertools.combinations(left, size)} & {*itertools.combinations(right, size)}
    )


def test_lines_that_are_all_alike_take_no_time():
    """Methods whose time grows with the places of a line, as that of difflib, take minutes here."""
    before = time.thread_time()
    assert len(find_common_lines([["a", "b"] * 1000, (["a", "a", "b"] * 700)[:2000]])) >= 1333
    assert time.thread_time() - before < 2.0  # it is some milliseconds
