"""The bench of faulty lines: chances where values are tied, and lines found among tokens."""

import gzip
import json

import pytest

from benches.quality.fault_lines import _find, _find_line_ends, _find_own_lines, _read_faults, main
from codescaler.engine import Engine

LINES = ["a = 1", "", "b = 2", "c = a - b"]


@pytest.mark.parametrize(
    "suspicions, k, expected",
    [
        ([0.0, -9.0, -1.0, 2.0], 1, 1.0),  # a blank line is no line
        ([-2.0, 0.0, -1.0, 2.0], 1, 0.0),
        ([-2.0, 0.0, -1.0, 2.0], 3, 1.0),
        ([-1.0, 0.0, -1.0, 2.0], 1, 0.5),
        (None, 1, 1 / 3),
        (None, 3, 1.0),
    ],
)
def test_the_chance_to_find_a_faulty_line(suspicions, k, expected):
    assert _find(suspicions, LINES, {3}, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong, number, expected",
    [("a = 1\n\nb = 2", "3", {3}), ("\n  \na = 1\nb = 2\n", "3", {1}), ("\na = 1", "1", set()), ("a = 1", "2", set())],
)
def test_faults_are_those_of_the_lines_that_are_scored(wrong, number, expected):
    assert _read_faults({"wrong": wrong, "fault_lines": number})[1] == expected


def test_own_lines_are_not_in_the_other():
    assert _find_own_lines(["a", "", "b", "c"], ["a", "", "d", "c"]) == {2}
    assert _find_own_lines(["a", "a"], ["a"]) in ({0}, {1})


def test_a_line_ends_at_the_token_of_its_last_character():
    engine = Engine.from_pretrained("nano")
    sequences, starts = engine.encoder.encode_continuations([("p", "\n".join(LINES))], ["program"])
    tokenizer = engine.encoder.chat.tokenizer
    ends = [*_find_line_ends(tokenizer, sequences[0], starts[0], LINES)]
    texts = [tokenizer.decode(sequences[0][starts[0] : end].tolist()) for end in ends]
    assert [text.rstrip() for text in texts] == ["a = 1", "a = 1", "a = 1\n\nb = 2", "\n".join(LINES)]
    assert ends[-1] == len(sequences[0])


def test_a_run(tmp_path, capsys):
    rows = [{"task_id": "t", "problem": "p", "wrong": "x = 1\ny = 2", "right": "x = 1\ny = 3", "fault_lines": "2"}]
    with gzip.open(tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert main([str(tmp_path / "pairs.jsonl.gz")]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert [
        "chance",
        "50.0",
        "[50.0,",
        "50.0]",
        "100.0",
        "[100.0,",
        "100.0]",
    ] in lines and "nano, beside the twin" in shown
