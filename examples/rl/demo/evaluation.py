"""How good a policy is on held-out problems, by tests in the sandbox, and what the reward model makes of the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from commands import run_command
from rewards import open_reward

from codescaler import RewardFunction
from codescaler.evaluate.estimates import estimate_means
from codescaler.io.records import read_objects
from codescaler.types import Task


def evaluate_policy(
    options: Any, policy: str | Path, tasks: Mapping[str, Task], tasks_file: Path, folder: Path
) -> dict[str, Any]:
    """Samples and labels, and returns figures with 95% intervals over problems. A killed run goes on where it was.

    Samples that the sandbox could not judge do not count for what passes; `num_unjudged` says how many.
    """
    sampled, labelled = folder / "eval_sampled.jsonl", folder / "eval_labelled.jsonl"
    drawing = ("--temperature", options.temperature, "--max-tokens", options.max_tokens, "--seed", 1)
    number = ("--n", options.eval_samples)
    if not sampled.exists():
        run_command("data", "sample", tasks_file, "-o", sampled, "--model", policy, *number, *drawing)
    if not labelled.exists():
        run_command("data", "label", sampled, tasks_file, "-o", labelled)
    all_groups = [group for _, group in read_objects(labelled)]
    groups = [group for group in all_groups if _list_verdicts(group)]
    reward = open_reward(options)
    columns = {name: np.array([measure(group) for group in groups]) for name, measure in MEASURES.items()}
    columns["reward"] = np.array([np.mean(_reward_group(reward, group)) for group in groups])
    names = [group["task_id"] for group in groups]
    kinds = sorted({str(tasks[name].difficulty) for name in names})
    return {
        "num_problems": len(groups),
        "num_samples": options.eval_samples,
        "num_unjudged": sum(len(group["candidates"]) - len(_list_verdicts(group)) for group in all_groups),
        **estimate_means(columns, names),
        "avg_by_difficulty": {kind: _average_kind(kind, columns["avg_at_k"], names, tasks) for kind in kinds},
    }


def _average_kind(kind: str, passed: Any, names: Sequence[str], tasks: Mapping[str, Task]) -> Mapping[str, Any]:
    places = [place for place, name in enumerate(names) if str(tasks[name].difficulty) == kind]
    return estimate_means({"": passed[places]}, [names[place] for place in places])[""]


def _reward_group(reward: RewardFunction, group: Mapping[str, Any]) -> list[float]:
    completions = [candidate["completion"] for candidate in group["candidates"]]
    return reward([group["prompt"]] * len(completions), completions)


def _list_verdicts(group: Mapping[str, Any]) -> list[bool]:
    """A completion without a program does not pass, and one that could not be judged has none."""
    return [candidate["passed"] for candidate in group["candidates"] if candidate["passed"] is not None]


def _list_programs(group: Mapping[str, Any]) -> list[str]:
    return [candidate["code"] for candidate in group["candidates"] if candidate["code"] is not None]


# Of the samples of one problem. `avg_at_k` is pass@1 by k samples.
MEASURES = {
    "avg_at_k": lambda group: np.mean(_list_verdicts(group)),
    "any_of_k": lambda group: float(any(_list_verdicts(group))),
    "valid_share": lambda group: len(_list_programs(group)) / len(group["candidates"]),
    "length_chars": lambda group: np.mean([len(candidate["completion"]) for candidate in group["candidates"]]),
    "distinct_share": lambda group: len({*_list_programs(group)}) / len(group["candidates"]),
}
