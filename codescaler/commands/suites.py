"""The step `data synth suites`: tests for problems that may have no reference."""

import argparse
import sys
from pathlib import Path
from typing import Any

from codescaler.commands.data_options import (
    add_sampling_options,
    add_sandbox_options,
    add_step,
    describe_limits,
    format_counts,
    make_sampler,
    make_sampling,
    make_sandbox,
)
from codescaler.commands.options import load_tasks
from codescaler.errors import InvalidInput


def add_suites(steps: Any) -> None:
    """Adds it to the steps of `data synth`."""
    summary = "Make tests from solutions that agree, or from references."
    step = add_step(steps, "suites", _run_suites, summary, "problems to write; a killed run goes on")
    step.add_argument("tasks", type=Path, help="file of the problems, whose tests show how programs are called")
    step.add_argument("solutions", type=Path, help="groups of sampled solutions; labels are not read")
    add_sampling_options(
        step, num_samples=4, is_optional=True, what="tries of each of validator, generator and checker, with a model"
    )
    step.add_argument(
        "--references", action=argparse.BooleanOptionalAction, default=True,
        help="take the outputs of references where there are such",
    )  # fmt: skip
    step.add_argument("--inputs", type=int, default=40, help="to try for, of a problem (%(default)s)")
    step.add_argument("--min-share", type=float, default=0.9, help="of a majority that becomes a test (%(default)s)")
    step.add_argument(
        "--min-agreement", type=float, default=0.0, help="mean share of a problem's majorities (%(default)s)"
    )
    step.add_argument("--mutants", type=int, default=20, help="that tests are chosen by (%(default)s)")
    step.add_argument("--rounds", type=int, default=1, help="in which survivors go back to the model (%(default)s)")
    step.add_argument("--all-tests", action="store_true", help="keep tests that reject nothing more")
    step.add_argument("--min-tests", type=int, default=5, help="to keep all the same (%(default)s)")
    add_sandbox_options(step)


def _run_suites(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.sample.sampling import choose_tasks
    from codescaler.data.synthesis.suites import SuiteSettings, count_suites, write_suites
    from codescaler.data.synthesis.writer import Writer

    if options.endpoint and not options.model:
        raise InvalidInput("--endpoint without --model; name the model of the endpoint, or leave both out")
    settings = SuiteSettings(
        options.inputs,
        options.min_share,
        options.mutants,
        options.rounds,
        options.references,
        not options.all_tests,
        options.min_tests,
        options.seed,
        options.min_agreement,
    )
    tasks = choose_tasks(load_tasks(options.tasks, options.format), None, None)
    sampling = make_sampling(options) if options.model else None
    writer = None if sampling is None else Writer(make_sampler(options, sampling), sampling)
    with make_sandbox(options) as sandbox, tqdm(total=len(tasks), unit=" problems", disable=None) as bar:
        suites = write_suites(
            tasks,
            options.solutions,
            options.output,
            sandbox,
            settings,
            limits=describe_limits(options, sandbox),
            writer=writer,
            advance=bar.update,
        )
    print(f"{options.output}: {format_counts(count_suites(suites))}", file=sys.stderr)
