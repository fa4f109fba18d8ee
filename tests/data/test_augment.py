"""Groups with rewritten copies: labels, what is chosen, and what is left as it is."""

from collections import Counter

import pytest

from codescaler.data.augment import AUGMENTATIONS, augment_group
from codescaler.errors import InvalidInput
from codescaler.text.rewriting import REWRITES

CODE = "def f(key):\n    # {0}\n    out = [key, {0}]\n    return out"


def group(labels, prompt="Return it. assert f(key=1) == 1"):
    of_all = {"cost_seconds": [1.0]}
    candidates = [
        {"code": CODE.format(k), "passed": passed, "score": k / 8, **of_all} for k, passed in enumerate(labels)
    ]
    candidates += [{"code": None, "passed": False}, {"code": "x = 1"}]
    return {"task_id": "t", "prompt": prompt, "candidates": candidates, "note": "kept"}


def run(record, **changes):
    counts = Counter()
    settings = {"rewrites": [*REWRITES], "num_copies": 1, "seed": 0} | changes
    return augment_group(record, "group", counts=counts, **settings), counts


def test_copies_have_their_program_s_label_and_score():
    record = group([True, False, True])
    made, counts = run(record, num_copies=3)
    assert made["candidates"][:5] == record["candidates"] and made["note"] == "kept"
    copies = made["candidates"][5:]
    assert 6 <= len(copies) == sum(counts[name] for name in REWRITES) <= 9
    assert counts["without a label or program"] == 2
    for copy in copies:
        assert set(copy) == {"code", "passed", "score", "rewritten"}
        (number,) = (k for k in range(3) if f", {k}]" in copy["code"])
        assert copy["passed"] is (number != 1) and copy["score"] == number / 8
        assert "key" in copy["code"]  # by which the prompt calls
    codes = [candidate["code"] for candidate in made["candidates"]]
    assert len(codes) == len(set(codes))
    assert run(record, num_copies=3)[0] == made != run(record, num_copies=3, seed=1)[0]


def test_a_copy_may_have_several_rewrites_in_turn():
    record = group([True, False] * 10)
    made, counts = run(record, max_rewrites=3)
    done = [copy["rewritten"].split(", ") for copy in made["candidates"][22:]]
    assert {1, 2, 3} == {*map(len, done)} and sum(map(len, done)) == sum(counts[name] for name in REWRITES)
    assert all(len({*names}) == len(names) and {*names} <= {*REWRITES} for names in done)
    both = [
        c["code"] for c, names in zip(made["candidates"][22:], done, strict=True) if {"hinted", "imported"} <= {*names}
    ]
    assert both and all("def f(key: " in code and "import" in code for code in both)


def test_copies_of_what_no_teacher_scored_have_no_score():
    record = group([True])
    del record["candidates"][0]["score"]
    assert set(run(record)[0]["candidates"][-1]) == {"code", "passed", "rewritten"}


def test_a_rewrite_does_not_depend_on_the_label():
    right, wrong = (
        [
            (copy["code"], copy["rewritten"])
            for copy in run(group([label] * 20), rewrites=[*AUGMENTATIONS])[0]["candidates"][22:]
        ]
        for label in (True, False)
    )
    assert right == wrong
    assert len({rewritten for _, rewritten in right}) > 3


def test_what_cannot_be_used_is_named():
    with pytest.raises(InvalidInput, match="rewrite 'golfed' is not known; use one of renamed, commented"):
        run(group([True]), rewrites=["golfed"])
    with pytest.raises(InvalidInput, match="group is a pair; give groups"):
        run({"prompt": "p", "chosen": "a", "rejected": "b"})
