"""Suites by vote, measured on programs with known labels: `python benches suites TASKS GROUPS`.

TASKS are problems with references, GROUPS labelled samples for them. Suites are made without the references: inputs by
`codescaler.data.synthesis`, outputs by a weighted majority of the first M samples, without those that fail a test which
the problem's text shows. They judge

  samples    that did not vote, by the verdict of the published tests
  reference  that is correct by definition
  mutants    of the reference that the published tests reject

Two kinds of suites judge: all tests that the votes give, in four tables; and the suite that `codescaler data synth
suites` writes by default, in one row: the fewest tests, and five if there are as many.

  TPR        the share of correct programs that pass. Some that the published tests let pass are wrong: `agreeing`
             counts those alone that give what the reference gives, on all inputs
  TNR        the share of incorrect programs that fail

Only problems run of which at least 30% of the samples pass, or the share that `--least` gives. A mutant that runs out
of time is left out: any test would reject it. A problem on which the voters agree too little has no suite, and its
programs do not count. `--output FILE` writes the figures.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from codescaler.commands.info import describe_environment
from codescaler.data.execution.examples import read_examples
from codescaler.data.execution.minimal import choose_minimal_tests
from codescaler.data.execution.outputs import Output, collect_outputs, find_interface
from codescaler.data.execution.votes import hold_vote, hold_weighted_vote, measure_agreement
from codescaler.data.mutants import make_mutants
from codescaler.data.synthesis.suite_inputs import write_inputs
from codescaler.data.synthesis.suites import SuiteSettings, split_by_shown_tests, write_suites
from codescaler.io.records import Group, read_groups
from codescaler.io.tables import format_table
from codescaler.sandbox import Limits, Sandbox
from codescaler.tasks import read_tasks
from codescaler.types import CallTests, Task

DEFAULT = SuiteSettings()
LEAST_PASSED, LEAST_SHARE, LEAST_AGREEMENT = 0.3, DEFAULT.min_share, DEFAULT.min_agreement
NUM_DEFAULT_VOTERS = 7
NUM_VOTERS, SHARES = (2, 3, 5, 7, 10), (0.0, 0.5, 0.7, 0.9, 0.95, 0.99)
AGREEMENTS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
ACCURACIES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # of samples: the lower ends of classes

Row = list[Output | None]


@dataclass(frozen=True)
class Problem:
    """Outputs of programs on all inputs. A label is None where nobody knows."""

    task_id: str
    num_own: int  # inputs of the published tests, which come first
    reference: Row
    samples: list[tuple[Row, bool]]
    mutants: list[Row]
    mutant_codes: tuple[str, ...] = ()
    failed_shown: frozenset[int] = frozenset()  # places of samples that fail a test which the problem's text shows

    @property
    def accuracy(self) -> float:
        """The share of samples that pass the published tests."""
        return sum(label for _, label in self.samples) / len(self.samples)


def main() -> int:
    """Measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args()
    tasks = {task.task_id: task for task in read_tasks(arguments.tasks) if task.split != "test"}
    read = [group for group in read_groups(arguments.groups) if group.task_id in tasks]
    groups = [group for group in read if _share_passed(group) >= arguments.least][:: arguments.every]
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=5.0), num_workers=arguments.workers) as sandbox:
        problems = list(_run_all(sandbox, tasks, groups, arguments))
        ran = {problem.task_id: problem for problem in problems}
        written = Counts(Counter(), Counter(), Counter(), Counter())
        for group in tqdm([group for group in groups if group.task_id in ran], desc="written suites"):
            judge_written_suite(sandbox, tasks[group.task_id], group, ran[group.task_id].mutant_codes, written)
    values = {
        "problems_in_the_files": len(read),
        **summarize(problems),
        "written": {"default": written.rates | {"minimal_tests_of_a_suite": None}},
    }
    _print_tables(values)
    if arguments.output:
        values = {**describe_environment("auto", "radon"), "isolation": sandbox.isolation, **values}
        arguments.output.write_text(json.dumps(values, indent=2) + "\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches suites", description=__doc__.partition("\n\n")[0])
    parser.add_argument("tasks", type=Path, help="problems with references, such as MBPP")
    parser.add_argument("groups", type=Path, help="labelled samples; .gz too")
    parser.add_argument("--inputs", type=int, default=30, help="that are made for a problem (%(default)s)")
    parser.add_argument("--mutants", type=int, default=10, help="of each reference (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take one problem of so many (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--least", type=float, default=LEAST_PASSED, help="share of samples that pass (%(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no more problem is begun")
    parser.add_argument("-o", "--output", type=Path, help="file of JSON to write the figures to")
    return parser


