"""Does QueST's delta know how hard a problem is? `python benches delta TASKS GROUPS...`.

TASKS are problems with a published difficulty, GROUPS sampled programs for them; labels are read for one figure only.
Programs run on the problem's own inputs, and functions also on made ones, as for `codescaler data synth suites`.

  delta      1 minus the mean share of the majority output (`compute_disagreement`): the estimate, which no test needs
  fails      1 minus the share of samples that pass the published tests, which it stands in for

Spearman's correlation of each with the difficulty, and of the two, with 95% intervals by drawing problems with
replacement. `--output FILE` writes the figures.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from codescaler.commands.info import describe_environment
from codescaler.data.execution.examples import read_examples
from codescaler.data.execution.outputs import Interface, collect_outputs, find_interface
from codescaler.data.execution.votes import compute_disagreement
from codescaler.data.synthesis.concepts import grade_difficulty
from codescaler.data.synthesis.suite_inputs import write_inputs
from codescaler.evaluate.estimates import Estimate, estimate_correlation, estimate_means
from codescaler.evaluate.tables import format_percent
from codescaler.io.records import Group, read_groups
from codescaler.io.tables import format_table
from codescaler.metrics import rank
from codescaler.sandbox import Limits, Sandbox
from codescaler.tasks import read_tasks
from codescaler.types import CallTests, StdioTests, Task


class Measured(NamedTuple):
    """One problem. `level` is from 1 to 5 (`grade_difficulty`), `name` what its source calls it."""

    task_id: str
    name: str
    level: float
    delta: float
    fails: float


def main() -> int:
    """Runs, prints, and returns the exit status."""
    arguments = _make_parser().parse_args()
    tasks = {task.task_id: task for task in read_tasks(arguments.tasks)}
    groups = [group for path in arguments.groups for group in read_groups(path) if group.task_id in tasks]
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=5.0), num_workers=arguments.workers) as sandbox:
        measured = list(measure_problems(sandbox, tasks, groups, arguments.inputs))
    values = {**summarize(measured), "isolation": sandbox.isolation}
    _print_tables(values)
    if arguments.output:
        text = json.dumps({**describe_environment("auto"), **values}, indent=2)
        arguments.output.write_text(f"{text}\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches delta", description=__doc__.partition("\n\n")[0])
    parser.add_argument("tasks", type=Path, help="problems with a difficulty, such as LeetCodeDataset")
    parser.add_argument("groups", type=Path, nargs="+", help="labelled samples; .gz too")
    parser.add_argument(
        "--inputs", type=int, default=20, help="made for a function, at most read for a program (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="file of JSON to write the figures to")
    return parser


def measure_problems(
    sandbox: Sandbox, tasks: dict[str, Task], groups: Sequence[Group], num_inputs: int
) -> Iterator[Measured]:
    """Yields each problem with a difficulty, inputs that can be read off its tests, and at least two programs."""
    for group in tqdm(groups, desc="problems"):
        task = tasks[group.task_id]
        interface, level = find_interface(task), grade_difficulty(task)
        inputs = [] if interface is None else _list_inputs(task, interface, num_inputs)
        candidates = [each for each in group.candidates if each.code is not None and each.passed is not None]
        if interface is None or level is None or not inputs or len(candidates) < 2:
            continue
        rows = list(collect_outputs(sandbox, ((each.code or "", interface, inputs) for each in candidates)))
        fails = sum(not each.passed for each in candidates) / len(candidates)
        yield Measured(task.task_id, (task.difficulty or "").lower(), level, compute_disagreement(rows), fails)


def _list_inputs(task: Task, interface: Interface, num_inputs: int) -> list[str]:
    if isinstance(task.tests, StdioTests):
        return [text for text, _ in task.tests.cases][:num_inputs]
    examples = read_examples(task.tests, interface) if isinstance(task.tests, CallTests) else None
    return [] if examples is None else write_inputs(examples, num_inputs, random.Random(task.task_id))


def summarize(measured: Sequence[Measured]) -> dict[str, Any]:
    """Rank correlations of all problems, and the mean of each level."""
    names = [each.task_id for each in measured]
    ranks = {key: rank([getattr(each, key) for each in measured]) for key in ("level", "delta", "fails")}

    def correlate(first: str, second: str) -> Estimate | None:
        return estimate_correlation(names, *([row[None] for row in ranks[key]] for key in (first, second)))

    levels, levels_of = {}, {each.name: each.level for each in measured}
    for name in sorted({each.name for each in measured}, key=lambda name: (levels_of[name], name)):
        chosen = [each for each in measured if each.name == name]
        columns = {key: np.array([getattr(each, key) for each in chosen]) for key in ("delta", "fails")}
        levels[name] = {"problems": len(chosen), **estimate_means(columns, [each.task_id for each in chosen])}
    pairs = (("delta", "level"), ("fails", "level"), ("delta", "fails"))
    return {
        "problems": len(measured),
        "spearman": {f"{first}, {second}": correlate(first, second) for first, second in pairs},
        "levels": levels,
    }


def _print_tables(values: dict[str, Any]) -> None:
    rows = [(name, _format_correlation(estimate)) for name, estimate in values["spearman"].items()]
    print(format_table((f"{values['problems']} problems", "Spearman's correlation"), rows), end="\n\n")
    rows = [
        (
            level,
            *(format_percent(of[key]) for key in ("delta", "fails")),
            str(of["problems"]),
        )
        for level, of in values["levels"].items()
    ]
    print(format_table(("level", "delta, %", "samples that fail, %", "problems"), rows))


def _format_correlation(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not known"
    low, high = estimate["interval"]
    return f"{estimate['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
