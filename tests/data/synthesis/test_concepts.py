"""Concepts: spelling, near-duplicates, difficulty, and a model's answers."""

import json

import pytest

from codescaler.data.prefer.leakage import HeldOut
from codescaler.data.sample.sampling import Completion, Sampling
from codescaler.data.synthesis.concepts import (
    grade_difficulty,
    merge_concepts,
    normalize_concept,
    parse_concepts,
    read_seeds,
    write_concepts,
)
from codescaler.errors import InvalidInput
from codescaler.types import Task

TASKS = [
    Task("taco/1", "Sort the birds by weight and age.", tags=("Sorting", "Data structures"), difficulty="HARD"),
    Task("taco/2", "Find the cheapest road through the town.", tags=("Graphs", "Shortest paths"), license="MIT"),
    Task("taco/3", "Count the islands of a map of water.", tags=("graph", "DATA-STRUCTURES", "Shortest path")),
]


class Sampler:
    identity = "a list"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def complete(self, requests):
        for request in requests:
            self.asked.append(request)
            yield [Completion(self.answers.pop(0), "stop") for _ in request.seeds]


@pytest.mark.parametrize(
    "text, concept",
    [
        ("Data Structures", "data structure"), ("data_structures", "data structure"),
        ("  Two-Pointers ", "two pointer"),
        ("Binary search / trees", "binary search tree"), ("queries", "query"), ("radius", "radius"), ("C++", "c++"),
        ("ﬁbonacci", "fibonacci"), ("!?", None), ("one two three four five six seven eight nine", None),
    ],
)  # fmt: skip
def test_concepts_have_one_spelling(text, concept):
    assert normalize_concept(text) == concept


def test_near_duplicates_take_the_name_of_the_most_frequent():
    counts = {"binary search": 3, "search binary": 5, "binary searching": 1, "dynamic programming": 4,
              "dynamic programing": 1, "tree": 2, "trie": 2}  # fmt: skip
    names = merge_concepts(counts)
    assert names["binary search"] == names["search binary"] == names["binary searching"] == "search binary"
    assert names["dynamic programing"] == "dynamic programming"
    assert names["tree"] == "tree" and names["trie"] == "trie"
    assert merge_concepts(dict(reversed(counts.items()))) == names


@pytest.mark.parametrize(
    "task, difficulty",
    [
        (Task("taco/1", "", difficulty="EASY"), 1), (Task("taco/1", "", difficulty="VERY_HARD"), 5),
        (Task("leetcode/1", "", difficulty="Hard"), 5), (Task("leetcode/1", "", difficulty="Medium"), 3),
        (Task("c/1", "", rating=800), 1), (Task("c/1", "", rating=3500), 5), (Task("c/1", "", rating=2150), 3),
        (Task("c/1", "", rating=4000), 5), (Task("c/1", "", difficulty="C"), 3),
        (Task("c/1", "", difficulty="Z"), None),        (Task("c/1", ""), None),
    ],
)  # fmt: skip
def test_difficulties_are_on_one_scale(task, difficulty):
    assert grade_difficulty(task) == difficulty


def test_tags_become_seeds_with_merged_concepts(tmp_path):
    path = tmp_path / "concepts.jsonl"
    counts = write_concepts(TASKS, path, license="CC-BY-4.0", held_out=HeldOut(frozenset({"taco/9"})))
    assert counts == {"held_out": 0, "seeds": 3, "without_concepts": 0}
    first, second, third = read_seeds(path)
    assert (first.difficulty, first.license, second.license) == (4, "CC-BY-4.0", "MIT")
    assert second.concepts == {"graph", "shortest path"}
    assert third.topics == (
        "graph",
        "data structure",
        "shortest path",
    )


def test_what_is_held_out_is_no_seed(tmp_path):
    near = HeldOut(frozenset({"taco/1"}), {"x/1": "Please find the cheapest road through the town!"})
    counts = write_concepts(TASKS, tmp_path / "concepts.jsonl", held_out=near)
    assert counts["held_out"] == 2 and counts["seeds"] == 1
    with pytest.raises(InvalidInput, match="all 2 seed problems are held out"):
        write_concepts(TASKS[:2], tmp_path / "other.jsonl", held_out=near)


def test_answers_in_every_form():
    def parse(text):
        return parse_concepts(Completion(text, "stop"))

    body = '{"topics": ["Trees", "trees", 3], "knowledge_points": ["Rotate a tree"]}'
    expected = (["tree"], ["rotate a tree"])
    assert parse(body) == parse(f"Sure!\n```json\n{body}\n```") == parse(f"I think {{x}}</think> {body}") == expected
    assert parse("no JSON") == parse("{") == parse("[]{]}") == parse('{"topics": "a"}') == ([], [])


def test_a_model_names_concepts_and_a_run_goes_on(tmp_path):
    answers = [json.dumps({"topics": [f"topic {n}", "all"], "knowledge_points": ["all", "point"]}) for n in "abc"]
    sampling = Sampling("tiny", num_samples=1)
    whole, target = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    write_concepts(TASKS, whole, sampler=Sampler(*answers), sampling=sampling)
    with pytest.raises(IndexError):
        write_concepts(TASKS, target, sampler=Sampler(*answers[:2]), sampling=sampling)
    rest = Sampler(answers[2])
    write_concepts(TASKS, target, sampler=rest, sampling=sampling)
    assert [request.task_id for request in rest.asked] == ["taco/3"]
    assert target.read_bytes() == whole.read_bytes()
    assert read_seeds(whole)[0].topics == ("topic a", "all") and read_seeds(whole)[0].knowledge_points == ("point",)
    with pytest.raises(InvalidInput, match="is there already"):
        write_concepts(TASKS, target, sampler=Sampler(), sampling=Sampling("other", num_samples=1))


@pytest.mark.parametrize("change", [{"topics": "x"}, {"difficulty": 7}, {"license": None}, {"knowledge_points": [1]}])
def test_a_line_of_another_kind_is_refused(tmp_path, change):
    path = tmp_path / "concepts.jsonl"
    line = {
        "task_id": "a",
        "prompt": "p",
        "topics": ["x"],
        "knowledge_points": ["y"],
        "difficulty": 1,
        "license": "MIT",
    }
    path.write_text(json.dumps(line))
    assert read_seeds(path)[0].concepts == {"x", "y"}
    path.write_text(json.dumps(line | change))
    with pytest.raises(InvalidInput, match="line 1 is not a line of `codescaler data synth concepts`"):
        read_seeds(path)
    path.write_text(json.dumps(line | {"topics": []}))
    with pytest.raises(InvalidInput, match="no seed with two concepts"):
        read_seeds(path)
