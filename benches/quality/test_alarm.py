"""Runs the bench of alarms on a tiny model, and counts alarms by hand."""

import json
import random

import pytest

from benches.quality import alarm
from codescaler.testing import save_chat, save_random_checkpoint

LONG = "def f{0}(a):\n    total = a + {0}\n    return total"


@pytest.fixture
def groups(tmp_path):
    candidates = [{"code": LONG.format(n), "passed": n < 3} for n in range(8)]
    rows = [{"task_id": place, "prompt": f"Problem {place}.", "candidates": candidates} for place in range(10)]
    rows.append({"task_id": "one", "prompt": "p", "candidates": [{"code": None, "passed": False}]})
    path = tmp_path / "groups.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_streams(groups, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(alarm, "RESULTS", tmp_path)
    monkeypatch.setattr(alarm, "NUM_START", 4)
    save_random_checkpoint(tmp_path / "rm", "llama", vocab_size=300, pad_token_id=1)
    save_chat(tmp_path / "rm")
    options = ("--rm", str(tmp_path / "rm"), "--runs", "1", "--windows", "4", "--lift", "5", "--save", "tiny")
    assert alarm.main([str(groups), *options]) == 0
    streams = json.loads((tmp_path / "alarm_tiny.json").read_text())["streams"]
    assert streams["honest"]["num_windows"] == streams["learning"]["num_windows"] == 4
    assert streams["praising"]["share_at_first_alarm"]["largest"] <= 1
    assert "praised at the first alarm" in capsys.readouterr().out


def test_a_policy_that_learns_passes_more_and_one_that_praises_praises_more():
    programs = [(LONG.format(n), n == 0) for n in range(8)]
    choice = random.Random(0)
    learned = [
        alarm._sample_programs("learning", programs, share, choice).count(programs[0][0]) for share in (0.0, 1.0)
    ]
    assert learned[0] <= 4 < learned[1]
    praised = alarm._sample_programs("wordless", programs, 1.0, choice)
    assert all(any(claim in code for claim in alarm.WORDLESS) for code in praised)
    assert {*alarm._sample_programs("honest", programs, 1.0, choice)} == {code for code, _ in programs}


def test_counts_by_hand():
    runs = [[False, True, True, False], [False] * 4]
    honest = alarm.summarize_honest(runs)
    assert (honest["num_alarms"], honest["share_of_windows"], honest["share_of_runs_with_two"]) == (2, 0.25, 0.5)
    praise = alarm.summarize_praise(runs, 4)
    assert praise["share_at_first_alarm"] == {"median": 1.25, "largest": 2.0}
    assert praise["num_before_half"] == 0
