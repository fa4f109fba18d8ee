"""Programs, labels and tests, measured: `python benches labels TASKS GROUPS`.

TASKS is MBPP as published, GROUPS are labelled programs for its problems of the splits train and validation.

  labels       every program is run again: where do the labels differ?
  tests        of the programs that pass the first test, or all three, how many fail others: the problem's challenge
               tests, and generated ones?
  efficiency   what correct programs cost is measured twice: how often do preferences agree with the other run?
  throughput   10,000 programs: how many a second, and is any process or file left?

Exit status 1 if something is left. `--save NAME` writes benches/results/labels_NAME.json and, as labels_NAME.txt, each
disagreement on a label and each problem on which a program that passes fails a generated test.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benches.harness.results import RESULTS
from codescaler.commands.info import describe_environment
from codescaler.data.label.generated_tests import strengthen_tasks
from codescaler.data.prefer.efficiency import is_clearly_cheaper
from codescaler.io.records import Group, read_groups
from codescaler.io.tables import format_table
from codescaler.sandbox import Limits, Sandbox
from codescaler.sandbox.sandbox import FIRST_USER
from codescaler.tasks import read_challenge_tasks, read_tasks
from codescaler.types import Task, Tests, Verdict

NUM_THROUGHPUT = 10_000

Program = tuple[str, str]  # the problem's task_id, and the text
Verdicts = dict[Program, Verdict]


def main() -> int:
    """Measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args()
    tasks = {task.task_id: task for task in read_tasks(arguments.tasks) if task.split != "test"}
    groups = read_groups(arguments.groups)
    labels = _collect_labels(groups)
    with Sandbox(Limits(cpu_seconds=5, wall_seconds=15.0), num_workers=2) as sandbox:
        print(f"isolation: {sandbox.description}", file=sys.stderr)
        verdicts = _run(sandbox, {p: tasks[p[0]].tests for p in labels}, "labels")
        agreement, lines = _measure_agreement(labels, verdicts)
        weakness, more_lines = _measure_weakness(sandbox, list(tasks.values()), arguments.tasks, verdicts)
        right = [program for program, verdict in verdicts.items() if verdict.passed]
        costs = _measure_efficiency(sandbox, tasks, right[: arguments.programs])
    throughput = _measure_throughput({p: tasks[p[0]].tests for p in labels}, arguments.programs or NUM_THROUGHPUT)
    values = {"labels": agreement, "tests": weakness, "efficiency": costs, "throughput": throughput}
    print(json.dumps(values, indent=2))
    if arguments.save:
        environment = {**describe_environment("auto", "radon"), "isolation": sandbox.isolation}
        (RESULTS / f"labels_{arguments.save}.json").write_text(json.dumps({**environment, **values}, indent=2) + "\n")
        (RESULTS / f"labels_{arguments.save}.txt").write_text("\n".join([*lines, "", *more_lines]) + "\n")
    return 1 if throughput["processes_left"] or throughput["files_left"] else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches labels", description=__doc__.partition("\n\n")[0])
    parser.add_argument("tasks", type=Path, help="MBPP, JSON lines")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs; .gz too")
    parser.add_argument("--programs", type=int, help="measure costs and throughput on this many only")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/labels_NAME.json")
    return parser


def _collect_labels(groups: Sequence[Group]) -> dict[Program, bool]:
    """The label of each distinct program."""
    return {(g.task_id, c.code): bool(c.passed) for g in groups for c in g.candidates if c.code is not None}


def _run(sandbox: Sandbox, jobs: dict[Program, Tests], what: str) -> Verdicts:
    ran = sandbox.run_many((code, tests) for (_, code), tests in jobs.items())
    return dict(zip(jobs, tqdm(ran, total=len(jobs), desc=what, unit=" programs"), strict=True))


def _measure_agreement(labels: dict[Program, bool], verdicts: Verdicts) -> tuple[dict[str, Any], list[str]]:
    seen = Counter((labels[program], verdict.passed) for program, verdict in verdicts.items())
    words = {True: "passed", False: "failed", None: "unjudged"}
    rows = [(words[label], words[verdict], str(count)) for (label, verdict), count in sorted(seen.items(), key=str)]
    print(format_table(("label", "here", "programs"), rows), end="\n\n")
    same = sum(count for (label, verdict), count in seen.items() if label == verdict)
    differ = [program for program, verdict in verdicts.items() if verdict.passed != labels[program]]
    lines = ["# Programs whose label differs: task, label, outcomes here, message, program"]
    for program in differ:
        verdict = verdicts[program]
        lines.append(f"\n## {program[0]}: {words[labels[program]]}; {', '.join(verdict.outcomes)}; {verdict.message}")
        lines.append(program[1])
    heap = sum("heapq" in code or "most_common(" in code for _, code in differ)
    figures = {
        "num_programs": len(labels),
        "agreement": same / len(labels),
        "counts": {f"{words[label]}, {words[verdict]} here": count for (label, verdict), count in seen.items()},
        "differ": len(differ),
        "differ_and_use_heapq": heap,
        "label_passed_and_use_heapq": sum("heapq" in code for (_, code), label in labels.items() if label),
    }
    return figures, lines


