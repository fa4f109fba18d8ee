import json
from collections import Counter

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.preferences import evaluate_preferences, read_pairs, read_rewardbench
from codescaler.evaluate.scorers import score_with_all


def write(tmp_path, *records):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_pairs_by_hand(tmp_path):
    records = [
        {"prompt": "p", "chosen": "a = 1", "rejected": "a = (", "domain": "graphs"},
        {"prompt": "p", "chosen": "aa", "rejected": "b", "domain": "graphs", "margin": 0.5},
        {"question_content": "q", "code_pos": "a", "code_neg": "bb"},
    ]
    items = read_pairs(write(tmp_path, *records))
    ours = {"rm": [np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array([1.0, -np.inf])]}
    figures = evaluate_preferences(items, ours | score_with_all(items, {}), ["rm"])
    assert (figures["num_items"], figures["num_clusters"]) == (3, 2)
    assert {name: scorer["accuracy"]["mean"] for name, scorer in figures["scorers"].items()} == pytest.approx(
        # The chosen ones are 5, 2 and 1 characters long, the rejected ones 5, 1 and 2.
        {"rm": 1.5 / 3, "random": 0.5, "shortest": 1.5 / 3, "longest": 1.5 / 3, "parses": 2 / 3, "oracle": 1.0}
        | {"defines": 0.5}
    )
    assert figures["gains"]["rm"]["oracle"]["mean"] == pytest.approx(-0.5)
    by = figures["by"]["domain"]
    assert {label: part["num_items"] for label, part in by["parts"].items()} == {"graphs": 2, "not said": 1}
    assert by["parts"]["graphs"]["scorers"]["rm"]["mean"] == 0.25
    assert by["mean"]["rm"]["mean"] == (0.25 + 1.0) / 2
    # Two prompts are two clusters: each may be drawn twice.
    assert figures["scorers"]["rm"]["accuracy"]["interval"] == (0.25, 1.0)


@pytest.mark.parametrize(
    "record, message",
    [
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "line 1: the chosen program is null"),
        ({"prompt": "p", "chosen": "a"}, "line 1: rejected: code is 0"),
        ({"task_id": 1, "prompt": "p", "candidates": []}, "line 1 has candidates; give pairs, and groups to"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "domain": [3]}, r"domain is \[3\]; give a string"),
    ],
)
def test_a_malformed_pair_is_named(tmp_path, record, message):
    with pytest.raises(InvalidInput, match=message):
        read_pairs(write(tmp_path, record))


def test_a_file_without_records_is_named(tmp_path):
    for read in (read_pairs, read_rewardbench):
        with pytest.raises(InvalidInput, match=r"rows\.jsonl has no record"):
            read(write(tmp_path))


def test_rewardbench_by_hand(tmp_path):
    rows = [{"id": i, "prompt": "p", "chosen": "a", "rejected": "b", "subset": s} for i, s in enumerate("xxy")]
    items = read_rewardbench(write(tmp_path, *rows))
    scores = {"rm": [np.array([2.0, 1.0]), np.array([1.0, 1.0]), np.array([0.0, 1.0])]}
    figures = evaluate_preferences(items, scores | score_with_all(items, {}), ["rm"])
    assert figures["scorers"]["rm"]["accuracy"]["mean"] == 0.5
    parts = figures["by"]["subset"]["parts"]
    assert {label: part["scorers"]["rm"]["mean"] for label, part in parts.items()} == {"x": 0.75, "y": 0.0}
    assert figures["by"]["subset"]["mean"]["rm"]["mean"] == 0.375
    assert figures["by"]["subset"]["mean"]["rm"]["interval"] == (0.25, 0.5)


def test_rewardbench_2_by_hand(tmp_path):
    row = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c", "d"]}
    items = read_rewardbench(write(tmp_path, *[row | {"id": i, "subset": "Math"} for i in range(5)]))
    scores = [[2, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]]
    figures = evaluate_preferences(
        items, {"rm": [np.array(row, float) for row in scores]} | score_with_all(items, {}), []
    )
    # Alone at the top, one of two, one of three, below, one of four.
    assert figures["scorers"]["rm"]["accuracy"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 0 + 1 / 4) / 5)
    assert figures["scorers"]["random"]["accuracy"]["mean"] == 0.25
    assert figures["scorers"]["oracle"]["accuracy"]["mean"] == 1.0


USER, ANSWER = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
SYSTEM, AGAIN = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    "prompt, chosen, expected",
    [
        ("p", "a", ("p", "a")),
        ("p", [ANSWER], ("p", "a")),
        ("p", [USER, ANSWER | {"tool_calls": None}], ("p", "a")),
        ("p", [SYSTEM, USER, ANSWER], [SYSTEM, USER, ANSWER]),
        (None, [SYSTEM, USER, ANSWER], [SYSTEM, USER, ANSWER]),
        ([SYSTEM, USER], "a", [SYSTEM, USER, ANSWER]),
        ([SYSTEM, USER], [SYSTEM, USER, ANSWER], [SYSTEM, USER, ANSWER]),
        ([USER, ANSWER, AGAIN], [ANSWER | {"id": 3}], [USER, ANSWER, AGAIN, ANSWER]),
    ],
)
def test_prompts_and_responses_may_be_messages(tmp_path, prompt, chosen, expected):
    (item,) = read_rewardbench(write(tmp_path, {"prompt": prompt, "chosen": chosen, "rejected": chosen}))
    assert [*item.responses[0].pair.turns] == [*expected]
    assert item.responses[0].text == "a"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"subset": "Ties"}, "has the subset Ties alone, whose score is not computed here"),
        ({"chosen": []}, "line 1: chosen is empty"),
        ({"chosen": 3}, "line 1: chosen is 3; give text, or a list of messages"),
        ({"chosen": [3]}, r"line 1: chosen: a message is 3; give an object with role and content"),
        ({"rejected": [USER]}, "line 1: rejected is .*; give a prompt, and messages that end with the assistant's"),
        ({"prompt": None}, "line 1: chosen is 'a'; give a prompt"),
        ({"prompt": 3}, "line 1: chosen, prompt is 3"),
        ({"subset": 1.5}, "line 1: subset is 1.5; give a string"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        read_rewardbench(write(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"} | changes))


def test_ties_are_left_out_and_counted(tmp_path):
    row, counts = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"]}, Counter()
    items = read_rewardbench(write(tmp_path, row | {"subset": "Ties"}, row | {"subset": "Math"}), counts)
    assert [item.labels["subset"] for item in items] == ["Math"]
    assert counts == {"items of the subset Ties": 1}


def test_pairs_of_judgebench_are_read(tmp_path):
    row = {"pair_id": "1", "question": "q", "response_A": "a", "response_B": "b", "label": "B>A", "source": "mmlu"}
    first, second = read_pairs(write(tmp_path, row, row | {"label": "A>B"}))
    assert [response.text for response in first.responses] == ["b", "a"] and first.labels == {"domain": "mmlu"}
    assert [response.text for response in second.responses] == ["a", "b"]
    with pytest.raises(InvalidInput, match="label is 'A=B'; give 'A>B' or 'B>A'"):
        read_pairs(write(tmp_path, row | {"label": "A=B"}))
