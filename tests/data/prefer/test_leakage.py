"""Leakage: what is held out by id, by words, and nearly; and what only sounds alike."""

import gzip
import json
import sys
import types

import pytest

from codescaler.data.prefer.leakage import HeldOut, Leak, LeakFinder, find_leaks, read_held_out
from codescaler.errors import InvalidInput
from codescaler.tasks import make_task_record
from codescaler.types import Task

HELD_OUT = {"h/1": "Write a function to count the vowels of each word in a sentence, ignoring case."}


def leaks(prompt, task_id="t", held_out=HELD_OUT):
    return find_leaks([(task_id, prompt)], HeldOut(frozenset(held_out), held_out)).get(task_id)


def test_ids_and_words_are_compared_exactly():
    assert leaks("anything", "h/1") == Leak("task_id", "h/1")
    assert leaks("WRITE a function to count the vowels,\n of each word in a sentence; ignoring case") == Leak(
        "prompt", "h/1"
    )
    assert leaks("anything", "h/10") is None


def test_overlap_counted_by_hand():
    # Runs of three words: a b c, b c d, c d e, d e f (4), and of the other a b c, b c d, c d x (3): 2 of 3.
    assert leaks("a b c d x", held_out={"h": "a b c d e f"}) == Leak("near_prompt", "h", 0.667)
    # a b c, b c d (2), and a b c, b c x (2): 1 of 2, which is the threshold.
    assert leaks("a b c x", held_out={"h": "a b c d"}) == Leak("near_prompt", "h", 0.5)
    # a b c, b c x, c x y: 1 of 3.
    assert leaks("a b c x y", held_out={"h": "a b c d e f"}) is None


def test_a_problem_in_other_words_is_near():
    near = leaks("Write a python function to count the vowels of each word in a given sentence.")
    assert (near.kind, near.held_out) == ("near_prompt", "h/1")
    assert leaks("Write a function to reverse a list.") is None


def test_how_a_data_set_speaks_is_no_overlap():
    """Half of each prompt is the same in all."""
    opening = "Write a function that takes one argument and then"
    held_out = {f"h/{i}": f"{opening} alpha{i} beta{i} gamma{i} delta{i}" for i in range(10)}
    train = [(f"t/{i}", f"{opening} epsilon{i} zeta{i} eta{i}") for i in range(10)]
    assert find_leaks(train, HeldOut(frozenset(), held_out)) == {}
    assert len(find_leaks(train[:1], HeldOut(frozenset(), {"h/0": held_out["h/0"]}))) == 1, (
        "with two prompts nobody knows"
    )


def test_boilerplate_counts_for_neither_size():
    others = [(f"t/{i}", f"a b c d e f{i} g{i}") for i in range(1, 6)]
    held_out = HeldOut(frozenset(), {"h": "d e f1 g1 h i j k"})
    # a b c, b c d and c d e are in all five. What is left of t/1 is d e f1 and e f1 g1, both among h's 6.
    assert find_leaks(others, held_out) == {"t/1": Leak("near_prompt", "h", 1.0)}


def test_the_nearest_is_named_and_empty_prompts_are_no_leak():
    held_out = {"far": "a b c x y z", "near": "a b c d e f"}
    assert leaks("a b c d e g", held_out=held_out) == Leak("near_prompt", "near", 0.75)
    assert find_leaks([("t", ""), ("u", "?!")], HeldOut(frozenset(), {"h": "a b c"})) == {}
    assert find_leaks([("t", "p")], HeldOut()) == {}


def test_held_out_problems_are_read_in_every_form(tmp_path, monkeypatch):
    group = {"task_id": 7, "prompt": "p7", "candidates": []}
    pair = {"prompt": "p8", "chosen": "a", "rejected": "b", "task_id": "t/8"}
    (tmp_path / "groups.jsonl").write_text(f"{json.dumps(group)}\n{json.dumps(pair)}\n")
    with gzip.open(tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.write(json.dumps(pair | {"task_id": "t/9", "prompt": "p9"}))
    (tmp_path / "tasks.jsonl").write_text('{"question": "p10"}')
    (tmp_path / "ids.txt").write_text("t/1\n\n  t/2\n")
    tasks = types.ModuleType("codescaler.tasks")
    tasks.read_tasks = lambda path: [Task("t/10", json.loads(path.read_text())["question"])]
    monkeypatch.setitem(sys.modules, "codescaler.tasks", tasks)
    files = ("groups.jsonl", "pairs.jsonl.gz", "tasks.jsonl", "ids.txt")
    held_out = read_held_out([*(str(tmp_path / name) for name in files), "t/3,t/4"])
    assert held_out.task_ids == {"7", "t/8", "t/9", "t/10", "t/1", "t/2", "t/3", "t/4"}
    assert held_out.prompts == {"7": "p7", "t/8": "p8", "t/9": "p9", "t/10": "p10"}


def test_a_source_that_holds_nothing_out_is_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("\n")
    for source in ("", ",", str(tmp_path / "ids.txt")):
        with pytest.raises(InvalidInput, match="names no task"):
            read_held_out([source])
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_held_out([str(tmp_path / "absent.jsonl")])
    with pytest.raises(InvalidInput, match=r"absent\.txt is not there"):
        read_held_out([str(tmp_path / "absent.txt")])


def test_a_held_out_reference_is_found_under_other_names(tmp_path):
    path = tmp_path / "held.jsonl"
    task = Task("h/1", "Add two numbers.", reference="def add(a, b):\n    # sum\n    return a + b")
    path.write_text(json.dumps(make_task_record(task)))
    finder = LeakFinder(read_held_out([str(path)]), ())
    assert finder.find_program("def plus(x, y):\n    return x + y") == Leak("program", "h/1")
    assert finder.find_program("def plus(x, y):\n    return y + x") is None
