"""The problems that nano and its teacher are made of, split: `python benches reading_data FOLDER OUT`.

FOLDER holds `rollouts_mbpp.jsonl.gz` (groups with `split`; ours are of Qwen2.5-Coder-0.5B on MBPP, ids 601-974 and 1-10
for training, 511-600 for validation), `mbpp.jsonl` and `leetcode_train.jsonl.gz` (LeetCodeDataset v0.2). Written are

    sampled_train.jsonl        attempts of Qwen2.5-Coder-0.5B: those groups, and LeetCode's easy problems
    mbpp_validation.jsonl      MBPP's validation problems, the same sampler
    foreign_validation.jsonl   MBPP's validation problems, other samplers (`benches/quality/data`)
    references_train.jsonl     groups of one program, the problem's own solution, to add negatives to
    taught.jsonl               sampled_train.jsonl with a teacher's scores (`benches/quality/teacher_scores.py`)

The problems that `make demo` ranks are in none. Nothing is trained on that is near a problem of MBPP 11-600, or that
may be in LiveCodeBench, which begins in May 2023, or that the same rule finds near a problem of HumanEval. LeetCode's
problems stand in the order in which they were made, so those before a problem of February 2023 are kept.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benches.quality.sampled import DATA, read_sampled, write_groups
from benches.quality.teacher_scores import add_scores
from codescaler.data.prefer.leakage import HeldOut, find_leaks
from codescaler.io.records import read_lines
from codescaler.tasks import read_tasks
from codescaler.types import Task

SHOWN = Path(__file__).parents[2] / "codescaler/examples/mbpp_unseen.jsonl.gz"  # what `make demo` ranks
NEAR_HUMANEVAL = {"mbpp/667", "mbpp/877"}  # to its problems 64 and 88, by their docstrings
FIRST_LATE = "leetcode/separate-the-digits-in-an-array"  # February 2023: question 2553
LONGEST_PROMPT, LONGEST_PROGRAM = 450, 1000  # characters of a solution's group: longer ones cost more than they teach


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches reading_data", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shown = {record["task_id"] for _, _, record in read_lines(SHOWN)}
    rollouts = [record for _, _, record in read_lines(options.folder / "rollouts_mbpp.jsonl.gz")]
    mbpp = list(read_tasks(options.folder / "mbpp.jsonl"))
    leetcode = take_before_window(list(read_tasks(options.folder / "leetcode_train.jsonl.gz")))
    held_out = HeldOut(prompts={task.task_id: task.prompt for task in mbpp if task.split != "train"})
    problems = [(group["task_id"], group["prompt"]) for group in rollouts if group["split"] == "train"]
    problems += [(task.task_id, task.prompt) for task in [*mbpp, *leetcode] if task.split in ("train", None)]
    near = find_leaks(problems, held_out).keys() | NEAR_HUMANEVAL
    print(f"{len(near)} problems left out that are near one of MBPP 11-600 or of HumanEval")
    easy = read_sampled(DATA / "leetcode_easy.jsonl.gz", leetcode)
    sampled = [*(group for group in rollouts if group["split"] == "train"), *easy]
    tasks = [task for task in [*mbpp, *leetcode] if task.split in ("train", None)]
    sets = {
        "sampled_train": [group for group in sampled if group["task_id"] not in shown | near],
        "mbpp_validation": [g for g in rollouts if g["split"] == "validation" and g["task_id"] not in shown],
        "foreign_validation": [
            group for group in read_sampled(DATA / "mbpp_validation.jsonl.gz", mbpp) if group["task_id"] not in shown
        ],
        "references_train": make_reference_groups([task for task in tasks if task.task_id not in shown | near]),
    }
    sets["taught"] = list(add_scores(sets["sampled_train"]))
    for name, groups in sets.items():
        write_groups(options.out / f"{name}.jsonl", groups)
        print(f"{name}.jsonl: {len(groups)} groups")


def take_before_window(tasks: Sequence[Task]) -> list[Task]:
    """LeetCode's problems before the first that may be late, easy and medium."""
    names = [task.task_id for task in tasks]
    early = tasks[: names.index(FIRST_LATE)]
    return [task for task in early if (task.difficulty or "").casefold() in ("easy", "medium")]


def make_reference_groups(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """A group for each problem whose text and solution are short."""
    return [
        {
            "task_id": f"{task.task_id}/reference",
            "split": "train",
            "prompt": task.prompt,
            "candidates": [{"code": task.reference.replace("\r\n", "\n"), "passed": True}],
        }
        for task in tasks
        if task.reference is not None and len(task.prompt) <= LONGEST_PROMPT and len(task.reference) <= LONGEST_PROGRAM
    ]


if __name__ == "__main__":
    main()
