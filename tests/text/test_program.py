"""A program is one thing, whatever surrounds it."""

import ast
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.errors import InvalidInput
from codescaler.text.program import join_names, make_conversation, normalize_program

BOM = "\ufeff"
PROGRAM = "  def f():\n\n    return '\t'  # a \f b"


@pytest.mark.parametrize(
    "text",
    [
        PROGRAM,
        PROGRAM + "\n",
        PROGRAM + " \t\n\n \n",
        "\n \t\n" + PROGRAM,
        BOM + PROGRAM,
        f"{BOM}\r\n{PROGRAM}\r\n",
        PROGRAM.replace("\n", "\r\n"),
        PROGRAM.replace("\n", "\r") + "\r",
    ],
)
def test_what_surrounds_a_program_and_how_its_lines_end_are_no_part_of_it(text):
    assert normalize_program(text) == PROGRAM


@pytest.mark.parametrize("text", ["", " x", "x  \ny", "x\n\n\ny", f"x{BOM}", f"  {BOM}x", "\tx", "x\\\ny", "\x0bx"])
def test_the_inside_of_a_program_stays(text):
    assert normalize_program(text) == text


@pytest.mark.parametrize("text", [" ", "\n\n", "\r\n\t\r", BOM, f"{BOM} \n"])
def test_a_blank_text_is_the_empty_program(text):
    assert normalize_program(text) == ""


PIECES = [BOM, "\n", "\r", "\r\n", " ", "\t", "\f", "\x85", "x", "y = 1", "\ud800"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text())
def test_normal_form(text):
    made = normalize_program(text)
    assert normalize_program(made) == made
    assert "\r" not in made
    assert made == made.rstrip()
    assert made.split("\n")[0].strip() or not made
    assert not made.startswith(BOM)
    assert [line.strip() for line in made.split("\n")] == normalize_lines(text)
    for surrounded in (f"{made}\n", f"\n{made}", f"{BOM}{made}", made.replace("\n", "\r\n"), f"\n{made} \n\t"):
        assert normalize_program(surrounded) == made


def normalize_lines(text):
    """The same, line by line: lines without what surrounds them."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    lines[-1] = lines[-1].rstrip()
    while True:
        bare = lines[0].lstrip(BOM)
        if len(lines) > 1 and not bare.strip():
            lines.pop(0)
        else:
            return [bare.strip() if bare.strip() else "", *(line.strip() for line in lines[1:])]


@settings(deadline=None)
@given(st.integers(0, 3), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", BOM]))
def test_python_reads_the_same_program(num_lines, end, start):
    text = end.join([*[""] * num_lines, "def f(a):", "    return '''x", "  y''' + a", ""])
    assert ast.dump(ast.parse(normalize_program(start + text))) == ast.dump(ast.parse(text))


def test_a_conversation_holds_the_normal_form():
    assert make_conversation("p", "\nx\n", "s") == make_conversation("p", "x", "s")
    turns = [{"role": "user", "content": "p"}]
    assert make_conversation(turns, "x\n").turns == (*turns, {"role": "assistant", "content": "x"})


def test_each_pair_has_a_name():
    pairs = [("p", "a"), ("p", "b")]
    assert list(join_names(None, pairs)) == [("pairs[0]", pairs[0]), ("pairs[1]", pairs[1])]
    for names in (["x", "y"], (f"row {number}" for number in itertools.count())):
        assert [pair for _, pair in join_names(names, pairs)] == pairs
    for names in ([], iter(["x"])):
        with pytest.raises(InvalidInput, match=r"names has \d names, and there are more pairs"):
            list(join_names(names, pairs))
