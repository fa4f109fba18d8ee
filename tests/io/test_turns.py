"""Preference data as people have it: prompts and answers as texts and as messages, under many names."""

import pytest

from codescaler.errors import InvalidInput
from codescaler.io.records import parse_group, parse_row

ASK, RIGHT, WRONG = ({"role": r, "content": c} for r, c in (("user", "p"), ("assistant", "a"), ("assistant", "b")))
SYSTEM, AGAIN = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}
EMPTY = {"tool_calls": None, "name": None}
LONG = (ASK, RIGHT, AGAIN)


@pytest.mark.parametrize(
    "record, problem",
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "p"),
        ({"question_content": "p", "code_pos": "a", "code_neg": "b"}, "p"),
        ({"question": "p", "chosen": "a", "rejected": "b"}, "p"),
        ({"instruction": "p", "input": "", "chosen": "a", "rejected": "b"}, "p"),
        ({"input": "p", "question": None, "chosen": "a", "rejected": "b"}, "p"),
        ({"prompt": "p", "question": "other", "input": 3, "chosen": "a", "rejected": "b"}, "p"),
        ({"prompt": "p", "chosen": [RIGHT | EMPTY], "rejected": [WRONG | EMPTY]}, "p"),
        ({"prompt": [ASK], "chosen": [RIGHT], "rejected": [WRONG]}, "p"),
        ({"prompt": [ASK], "chosen": "a", "rejected": "b"}, "p"),
        ({"prompt": "p", "chosen": [ASK, RIGHT], "rejected": [ASK, WRONG]}, "p"),
        ({"chosen": [ASK, RIGHT], "rejected": [ASK, WRONG]}, "p"),
        ({"prompt": None, "chosen": [ASK, RIGHT], "rejected": [ASK, WRONG]}, "p"),
        ({"chosen": [SYSTEM, ASK, RIGHT], "rejected": [SYSTEM, ASK, WRONG]}, (SYSTEM, ASK)),
        ({"prompt": "p", "chosen": [SYSTEM, ASK, RIGHT], "rejected": [SYSTEM, ASK, WRONG]}, (SYSTEM, ASK)),
        ({"prompt": [SYSTEM, ASK], "chosen": [ASK, RIGHT], "rejected": [WRONG]}, (SYSTEM, ASK)),
        ({"prompt": [*LONG], "chosen": [RIGHT], "rejected": [WRONG]}, LONG),
        ({"prompt": [ASK], "chosen": [RIGHT, AGAIN, RIGHT], "rejected": [RIGHT, AGAIN, WRONG]}, LONG),
        ({"prompt": [ASK, RIGHT], "chosen": [AGAIN, RIGHT], "rejected": [AGAIN, WRONG]}, LONG),
        ({"chosen": [*LONG, RIGHT], "rejected": [*LONG, WRONG]}, LONG),
    ],
)
def test_a_pair_is_one_problem_with_two_answers(record, problem):
    group = parse_group(record | {"system": "S"}, "row")
    assert group.problem == problem and group.system == "S"
    assert [(candidate.code, candidate.passed) for candidate in group.candidates] == [("a", True), ("b", False)]
    assert group.task_id == group.prompt == ("p\n\na\n\nq" if problem == LONG else "p")


@pytest.mark.parametrize(
    "record, message",
    [
        (
            {"instruction": "p", "input": "q", "chosen": "a", "rejected": "b"},
            "may be instruction or input; join",
        ),
        ({"chosen": "a", "rejected": "b"}, "row: chosen is 'a'; give a prompt"),
        ({"chosen": [ASK, RIGHT], "rejected": [AGAIN, WRONG]}, "chosen and rejected differ before their last message"),
        (
            {"prompt": "p", "chosen": [AGAIN, RIGHT], "rejected": [WRONG]},
            "begins with 'q', and not with its prompt",
        ),
        (
            {"prompt": "p", "chosen": [ASK], "rejected": [WRONG]},
            "chosen is .*messages that end with the assistant",
        ),
        ({"prompt": "p", "chosen": [], "rejected": [WRONG]}, r"row: chosen is \[\]; give text, or a list of messages"),
        ({"prompt": [], "chosen": [RIGHT], "rejected": [WRONG]}, r"prompt is \[\]"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "row: chosen, prompt is 3"),
        (
            {"prompt": "p", "chosen": [RIGHT | {"tool_calls": [1]}], "rejected": [WRONG]},
            "a message has tool_calls",
        ),
        (
            {"prompt": [SYSTEM, ASK], "chosen": [SYSTEM | {"content": "t"}, ASK, RIGHT], "rejected": [WRONG]},
            "two system",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "system": 3}, "row: system is 3"),
    ],
)
def test_a_malformed_pair_is_named(record, message):
    with pytest.raises(InvalidInput, match=message):
        parse_group(record, "row")


def test_groups_and_rows_take_the_same_prompts():
    group = parse_group({"task_id": 1, "prompt": [SYSTEM, ASK | EMPTY], "candidates": [{"code": "a"}]}, "row")
    assert (group.problem, group.prompt) == ((SYSTEM, ASK), "p")
    assert parse_group({"task_id": 1, "question": "p", "candidates": []}, "row").problem == "p"
    assert parse_row({"prompt": [SYSTEM, ASK], "response": "a", "system": None}, "row") == ([SYSTEM, ASK, RIGHT], None)
    assert parse_row({"instruction": "p", "response": "a", "system": ""}, "row") == (("p", "a"), "")
    with pytest.raises(InvalidInput, match="row: system is"):
        parse_row({"prompt": "p", "response": "a", "system": ["s"]}, "row")
