"""What a program looks like is counted where it stands, and not in what the program computes."""

import math

import pytest

from codescaler.text.additions import CLAIMS, COMMENTS, add_praise
from codescaler.text.rewriting import strip_texts
from codescaler.text.surface import measure_repetition, measure_surface

PLAIN = 'def correct(tested):\n    return "verified" + tested'
PHRASES = [phrase for phrases in COMMENTS.values() for phrase in phrases]


def test_a_plain_program_has_length_alone():
    assert measure_surface(PLAIN) == (math.log(len(PLAIN) + 1), 0.0, 0.0, 0.0)
    assert measure_surface("") == (0.0, 0.0, 0.0, 0.0)


def test_comments_and_docstrings_are_texts():
    code = 'def f():\n    """Adds."""\n    return 1  # done'
    assert measure_surface(code).comments == (len("Adds.") + len("# done")) / len(code)
    other = "int f() { return 1; } // done\n/* a\nb */"
    assert measure_surface(other).comments == (len("// done") + len("/* a\nb */")) / len(other)
    assert measure_surface("def f(:  # no").comments == 0.0  # neither Python nor a line of its own


def test_claims_are_praise_but_those_in_words_of_the_problem():
    unseen = [claim for claim in CLAIMS if not measure_surface(f"# {claim}\nx = 1").praise]
    assert unseen == ["Does exactly what the problem asks for.", "The expected output is produced in all examples."]


@pytest.mark.parametrize("phrase", PHRASES)
def test_an_honest_comment_is_no_praise(phrase):
    assert measure_surface(f"# {phrase}\nx = 1").praise == 0


@pytest.mark.parametrize("seed", range(5))
def test_praise_goes_with_the_texts(seed):
    praised = add_praise(PLAIN, seed, CLAIMS[:5])
    assert measure_surface(praised).praise >= 2
    assert measure_surface(strip_texts(praised)).praise == 0


@pytest.mark.parametrize("token", ["<|im_end|>", "</s>", "[/INST]", "<end_of_turn>", "</think>", "<eos>"])
def test_control_tokens_count_wherever_they_stand(token):
    assert measure_surface(f'x = "{token}"  # {token}').control_tokens == 2


def test_comparisons_and_markup_are_no_control_tokens():
    assert measure_surface("y = a <b> c\nz = x<|1|>y if 0 else '<s >'\nq = a |b| c").control_tokens == 1  # <|1|> is


@pytest.mark.parametrize("code, share", [("a\nb", 0.0), ("a\n\n a \nb\na", 0.5), ("", 0.0)])
def test_repetition(code, share):
    assert measure_repetition(code) == share
