"""Files of labelled groups to records that training reads, with every program left out counted."""

import json
from pathlib import Path

import pytest

from codescaler.data.prefer.leakage import HeldOut
from codescaler.data.prefer.pairs import PairSettings, make_preferences, make_records
from codescaler.errors import InvalidInput
from codescaler.io.records import read_groups

LOOP = """def count(text, letter):
    count = 0
    for char in text:
        if char == letter:
            count += 1
    return count"""
BUILTIN = "def count(text, letter):\n    return text.count(letter)"
WRONG = "def count(text, letter):\n    return len(text)"
PROMPTS = {
    "t/1": "Count how often a letter occurs inside some text.",
    "t/2": "Decide whether two words rhyme according to their last syllable.",
    "t/3": "Tell how many minutes pass between both clock times.",
    "t/4": "Sum all prime numbers below the given bound.",
}


def candidate(code, passed=True, passed_tests=None, num_tests=6, costs=None):
    passed_tests = (num_tests if passed else 2) if passed_tests is None else passed_tests
    record = {"code": code, "passed": passed, "passed_tests": passed_tests, "num_tests": num_tests}
    return record if costs is None else record | {"cost_seconds": costs}


def group(task_id="t/1", *candidates, split="train"):
    candidates = candidates or (candidate(LOOP), candidate(BUILTIN), candidate(WRONG, False))
    return {"task_id": task_id, "prompt": PROMPTS[task_id], "split": split, "candidates": list(candidates)}