def _share_passed(group: Group) -> float:
    programs = [candidate for candidate in group.candidates if candidate.code is not None]
    return sum(bool(candidate.passed) for candidate in programs) / len(programs) if programs else 0.0


def _run_all(
    sandbox: Sandbox, tasks: dict[str, Task], groups: Sequence[Group], options: argparse.Namespace
) -> Iterator[Problem]:
    end = time.monotonic() + 60 * options.minutes
    for group in tqdm(groups, desc="problems"):
        if time.monotonic() > end:
            break
        problem = run_problem(sandbox, tasks[group.task_id], group, options.inputs, options.mutants)
        if problem is not None:
            yield problem


def run_problem(sandbox: Sandbox, task: Task, group: Group, num_inputs: int, num_mutants: int) -> Problem | None:
    """Runs all programs of a problem on its inputs. None if its tests show no plain calls, or it has no samples."""
    interface, tests = find_interface(task), task.tests
    if interface is None or not isinstance(tests, CallTests) or task.reference is None:
        return None
    examples = read_examples(tests, interface)
    labelled = _list_labelled(group)
    if examples is None or not labelled:
        return None
    inputs = write_inputs(examples, num_inputs, random.Random(task.task_id))
    wrong = list_incorrect_mutants(sandbox, task, num_mutants)
    codes = list(dict.fromkeys([task.reference, *(code for code, _ in labelled), *wrong]))
    rows = dict(zip(codes, collect_outputs(sandbox, ((code, interface, inputs) for code in codes)), strict=True))
    samples = [(rows[code], label) for code, label in labelled]
    _, failed = split_by_shown_tests(sandbox, task, list(dict.fromkeys(code for code, _ in labelled)))
    failed_shown = frozenset(place for place, (code, _) in enumerate(labelled) if code in failed)
    mutants = [rows[code] for code in wrong]
    return Problem(
        task.task_id, len(examples.calls), rows[task.reference], samples, mutants, tuple(wrong), failed_shown
    )


def judge_written_suite(sandbox: Sandbox, task: Task, group: Group, mutants: Sequence[str], counts: "Counts") -> None:
    """Writes a suite by the first samples, as a user does, and counts what it says of the others."""
    counts.problems += 1
    labelled = _list_labelled(group)
    with tempfile.TemporaryDirectory() as folder:
        solutions, target = Path(folder) / "solutions.jsonl", Path(folder) / "suites.jsonl"
        candidates = [{"code": code} for code, _ in labelled[:NUM_DEFAULT_VOTERS]]
        solutions.write_text(json.dumps({"task_id": task.task_id, "prompt": task.prompt, "candidates": candidates}))
        write_suites([task], solutions, target, sandbox, SuiteSettings(uses_references=False), limits={})
        (made,) = read_tasks(target)
    tests = made.tests
    if tests is None or task.tests is None or task.reference is None:
        counts.without_suite += 1
        return
    assert isinstance(tests, CallTests)
    counts.tests += len(tests.statements)
    programs = [*labelled[NUM_DEFAULT_VOTERS:], (task.reference, True), *((code, False) for code in mutants)]
    for place, verdict in enumerate(sandbox.run_many((code, tests) for code, _ in programs)):
        passes, is_mutant = verdict.passed is True, place >= len(programs) - len(mutants)
        if programs[place][1]:
            counts.correct[passes] += 1
        else:
            counts.wrong[passes] += 1
            if is_mutant:
                counts.wrong_mutants[passes] += 1


def _list_labelled(group: Group) -> list[tuple[str, bool]]:
    return [(c.code, bool(c.passed)) for c in group.candidates if c.code is not None and c.passed is not None]


def list_incorrect_mutants(sandbox: Sandbox, task: Task, count: int) -> list[str]:
    """Mutants of the reference that its tests reject, those left out that run out of time."""
    assert task.reference is not None and task.tests is not None
    tests = task.tests
    mutants = make_mutants(task.reference, count, 0)
    verdicts = sandbox.run_many((code, tests) for code in mutants)
    return [
        code
        for code, verdict in zip(mutants, verdicts, strict=True)
        if verdict.passed is False and "timeout" not in verdict.outcomes
    ]


