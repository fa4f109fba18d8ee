"""The split of the problems that nano is made of: by task, whatever else is in the file, and nothing that is shown."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

from benches.quality.nano_data import SHOWN, make_condefects_groups
from codescaler.io.records import read_groups, read_lines

ROOT = Path(__file__).parents[1]


def defect(task, number, difficulty="easy"):
    return {
        "task_id": task, "problem": f"Do {task}.", "difficulty": difficulty, "wrong": f"x = {number}", "right": "x = -1"
    }  # fmt: skip


def test_a_pair_of_each_easy_task_and_a_fifth_held_out():
    records = [defect(f"abc{n}", number) for n in range(200) for number in (1, 2)] + [defect("hard", 1, "hard")]
    groups = make_condefects_groups(records)
    assert len(groups) == 200 and all(group["candidates"][1]["code"] == "x = 1" for group in groups)
    held_out = {group["task_id"] for group in groups if group["split"] == "validation"}
    assert 20 <= len(held_out) <= 60
    fewer = make_condefects_groups(records[100:])
    assert {g["task_id"] for g in fewer if g["split"] == "validation"} <= held_out


def test_what_make_demo_shows_is_in_no_split(tmp_path):
    shown = [record["task_id"] for _, _, record in read_lines(SHOWN)]
    groups = [
        {"task_id": name, "split": split, "prompt": "p", "candidates": [{"code": "x", "passed": True}]}
        for name, split in [(shown[0], "train"), ("mbpp/700", "train"), ("mbpp/511", "validation")]
    ]
    for name, records in (("rollouts_mbpp", groups), ("condefects_pairs", [defect("abc1", 1)])):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    command = [sys.executable, "benches", "nano_data", tmp_path, tmp_path / "out"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    found = {
        path.name: [group.task_id for group in read_groups(path)] for path in (tmp_path / "out").glob("mbpp_*.jsonl")
    }
    assert found == {"mbpp_train.jsonl": ["mbpp/700"], "mbpp_validation.jsonl": ["mbpp/511"]}
