"""Seconds and accuracy of best-of-N by reward models and by tests in the sandbox: `python benches best_of_n_latency`.

    python benches best_of_n_latency GROUPS TASKS --rm nano --save mbpp

GROUPS are programs with verdicts of all tests, TASKS their problems. For each problem every way ranks the same N
candidates, one way after the other, in an order drawn anew: a run is interleaved, so that a busy moment meets all ways
alike. All ways have as many threads or workers. The ways:

  a model        its scores, from text on
  shown test     the test that the problem's text shows, in the sandbox; what a user has
  all tests      those that made the verdicts, so that its accuracy is the best there can be

Only problems with a correct and an incorrect program count. Few policies sample 64 distinct programs: where a group has
fewer than N, renamed and commented copies of its programs fill it, with the verdicts of their programs. No text stands
twice, so each is scored and run. A tie for the best is drawn from. 95% intervals by drawing problems.
"""

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness.options import parse_count, report_progress
from benches.harness.results import RESULTS, describe_command
from codescaler.commands.info import describe_environment
from codescaler.commands.options import parse_models
from codescaler.engine import Engine
from codescaler.evaluate.estimates import estimate_means
from codescaler.evaluate.problems import EvaluationProblem, read_evaluation_problems
from codescaler.evaluate.tables import format_percent
from codescaler.io.tables import format_table
from codescaler.metrics import Figures, compute_best_of_each
from codescaler.sandbox import Sandbox
from codescaler.tasks import read_tasks
from codescaler.text.additions import add_comments
from codescaler.text.program import make_conversation
from codescaler.text.rewriting import find_callers_names, rename_locals
from codescaler.types import CallTests

SHOWN, ALL = "shown test", "all tests"
_MOST_SEEDS = 200


@dataclass(frozen=True)
class Candidates:
    """Programs of one problem, its own ones first. `tests` are all."""

    task_id: str
    prompt: str
    codes: tuple[str, ...]
    is_correct: tuple[bool, ...]
    num_own: int
    tests: CallTests


Way = Callable[[Candidates], Sequence[float]]


