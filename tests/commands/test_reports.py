"""Tables of rankings on wide and narrow screens, with and without block characters."""

import pytest

from codescaler.commands.reports import Screen, draw_bar, format_ranking
from codescaler.io.records import Candidate, Group

GROUP = Group(
    "t/1", "Add \x1b two numbers." + " Please." * 30, (Candidate("a", True), Candidate("b", False), Candidate(None))
)
CHANCE = {"mean": 0.643, "interval": (0.551, 0.72)}


def fact(rank, index, score, behind, chance=None, reason=None, missing=(), dropped_at=None):
    return {
        "rank": rank, "index": index, "score": score, "gap_to_first": behind, "first_is_correct": chance,
        "is_valid": reason is None, "invalid_because": reason, "missing": missing,
        "dropped_at": dropped_at,
    }  # fmt: skip


FACTS = [fact(1, 1, 0.5, 0.0), fact(2, 0, 0.25, 0.25, CHANCE), fact(3, 2, None, None, None, "no program")]
NAMES = ["folder/of/programs/first.py", "folder/of/programs/second.py", "folder/of/programs/third.py"]


def lines(columns, has_blocks=True, facts=FACTS):
    return format_ranking(GROUP, facts, NAMES, 1.0, Screen(columns, has_blocks)).splitlines()


def test_all_is_shown_where_there_is_room():
    title, header, first, second, third = lines(None)
    assert title.startswith("t/1: Add \\x1b two numbers. Please.") and title.endswith("...")
    assert header.split() == ["rank", "score", "behind", "first", "is", "correct", "tests", "program"]
    assert first.split() == ["1", "\u2588" * 20, "0.500", "failed", NAMES[1]]
    assert second.split() == [
        "2",
        "\u2588" * 15,
        "0.250",
        "0.250",
        "64",
        "of",
        "100",
        "[55,",
        "72]",
        "passed",
        NAMES[0],
    ]
    assert third.split() == ["3", "invalid:", "no", "program", NAMES[2]]


def test_a_program_that_misses_a_name_is_marked():
    marked = [FACTS[0], fact(2, 0, 0.75, None, missing=("add", "sub\x1b"))]
    wide, narrow = (lines(columns, facts=marked)[3] for columns in (None, 60))
    assert wide.split() == ["2", "0.750", "does", "not", "define", "add,", "sub\\x1b", "passed", NAMES[0]]
    assert "no add, sub" in narrow


def test_a_program_that_was_dropped_says_where():
    dropped = [FACTS[0], fact(2, 0, None, None, dropped_at=2)]
    wide, narrow = (lines(columns, facts=dropped)[3] for columns in (None, 60))
    assert "dropped after 2 layers" in wide and "dropped" in narrow and "layers" not in narrow


@pytest.mark.parametrize("columns", range(60, 140, 7))
@pytest.mark.parametrize("has_blocks", [True, False])
def test_a_table_fits_its_screen(columns, has_blocks):
    shown = lines(columns, has_blocks)
    assert len(shown) == 5
    assert max(map(len, shown)) <= columns
    assert "64 of 100" in shown[3]
    assert shown[3].endswith(".py")


def test_bars_and_intervals_go_first():
    shown = [lines(columns)[3] for columns in (140, 90, 84, 60)]
    assert [line.count("\u2588") for line in shown] == [15, 7, 7, 0]
    assert ["[55, 72]" in line for line in shown] == [True, True, False, False]


def test_bars():
    assert [draw_bar(share, 4, True) for share in (0.0, 1 / 32, 0.25, 0.5 + 3 / 32, 1.0)] == [
        "", "\u258f", "\u2588", "\u2588\u2588\u258d", "\u2588" * 4
    ]  # fmt: skip
    assert [draw_bar(share, 4, False) for share in (0.0, 0.1, 0.25, 0.9, 1.0)] == ["", "", "#", "####", "####"]


def test_nothing_to_show():
    assert format_ranking(GROUP, [], [], 1.0, Screen(40)).count("\n") == 1