@dataclass
class Counts:
    """Programs by label and verdict of suites."""

    correct: Counter[bool]
    agreeing: Counter[bool]
    wrong: Counter[bool]
    wrong_mutants: Counter[bool]
    problems: int = 0
    without_suite: int = 0
    tests: int = 0
    minimal_tests: int = 0

    @property
    def rates(self) -> dict[str, Any]:
        """TPR and TNR with what they are of."""
        return {
            "problems": self.problems,
            "without_suite": self.without_suite,
            "TPR": _divide(self.correct[True], self.correct.total()),
            "TPR_agreeing": _divide(self.agreeing[True], self.agreeing.total()),
            "TNR": _divide(self.wrong[False], self.wrong.total()),
            "TNR_mutants": _divide(self.wrong_mutants[False], self.wrong_mutants.total()),
            "correct": self.correct.total(),
            "agreeing": self.agreeing.total(),
            "wrong": self.wrong.total(),
            "wrong_mutants": self.wrong_mutants.total(),
            "tests_of_a_suite": _divide(self.tests, self.problems - self.without_suite),
            "minimal_tests_of_a_suite": _divide(self.minimal_tests, self.problems - self.without_suite),
        }


def _divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def judge_problem(problem: Problem, num_voters: int, min_share: float, min_agreement: float, counts: Counts) -> None:
    """Makes the suite of a problem by its first samples, and counts what it says of the other programs."""
    counts.problems += 1
    chosen = [place for place in range(min(num_voters, len(problem.samples))) if place not in problem.failed_shown]
    voters = [problem.samples[place][0] for place in chosen]
    if len(voters) < 2:
        counts.without_suite += 1
        return
    votes = hold_weighted_vote(voters)
    kept = [(p, v.output.key) for p, v in enumerate(votes) if v.output is not None and v.share >= min_share]
    if not kept or measure_agreement(hold_vote(voters)) < min_agreement:
        counts.without_suite += 1
        return

    def list_failed(row: Row) -> set[int]:
        return {place for place, key in kept if (output := row[place]) is None or output.key != key}

    counts.tests += len(kept)
    wrong_rows = [*problem.mutants, *(row for row, label in problem.samples if not label)]
    failed = [list_failed(row) for row in wrong_rows]
    kills = [{number for number, places in enumerate(failed) if place in places} for place, _ in kept]
    counts.minimal_tests += len(choose_minimal_tests(kills))
    held_out = problem.samples[num_voters:]
    for row, label in [*held_out, (problem.reference, True)]:
        passes = not list_failed(row)
        if label:
            counts.correct[passes] += 1
            if all(_is_same(a, b) for a, b in zip(row, problem.reference, strict=True)):
                counts.agreeing[passes] += 1
        else:
            counts.wrong[passes] += 1
    for row in problem.mutants:
        passes = not list_failed(row)
        counts.wrong[passes] += 1
        counts.wrong_mutants[passes] += 1


def _is_same(output: Output | None, expected: Output | None) -> bool:
    return expected is None or (output is not None and output.key == expected.key)


def _judge_all(
    problems: Sequence[Problem], num_voters: int, min_share: float, min_agreement: float = LEAST_AGREEMENT
) -> dict[str, Any]:
    counts = Counts(Counter(), Counter(), Counter(), Counter())
    for problem in problems:
        judge_problem(problem, num_voters, min_share, min_agreement, counts)
    return counts.rates


def summarize(problems: Sequence[Problem]) -> dict[str, Any]:
    """Rates over voters, over the least share of the majority and agreement, and over how many samples pass."""
    counted = [problem for problem in problems if problem.accuracy >= LEAST_PASSED]
    classes = list(zip(ACCURACIES, [*ACCURACIES[1:], 1.01], strict=True))
    return {
        "problems": len(problems),
        "problems_that_count": len(counted),
        "by_voters": {str(number): _judge_all(counted, number, LEAST_SHARE) for number in NUM_VOTERS},
        "by_share": {str(share): _judge_all(counted, NUM_DEFAULT_VOTERS, share) for share in SHARES},
        "by_agreement": {
            str(least): _judge_all(counted, NUM_DEFAULT_VOTERS, LEAST_SHARE, least) for least in AGREEMENTS
        },
        "by_accuracy": {
            f"{low:.0%} to {min(high, 1.0):.0%}": _judge_all(
                [p for p in problems if low <= p.accuracy < high], NUM_DEFAULT_VOTERS, LEAST_SHARE
            )
            for low, high in classes
        },
    }


def _print_tables(values: dict[str, Any]) -> None:
    columns = ("problems", "without_suite", "TPR", "TPR_agreeing", "TNR", "TNR_mutants", "tests_of_a_suite",
               "minimal_tests_of_a_suite")  # fmt: skip
    for name in ("written", "by_voters", "by_share", "by_agreement", "by_accuracy"):
        rows = [(key, *(_format(rates[column]) for column in columns)) for key, rates in values[name].items()]
        print(format_table((name.replace("_", " "), *columns), rows), end="\n\n")


def _format(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