def main(options: Sequence[str] | None = None) -> int:
    """Ranks, times, prints."""
    arguments = _make_parser().parse_args(options)
    problems = gather_candidates(arguments)
    report_progress(f"{len(problems)} problems")
    with Sandbox(num_workers=arguments.threads) as sandbox:
        ways: dict[str, Way] = {}
        for name, model in parse_models(arguments.rm, taken=(SHOWN, ALL)).items():
            engine = Engine.from_pretrained(model.folder, scorer=model.scorer, num_threads=arguments.threads)
            ways[name] = make_model_way(engine)
        ways[SHOWN] = make_tests_way(sandbox, lambda tests: replace(tests, statements=tests.statements[:1]))
        ways[ALL] = make_tests_way(sandbox, lambda tests: tests)
        sizes = {num: measure_size(ways, problems, num, arguments.warmup) for num in arguments.n}
    print("\n\n".join(format_size(num, figures) for num, figures in sizes.items()))
    if arguments.save:
        values = {
            **describe_environment("auto"),
            "command": describe_command("best_of_n_latency", options),
            "num_threads": arguments.threads,
            "isolation": sandbox.isolation,
            "num_problems": len(problems),
            "num_own": float(np.mean([problem.num_own for problem in problems])),
            "sizes": sizes,
        }
        path = RESULTS / f"best_of_n_latency_{arguments.save}.json"
        path.write_text(json.dumps(values, indent=2) + "\n")
        report_progress(f"wrote {path}")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches best_of_n_latency", description=__doc__.partition("\n\n")[0])
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs; .gz too")
    parser.add_argument("tasks", type=Path, help="the problems, in any format that `codescaler data label` reads")
    parser.add_argument("--rm", action="append", default=[], metavar="[NAME=]MODEL", help="reward model; repeat")
    parser.add_argument("--split", help="use the groups of this split only")
    parser.add_argument("--limit", type=parse_count, help="problems from the first on")
    parser.add_argument("--n", type=parse_count, nargs="+", default=[8, 16, 64], help="candidates (8 16 64)")
    parser.add_argument("--threads", type=parse_count, default=1, help="of each way (%(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="problems that are ranked before (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/best_of_n_latency_NAME.json")
    return parser


def gather_candidates(arguments: argparse.Namespace) -> list[Candidates]:
    """Returns the problems with tests and programs to choose from, filled to the largest N."""
    tests = {task.task_id: task.tests for task in read_tasks(arguments.tasks)}
    found = []
    for problem in read_evaluation_problems(arguments.groups, split=arguments.split):
        of_task = tests.get(problem.task_id)
        if problem.is_mixed and isinstance(of_task, CallTests):
            filled = fill_candidates(problem, of_task, max(arguments.n))
            if filled is not None:
                found.append(filled)
    return found[: arguments.limit]


def fill_candidates(problem: EvaluationProblem, tests: CallTests, num: int) -> Candidates | None:
    """Returns a problem's distinct programs with rewritten copies behind, `num` in all; None where too few are made."""
    own = {response.text: response.is_correct for response in problem.responses}
    keep, texts = find_callers_names(problem.prompt), dict(own)
    for seed, (code, is_correct) in itertools.product(range(_MOST_SEEDS), own.items()):
        if len(texts) >= num:
            break
        renamed = rename_locals(code, seed, keep) or code
        texts.setdefault(renamed if seed % 2 else add_comments(renamed, seed) or renamed, is_correct)
    if len(texts) < num:
        return None
    order = [*own]
    random.Random(problem.task_id).shuffle(order)
    order += [text for text in texts if text not in own]
    codes = tuple(order[:num])
    return Candidates(problem.task_id, problem.prompt, codes, tuple(texts[c] for c in codes), len(own), tests)


def make_model_way(engine: Engine) -> Way:
    return lambda given: engine.score([make_conversation(given.prompt, code) for code in given.codes]).tolist()


def make_tests_way(sandbox: Sandbox, choose: Callable[[CallTests], CallTests]) -> Way:
    """Scores a program by whether it passes the tests that are chosen."""

    def run(given: Candidates) -> Sequence[float]:
        jobs = ((code, choose(given.tests)) for code in given.codes)
        return [float(bool(verdict.passed)) for verdict in sandbox.run_many(jobs)]

    return run


def measure_size(
    ways: Mapping[str, Way], problems: Sequence[Candidates], num: int, num_warmup: int
) -> dict[str, dict[str, Any]]:
    """Returns seconds a problem, and how often the best-scored of `num` candidates is correct, of each way."""
    cut = [replace(p, codes=p.codes[:num], is_correct=p.is_correct[:num]) for p in problems]
    for given, way in itertools.product(cut[:num_warmup], ways.values()):
        way(given)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    right: dict[str, list[float]] = {name: [] for name in (*ways, "random")}
    for place, given in enumerate(cut):
        for name in random.Random(place).sample(list(ways), len(ways)):
            started = time.perf_counter()
            scores = ways[name](given)
            seconds[name].append(time.perf_counter() - started)
            right[name].append(float(compute_best_of_each(scores, given.is_correct, num)[-1]))
        right["random"].append(float(np.mean(given.is_correct)))
        report_progress(f"N={num}: {place + 1} of {len(cut)} problems")
    columns: dict[Any, Figures] = {name: np.array(values) for name, values in right.items()}
    columns |= {("seconds", name): np.array(values) for name, values in seconds.items()}
    found = estimate_means(columns, [given.task_id for given in cut])
    return {
        name: {
            "accuracy": found[name],
            "seconds": found.get(("seconds", name)),
            "median_seconds": float(np.median(seconds[name])) if name in seconds else None,
        }
        for name in right
    }


def format_size(num: int, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of one N."""
    whole = figures[ALL]["seconds"]["mean"]
    rows = []
    for name, way in figures.items():
        mean = None if way["seconds"] is None else way["seconds"]["mean"]
        told = ("", "", "") if mean is None else (f"{mean:.3f}", f"{way['median_seconds']:.3f}", f"{mean / whole:.2f}x")
        rows.append((name, format_percent(way["accuracy"]), *told))
    return format_table((f"N={num}", "best is correct, %", "seconds, mean", "median", "time of all tests"), rows)


if __name__ == "__main__":
    sys.exit(main())
