"""The data card: its counts are those of the file, and both appear whole."""

import json

import pytest

from codescaler.data.prefer.card import format_card, write_preferences
from codescaler.data.prefer.leakage import HeldOut
from codescaler.data.prefer.pairs import PairSettings, make_preferences
from codescaler.io.records import read_groups


@pytest.fixture
def labelled(tmp_path):
    def program(code, passed, num_tests=6):
        return {"code": code, "passed": passed, "passed_tests": num_tests if passed else 1, "num_tests": num_tests}

    def group(number, split, license, *programs):
        prompt = " ".join(f"word{number}{letter}" for letter in "abcdefgh")
        return {
            "task_id": f"t/{number}", "prompt": prompt, "split": split, "license": license,
            "generator": {"model": f"model|{number % 2}"}, "verifier": {"isolation": "namespaces"},
            "candidates": [*programs, {"code": None, "passed": False}],
        }  # fmt: skip

    right, wrong = program("x = 1", True), program("x = 2", False, 4)
    groups = [
        group(1, "train", "MIT", right, wrong, program("y = 1", True)),
        group(2, "train", None, right, wrong, program("x = 3", False)),
        group(3, "validation", "MIT", right, wrong),
        group(4, "train", "GPL", right, wrong),
        group(5, "train", "GPL", right),
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, groups)))
    return path


@pytest.fixture
def written(labelled, tmp_path):
    settings, held_out = PairSettings(), HeldOut(frozenset({"t/4"}))
    data = make_preferences([labelled], settings, held_out=held_out)
    target = tmp_path / "train.jsonl"
    card = write_preferences(data, settings, target, sources=[labelled], held_out=held_out)
    return target, card


def test_counts_are_those_of_the_file(written):
    target, card = written
    groups = read_groups(target)
    assert [group.task_id for group in groups] == ["t/1", "t/2", "t/3"]
    assert card["preferences"] == {
        "correctness": {
            "train": {"pairs": 3, "from_people": 0, "problems": 2},
            "validation": {"pairs": 1, "from_people": 0, "problems": 1},
        }
    }
    assert card["problems_by_license"] == {"MIT": 2, "unknown": 1}
    assert card["problems_by_isolation"] == {"namespaces": 3}
    assert card["programs_by_source"] == {"model|0": 3, "model|1": 4}
    assert card["tests_of_a_program"] == {"least": 4, "median": 6, "most": 6, "programs_unknown": 0}
    assert card["left_out"]["near_duplicates"] == 1
    assert card["left_out"]["invalid_programs"] == 5
    assert card["left_out"]["problems_held_out"] == 1
    assert card["leakage"]["problems"] == {"t/4": "task_id of t/4, 1.0"}
    assert list(card["sources"]) == ["labelled.jsonl"]
    assert "CodeScaler" in card["rules"]["correctness"]


def test_the_card_lies_beside_the_file_in_both_forms(written, tmp_path):
    _, card = written
    assert json.loads((tmp_path / "train.jsonl.card.json").read_text()) == card
    text = (tmp_path / "train.jsonl.card.md").read_text()
    assert text == format_card(card, "train.jsonl")
    assert "| correctness | train | 3 | 0 | 2 |" in text
    assert "- model\\|0: 3" in text
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_untrusted_names_stay_on_their_line(written):
    _, card = written
    card["programs_by_source"] = {"evil\n# heading\x1b[2J": 1}
    assert "- evil # heading [2J: 1" in format_card(card, "f")
