"""Groups with programs that do not answer: what is made, what is drawn, and what is left as it is."""

from collections import Counter

import pytest

from codescaler.data.negatives import NAMES, add_negatives
from codescaler.errors import InvalidInput

BODIES = {"add": "a + b", "minus": "a - b", "times": "a * b", "larger": "max(a, b)"}


def group(name, body, passed=(True, False)):
    codes = [f"def {name}(a, b):\n    return {text}" for text in (body, "a")]
    candidates = [{"code": code, "passed": label} for code, label in zip(codes, passed, strict=True)]
    prompt = f"Problem {name}.\nassert {name}(5, 2) == 7"
    return {"task_id": name, "prompt": prompt, "candidates": candidates, "note": "kept"}


GROUPS = [group(name, body) for name, body in BODIES.items()]


def run(groups=GROUPS, **changes):
    counts = Counter()
    settings = {"kinds": [*NAMES], "num_negatives": 99, "seed": 0} | changes
    records = [(f"groups[{place}]", record) for place, record in enumerate(groups)]
    return add_negatives(records, counts=counts, **settings), counts


def test_every_rule_makes_programs_that_are_incorrect():
    made, counts = run()
    assert [record["candidates"][:2] for record in made] == [record["candidates"] for record in GROUPS]
    assert made[0]["note"] == "kept"
    added = made[0]["candidates"][2:]
    assert all(each["passed"] is False for each in added)
    of_kind = {kind: {each["code"] for each in added if each["negative"] == kind} for kind in NAMES}
    assert of_kind["near_miss"] == {"def adds(a, b):\n    return a + b"}
    assert of_kind["no_return"] == {"def add(a, b):\n    pass"}
    assert of_kind["none"] == {"def add(a, b):\n    return None"}
    assert of_kind["constant"] == {"def add(a, b):\n    return 7"}
    others = {f"def {name}(a, b):\n    return {body}" for name, body in BODIES.items() if name != "add"}
    assert of_kind["other"] and of_kind["other"] <= others
    assert of_kind["renamed"] <= {f"def add(a, b):\n    return {body}" for body in BODIES.values() if body != "a + b"}
    assert sum(counts[kind] for kind in NAMES) == sum(len(record["candidates"]) - 2 for record in made)


def test_a_seed_draws_and_a_group_gets_no_more_than_asked():
    made, _ = run(num_negatives=2)
    assert all(len(record["candidates"]) == 4 for record in made)
    assert run(num_negatives=2)[0] == made != run(num_negatives=2, seed=1)[0]
    only, _ = run(kinds=["renamed"], num_negatives=2)
    assert {each["negative"] for record in only for each in record["candidates"][2:]} == {"renamed"}


def test_a_program_that_is_there_is_not_added():
    known = group("add", "a + b")
    known["candidates"].append({"code": "def add(a, b):\n    return None\n", "passed": False})
    made, _ = run([known, GROUPS[1]], kinds=["none"])
    assert made[0] == known and len(made[1]["candidates"]) == 3


def test_without_a_correct_program_a_group_stays():
    groups = [group("add", "a + b", passed=(False, False)), GROUPS[1]]
    made, counts = run(groups)
    assert made[0] == groups[0] and counts["groups without a correct program"] == 1
    assert {each["negative"] for each in made[1]["candidates"][2:]}.isdisjoint({"other", "renamed"})


def test_what_cannot_be_used_is_named():
    with pytest.raises(InvalidInput, match="kind 'empty' is not known; use one of other, renamed"):
        run(kinds=["empty"])
    with pytest.raises(InvalidInput, match=r"groups\[0\] is a pair; give groups"):
        run([{"prompt": "p", "chosen": "a", "rejected": "b"}])
