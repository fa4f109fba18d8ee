"""Problems for a reward model that reads the problem, split: `python benches reading_data FOLDER OUT`.

FOLDER holds `rollouts_mbpp.jsonl.gz` (groups with `split`; ours are of Qwen2.5-Coder-0.5B on MBPP, ids 601-974 and 1-10
for training, 511-600 for validation), `mbpp.jsonl` and `leetcode_train.jsonl.gz` (LeetCodeDataset v0.2). Written are

    mbpp_train.jsonl, mbpp_validation.jsonl    those groups, without the problems that `make demo` ranks
    foreign_validation.jsonl                   validation problems, programs of other samplers (`benches/quality/data`)
    references_train.jsonl                     groups of one program, the problem's own solution, to add negatives to

Nothing is trained on that is near a problem of MBPP 11-600, or that may be in LiveCodeBench, which begins in May 2023.
LeetCode's problems stand in the order in which they were made, so those before a problem of February 2023 are kept.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from benches.quality.nano_data import read_folders, read_rollouts, read_shown, write
from benches.quality.sampled import DATA, read_sampled
from codescaler.data.prefer.leakage import HeldOut, find_leaks
from codescaler.tasks import read_tasks
from codescaler.types import Task

FIRST_LATE = "leetcode/separate-the-digits-in-an-array"  # February 2023: question 2553
LONGEST_PROMPT, LONGEST_PROGRAM = 450, 1000  # characters: longer ones cost more than they teach


def main() -> None:
    options = read_folders("reading_data", __doc__)
    shown, rollouts = read_shown(), read_rollouts(options.folder)
    mbpp = list(read_tasks(options.folder / "mbpp.jsonl"))
    leetcode = take_before_window(list(read_tasks(options.folder / "leetcode_train.jsonl.gz")))
    held_out = HeldOut(prompts={task.task_id: task.prompt for task in mbpp if task.split != "train"})
    problems = [(group["task_id"], group["prompt"]) for group in rollouts if group["split"] == "train"]
    problems += [(task.task_id, task.prompt) for task in [*mbpp, *leetcode] if task.split in ("train", None)]
    left_out = shown | find_leaks(problems, held_out).keys()
    for split, without in (("train", left_out), ("validation", shown)):
        groups = [group for group in rollouts if group["split"] == split and group["task_id"] not in without]
        write(options.out / f"mbpp_{split}.jsonl", groups)
        print(f"{len(groups)} groups of MBPP, {split}")
    foreign = [
        group for group in read_sampled(DATA / "mbpp_validation.jsonl.gz", mbpp) if group["task_id"] not in shown
    ]
    write(options.out / "foreign_validation.jsonl", foreign)
    learned = [task for task in mbpp if task.split == "train"] + leetcode
    references = make_reference_groups([task for task in learned if task.task_id not in left_out])
    write(options.out / "references_train.jsonl", references)
    print(f"{len(references)} solutions; {len(left_out - shown)} problems left out that are near one of MBPP 11-600")


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
