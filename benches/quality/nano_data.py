"""The problems that the model `nano` is made of, split: `python benches nano_data FOLDER OUT`.

FOLDER holds `rollouts_mbpp.jsonl.gz` (groups with `split`; ours are of Qwen2.5-Coder-0.5B on MBPP, ids 601-974 and 1-10
for training, 511-600 for validation) and `condefects_pairs.jsonl.gz` (ConDefects: an incorrect and a correct program of
one person for one AtCoder task). Written are groups for each split: MBPP's without the problems that `make demo` ranks,
and a pair of each of ConDefects' easy tasks, split by task: training, and a fifth held out.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codescaler.io.records import read_lines

SHOWN = Path(__file__).parents[2] / "codescaler/examples/mbpp_unseen.jsonl.gz"


def main() -> None:
    options = read_folders("nano_data", __doc__)
    shown = read_shown()
    rollouts = [group for group in read_rollouts(options.folder) if group["task_id"] not in shown]
    defects = make_condefects_groups(
        record for _, _, record in read_lines(options.folder / "condefects_pairs.jsonl.gz")
    )
    for split in ("validation", "train"):
        write(options.out / f"condefects_{split}.jsonl", (group for group in defects if group["split"] == split))
        write(options.out / f"mbpp_{split}.jsonl", (group for group in rollouts if group["split"] == split))
    print(f"groups of MBPP: {dict(Counter(group['split'] for group in rollouts))}")
    print(f"groups of ConDefects: {dict(Counter(group['split'] for group in defects))}")


def read_folders(name: str, description: str) -> argparse.Namespace:
    """The arguments of a command that makes files in one folder of those in another. Makes the folder."""
    parser = argparse.ArgumentParser(prog=f"python benches {name}", description=description.partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def read_shown() -> set[str]:
    """The problems that `make demo` ranks, which nothing is trained on or chosen by."""
    return {record["task_id"] for _, _, record in read_lines(SHOWN)}


def read_rollouts(folder: Path) -> list[dict[str, Any]]:
    return [record for _, _, record in read_lines(folder / "rollouts_mbpp.jsonl.gz")]


def make_condefects_groups(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first pair of each easy task. A task is held out by a hash of its name, whatever else is in the file."""
    first = {record["task_id"]: record for record in reversed(list(records)) if record["difficulty"] == "easy"}
    return [
        {
            "task_id": f"condefects/{task_id}",
            "split": "validation" if hashlib.sha256(task_id.encode()).digest()[0] % 5 == 0 else "train",
            "prompt": record["problem"],
            "candidates": [{"code": record["right"], "passed": True}, {"code": record["wrong"], "passed": False}],
        }
        for task_id, record in sorted(first.items())
    ]


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
