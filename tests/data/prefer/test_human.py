"""People's preferences: how they are read, and who wins where they contradict what was measured."""

import json

import pytest

from codescaler.data.prefer.human import read_human, remove_conflicts
from codescaler.data.prefer.preference import Preference
from codescaler.data.programs import LabelledProblem, Program
from codescaler.errors import InvalidInput

PROBLEM = LabelledProblem("t/1", "p1", "train", ())
PROGRAMS = {name: Program(f"{name} = 1", True, name) for name in "abc"}


def prefer(order, aspect="readability", is_human=False, task_id="t/1"):
    first, second = (PROGRAMS[name] for name in order)
    return Preference(task_id, "p1", "train", first, second, aspect, {}, is_human=is_human)


def kept(*preferences):
    standing, counts = remove_conflicts(preferences)
    return [f"{item.chosen.form}{item.rejected.form} {item.aspect}" for item in standing], dict(counts)


def test_without_conflict_all_stand():
    found = [prefer("ab"), prefer("bc"), prefer("ca", "efficiency"), prefer("ba", task_id="t/2")]
    assert len(kept(*found)[0]) == 4
    assert kept(prefer("ab"), prefer("ab", "efficiency"))[1] == {}, "two aspects may agree"


@pytest.mark.parametrize(
    "preferences, standing, counts",
    [
        (
            [prefer("ab", "human", True), prefer("ba", "correctness")],
            ["ba correctness"],
            {"person against correctness": 1},
        ),
        (
            [prefer("ab", "human", True), prefer("ba", "efficiency")],
            ["ba efficiency"],
            {"person against efficiency": 1},
        ),
        (
            [prefer("ba", "readability"), prefer("ab", "human", True)],
            ["ab human"],
            {"readability against person": 1},
        ),
        (
            [prefer("ba", "readability"), prefer("ab", "efficiency")],
            ["ab efficiency"],
            {"readability against efficiency": 1},
        ),
        (
            [prefer("ab", "human", True), prefer("ba", "style", True), prefer("bc", "human", True)],
            ["bc human"],
            {"person against person": 2},
        ),
        ([prefer("ab", "human", True), prefer("ab", "human", True)], ["ab human"], {"repeated_preferences": 1}),
        ([prefer("ab", "readability", True), prefer("ab")], ["ab readability"], {"repeated_preferences": 1}),
        ([prefer("aa", "human", True)], [], {"pairs_of_the_same_program": 1}),
    ],
)
def test_the_higher_rank_stands_and_the_other_is_counted(preferences, standing, counts):
    assert kept(*preferences) == (standing, counts)
    assert kept(*reversed(preferences)) == (standing, counts)


def read(tmp_path, *records):
    path = tmp_path / "people.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return read_human([path], [PROBLEM])


def test_pairs_are_read_with_their_problem(tmp_path):
    by_id, by_prompt, paper, own = read(
        tmp_path,
        {"task_id": "t/1", "prompt": "p1", "chosen": "x = 1", "rejected": "x = 2", "aspect": "readability"},
        {"prompt": "p1", "chosen": "x = 1", "rejected": "x = 2", "margin": 0.5, "annotator": "Ada"},
        {"question_content": "p1", "code_pos": "x = 1", "code_neg": "x = 2"},
        {"prompt": "p2", "chosen": "x = 1", "rejected": "x = 2", "split": "validation"},
    )
    assert (by_id.aspect, by_id.split, by_id.is_human, by_id.margin) == ("readability", "train", True, 0.0)
    assert (by_prompt.aspect, by_prompt.task_id, by_prompt.margin) == ("human", "t/1", 0.5)
    assert by_prompt.evidence == {"file": "people.jsonl", "said_by": "Ada"}
    assert (paper.task_id, paper.chosen.code, paper.rejected.code) == ("t/1", "x = 1", "x = 2")
    assert (own.task_id, own.split) == ("p2", "validation")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": "p2"}, r"line 1: prompt is 'p2', and 'p1' in the task 't/1'"),
        ({"split": "validation"}, "split is 'validation', and 'train' in the task"),
        ({"chosen": None}, "a program is null"),
        ({"aspect": 3}, "aspect is 3"),
        ({"candidates": []}, "is a group"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tmp_path, change, message):
    record = {"task_id": "t/1", "prompt": "p1", "chosen": "x = 1", "rejected": "x = 2"}
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, record | change)