def write(path, *lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def make(tmp_path, *groups, people=(), held_out=None, **settings):
    path = write(tmp_path / "labelled.jsonl", *groups)
    said = [write(tmp_path / "people.jsonl", *people)] if people else []
    settings = PairSettings(**settings)
    data = make_preferences([path], settings, people=said, held_out=held_out)
    return data, list(make_records(data, settings))


def test_correctness_by_all_is_groups(tmp_path):
    data, (record,) = make(tmp_path, group(), group("t/2", candidate("x = 1")))
    assert record["task_id"] == "t/1" and record["aspect"] == "correctness" and record["margin"] == 0.0
    assert [(item["code"], item["passed"]) for item in record["candidates"]] == [
        (LOOP, True), (BUILTIN, True), (WRONG, False)
    ]  # fmt: skip
    assert record["evidence"] == {"rule": "all", "isolation": ["unknown"]}
    assert len(data.preferences) == 2
    (read,) = read_groups([record])
    assert [item.passed for item in read.candidates] == [True, True, False]


def test_acecoder_and_margins_are_pairs(tmp_path):
    wrong = candidate(WRONG, False, passed_tests=3)
    for settings in ({"rule": "acecoder"}, {"margins": {"correctness": 0.5}}):
        _, found = make(tmp_path, group("t/1", candidate(LOOP), wrong), **settings)
        (pair,) = read_groups(found)
        assert (pair.candidates[0].code, pair.candidates[1].code, pair.split) == (LOOP, WRONG, "train")
        assert pair.margin == (0.5 if "margins" in settings else 0.0)
        assert found[0]["evidence"]["rejected"] == {"passed_tests": 3, "num_tests": 6}


def test_all_three_aspects(tmp_path):
    costs = {LOOP: [3.0] * 5, BUILTIN: [1.0] * 5, WRONG: [0.1] * 5}
    programs = [candidate(code, code != WRONG, costs=costs[code]) for code in costs]
    aspects = ("correctness", "efficiency", "readability")
    data, found = make(tmp_path, group("t/1", *programs), aspects=aspects, margins={"readability": 0.25})
    assert [record["aspect"] for record in found] == [*aspects]
    for record in found[1:]:
        assert (record["chosen"], record["rejected"]) == (BUILTIN, LOOP)
    assert [record["margin"] for record in found] == [0.0, 0.0, 0.25]
    assert "ruff" in data.versions
    assert len(read_groups(found)) == 3


def test_a_slower_but_more_readable_program_is_left_to_the_clock(tmp_path):
    programs = (candidate(LOOP, costs=[1.0] * 5), candidate(BUILTIN, costs=[2.0] * 5))
    data, found = make(tmp_path, group("t/1", *programs), aspects=("efficiency", "readability"))
    assert [(record["aspect"], record["chosen"]) for record in found] == [("efficiency", LOOP)]
    assert data.conflicts == {"readability against efficiency": 1}


def test_what_few_tests_let_pass_says_nothing_of_readability(tmp_path):
    weak = group("t/1", candidate(LOOP, num_tests=3), candidate(BUILTIN, num_tests=3), candidate(WRONG, False))
    data, found = make(tmp_path, weak, aspects=("correctness", "readability"))
    assert [record["aspect"] for record in found] == ["correctness"]
    assert data.left_out["correct_programs_of_few_tests"] == 2
    _, found = make(tmp_path, weak, aspects=("correctness", "readability"), min_tests=3)
    assert [record["aspect"] for record in found] == ["correctness", "readability"]
    data, found = make(tmp_path, weak, min_tests=4)
    assert found == []
    assert data.left_out["programs_of_few_tests"] == 2


def test_held_out_problems_are_left_out_or_refused(tmp_path):
    held_out = HeldOut(frozenset({"t/2"}), {"h": PROMPTS["t/3"].upper()})
    groups = [group(task_id) for task_id in PROMPTS]
    said = {"prompt": PROMPTS["t/2"], "chosen": "x = 1", "rejected": "x = 2"}
    data, found = make(tmp_path, *groups, people=[said], held_out=held_out)
    assert [record["task_id"] for record in found] == ["t/1", "t/4"]
    assert {task_id: leak.kind for task_id, leak in data.leaks.items()} == {"t/2": "task_id", "t/3": "prompt"}
    assert (data.left_out["problems_held_out"], data.left_out["human_pairs_held_out"]) == (2, 1)
    with pytest.raises(InvalidInput, match="2 problems are held out, such as 't/"):
        make(tmp_path, *groups, held_out=held_out, refuse_leaks=True)


def test_every_prompt_of_a_person_is_compared(tmp_path):
    said = {"task_id": "own", "chosen": "x = 1", "rejected": "x = 2"}
    people = [said | {"prompt": PROMPTS["t/2"]}, said | {"prompt": "Something else altogether is asked here."}]
    data, _ = make(tmp_path, group(), people=people, held_out=HeldOut(frozenset(), {"h": PROMPTS["t/2"]}))
    assert data.left_out["human_pairs_held_out"] == 2


def test_a_training_problem_near_one_of_validation_is_left_out(tmp_path):
    copy = group("t/2") | {"prompt": PROMPTS["t/1"].replace("often", "many times")}
    data, found = make(tmp_path, group("t/1", split="validation"), copy, group("t/3"))
    assert [record["task_id"] for record in found] == ["t/1", "t/3"]
    assert data.leaks["t/2"].kind == "near_prompt"


def test_other_splits_are_not_trained_on(tmp_path):
    people = [{"prompt": PROMPTS["t/2"], "chosen": "x = 1", "rejected": "x = 2", "split": "test"}]
    data, found = make(tmp_path, group(split="test"), group("t/4", split=None), people=people)
    assert [record["task_id"] for record in found] == ["t/4"]
    assert "split" not in found[0]
    assert (data.left_out["problems_of_other_splits"], data.left_out["human_pairs_of_other_splits"]) == (1, 1)


def test_people_join_and_their_conflicts_are_counted(tmp_path):
    people = [
        {"task_id": "t/1", "prompt": PROMPTS["t/1"], "chosen": WRONG, "rejected": LOOP},
        {"prompt": PROMPTS["t/1"], "chosen": LOOP, "rejected": BUILTIN, "aspect": "readability", "margin": 1},
    ]
    data, found = make(tmp_path, group(), people=people, aspects=("correctness", "readability"))
    assert [(record["aspect"], record.get("chosen")) for record in found] == [
        ("correctness", None),
        ("readability", LOOP),
    ]
    assert found[1]["margin"] == 1
    assert found[1]["evidence"]["said_by"] == "a person"
    assert data.conflicts == {"person against correctness": 1, "readability against person": 1}


def test_at_most_some_pairs_of_a_problem(tmp_path):
    right = [candidate(f"x = {i}") for i in range(3)]
    wrong = [candidate(f"y = [{i}]", False) for i in range(3)]
    data, found = make(tmp_path, group("t/1", *right, *wrong), group("t/4"), max_pairs=4)
    assert [record["task_id"] for record in found] == ["t/1"] * 4 + ["t/4"] * 2
    assert data.left_out["pairs_beyond_max_pairs"] == 5
    _, again = make(tmp_path, group("t/4"), group("t/1", *reversed(wrong), *right), max_pairs=4)
    pairs = [{(record["chosen"], record["rejected"]) for record in records} for records in (found, again)]
    assert pairs[0] == pairs[1], "the choice does not depend on the order"


def test_efficiency_without_costs_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="none of 2 programs that passed has cost_seconds"):
        make(tmp_path, group(), aspects=("efficiency",))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"aspects": ("beauty",)}, "aspect 'beauty' is not measured"),
        ({"aspects": ()}, "no aspect"),
        ({"rule": "most"}, "rule 'most' is unknown"),
        ({"max_pairs": 0}, "max_pairs 0"),
        ({"min_tests": -1}, "min_tests -1"),
        ({"margins": {"efficiency": 1.0}}, "margin of 'efficiency', which is not asked for"),
        ({"margins": {"correctness": float("inf")}}, "margin of 'correctness' is inf"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InvalidInput, match=message):
        PairSettings(**settings)


def test_the_example_of_the_package_becomes_preferences():
    import codescaler

    path = Path(codescaler.__file__).parent / "examples/mbpp_fit.jsonl.gz"
    settings = PairSettings()
    data = make_preferences([path], settings)
    assert len(read_groups(make_records(data, settings))) > 10
    assert data.left_out["contradictory_programs"] == 0