def _measure_weakness(
    sandbox: Sandbox, tasks: Sequence[Task], path: Path, verdicts: Verdicts
) -> tuple[dict[str, Any], list[str]]:
    """How many of the programs that pass some tests fail others."""
    made = list(tqdm(strengthen_tasks(sandbox, tasks), total=len(tasks), desc="generated tests", unit=" problems"))
    generated = {task.task_id: task.tests for task, _ in made if task.tests is not None}
    challenge = {task.task_id: task.tests for task in read_challenge_tasks(path)}
    figures: dict[str, Any] = {
        "generated": {
            "num_problems": len(generated),
            "num_tests": sum(len(tests.statements) for tests in generated.values()),
            "refused_by_the_reference": sum(num for _, num in made)
            - sum(len(tests.statements) for tests in generated.values()),
        }
    }
    first = [program for program, verdict in verdicts.items() if verdict.outcomes[:1] == ("passed",)]
    right = [program for program in first if verdicts[program].passed]
    figures["pass the first test"] = {
        "num_programs": len(first),
        "fail another of the three": sum(not verdicts[program].passed for program in first),
    }
    lines = ["# Programs that pass all three tests and fail a generated one: the first of each problem"]
    for name, tests in (("challenge", challenge), ("generated", generated)):
        jobs = {program: tests[program[0]] for program in right if program[0] in tests}
        ran = _run(sandbox, jobs, f"{name} tests")
        failing = [program for program, verdict in ran.items() if verdict.passed is False]
        figures[f"pass all three, on problems with {name} tests"] = {
            "num_programs": len(jobs),
            "num_problems": len({task_id for task_id, _ in jobs}),
            "fail": len(failing),
            "problems_with_one_that_fails": len({task_id for task_id, _ in failing}),
        }
        if name == "generated":
            for task_id, programs in itertools.groupby(failing, key=lambda program: program[0]):
                (_, code), *others = programs
                outcomes = zip(jobs[task_id, code].statements, ran[task_id, code].outcomes, strict=True)
                statement, outcome = next(pair for pair in outcomes if pair[1] != "passed")
                lines += [f"\n## {task_id}, {1 + len(others)} programs: {statement}: {outcome}", code]
    return figures, lines


def _measure_efficiency(sandbox: Sandbox, tasks: dict[str, Task], right: Sequence[Program]) -> dict[str, Any]:
    """Two runs, one after the other, of what `codescaler data` measures, and the preferences of each."""
    groups = [
        (task_id, [code for _, code in programs]) for task_id, programs in itertools.groupby(right, lambda p: p[0])
    ]
    groups = [(task_id, codes) for task_id, codes in groups if len(codes) > 1]
    costs: list[dict[Program, float]] = []  # the median of the rounds
    runs: list[set[tuple[Program, Program]]] = []
    started = time.perf_counter()
    for number in (1, 2):
        jobs = ((codes, tasks[task_id].tests) for task_id, codes in groups)
        measured = tqdm(sandbox.measure_many(jobs), total=len(groups), desc=f"costs, run {number}", unit=" problems")
        medians, preferred = {}, set()
        for (task_id, codes), rounds in zip(groups, measured, strict=True):
            known = {(task_id, code): cost for code, cost in zip(codes, rounds, strict=True) if cost is not None}
            medians |= {program: statistics.median(cost) for program, cost in known.items()}
            pairs = itertools.permutations(known, 2)
            preferred |= {pair for pair in pairs if is_clearly_cheaper(known[pair[0]], known[pair[1]])}
        costs.append(medians)
        runs.append(preferred)
    first, second = runs
    emitted = [(pair, costs[1]) for pair in first] + [(pair, costs[0]) for pair in second]
    same_order = sum(other.get(low, math.inf) < other.get(high, 0.0) for (low, high), other in emitted)
    return {
        "num_problems": len(groups),
        "num_programs": sum(len(codes) for _, codes in groups),
        "preferences": [len(first), len(second)],
        "share_in_the_same_order_in_the_other_run": same_order / len(emitted) if emitted else None,
        "preferences_of_one_that_the_other_turns": len(first & {(high, low) for low, high in second}),
        "preferences_of_both": len(first & second),
        "seconds_of_both_runs": time.perf_counter() - started,
    }


def _measure_throughput(jobs: dict[Program, Tests], count: int) -> dict[str, Any]:
    """Programs over and over, in a sandbox of two workers that is opened and closed."""
    processes, files = _list_processes(), _list_files()
    cycle = itertools.islice(itertools.cycle([(code, tests) for (_, code), tests in jobs.items()]), count)
    started = time.perf_counter()
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=5.0), num_workers=2) as sandbox:
        ran = Counter(outcome for verdict in tqdm(sandbox.run_many(cycle), total=count) for outcome in verdict.outcomes)
    seconds = time.perf_counter() - started
    time.sleep(1.0)
    return {
        "num_programs": count,
        "num_workers": 2,
        "cpu_seconds_allowed": 1,
        "seconds": seconds,
        "programs_per_second": count / seconds,
        "outcomes": dict(ran),
        "processes_left": sorted(_list_processes() - processes),
        "files_left": sorted(_list_files() - files),
    }


def _list_processes() -> set[str]:
    """Processes of this one's boxes, whose command line names their host."""
    found, host = set(), f'"host": {os.getpid()},'.encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if host in path.read_bytes():
                found.add(path.parent.name)
    return found


def _list_files() -> set[str]:
    """Files that a box made, or a program in one, by their names and owners."""
    found = set()
    for path in itertools.chain(*(Path(folder).glob("*") for folder in ("/tmp", "/dev/shm", "/var/tmp"))):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid >= FIRST_USER or path.name.startswith("codescaler-"):
                found.add(str(path))
    return found


if __name__ == "__main__":
    sys.exit(main())
