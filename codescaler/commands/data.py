"""The command `data`: completions of a language model, their labels by tests, and preferences by rules."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codescaler.commands.audit import add_audit
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
from codescaler.commands.options import Add, load_tasks
from codescaler.commands.synthesis import add_synth
from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.sandbox import Sandbox
    from codescaler.types import Task


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    data = add("data", _run_data, "Make verified preference data: sample programs, label them by tests, pair them.")
    steps = data.add_subparsers(metavar="step", required=True)
    _add_sample(steps)
    _add_label(steps)
    _add_cost(steps)
    _add_tests(steps)
    _add_augment(steps)
    _add_negatives(steps)
    _add_pairs(steps)
    add_synth(steps)
    add_audit(steps)


def _run_data(options: argparse.Namespace) -> None:
    raise AssertionError("a step is required")


def _add_sample(steps: Any) -> None:
    step = add_step(
        steps, "sample", _sample, "Ask a language model for programs.", "groups to write; a killed run goes on"
    )
    step.add_argument("tasks", type=Path, help="file of problems, in any form that codescaler reads")
    step.add_argument("--format", default="auto", help="form of the file of problems (%(default)s)")
    add_sampling_options(step, num_samples=10, what="completions of a problem")
    step.add_argument("--split", help="problems of this split only")
    step.add_argument("--difficulty", help="problems of this difficulty only, in the words of their source")
    step.add_argument("--limit", type=int, help="problems from the first on")


def _add_label(steps: Any) -> None:
    step = add_step(
        steps, "label", _label, "Run each program against its problem's tests.", "file to write; a killed run goes on"
    )
    step.add_argument("groups", type=Path, help="groups, such as `data sample` writes; .gz too")
    step.add_argument("tasks", type=Path, help="file of the problems, with tests")
    step.add_argument(
        "--check-references", action=argparse.BooleanOptionalAction, default=True,
        help="leave a problem without labels whose reference fails its tests",
    )  # fmt: skip
    step.add_argument("--audit", type=Path, help="weight labels by what `data audit` says of each suite")
    add_sandbox_options(step)


def _add_cost(steps: Any) -> None:
    step = add_step(
        steps,
        "cost",
        _run_cost,
        "Measure the CPU time of programs that passed.",
        "groups to write; a killed run goes on",
    )
    step.add_argument("labelled", type=Path, help="labelled groups, such as `data label` writes; .gz too")
    step.add_argument("tasks", type=Path, help="file of the problems, with tests")
    step.add_argument(
        "--rounds", type=int, default=5, help="in which the programs of a problem take turns (%(default)s)"
    )
    add_sandbox_options(step)


def _add_tests(steps: Any) -> None:
    step = add_step(
        steps,
        "tests",
        _run_tests,
        "Make more tests, from a problem's own and its reference program.",
        "problems to write",
    )
    step.add_argument("tasks", type=Path, help="file of problems whose tests call a function, with references")
    step.add_argument("--n", type=int, default=20, help="tests to try for, of a problem (%(default)s)")
    step.add_argument("--seed", type=int, default=0, help="of what is varied (%(default)s)")
    add_sandbox_options(step)


def _add_augment(steps: Any) -> None:
    step = add_step(
        steps, "augment", _run_augment, "Add rewritten copies of labelled programs, for training.", "groups to write"
    )
    step.add_argument("labelled", type=Path, help="labelled groups, such as `data label` writes; .gz too")
    step.add_argument(
        "--rewrite", action="append", metavar="NAME",
        help="renamed, commented, stripped, reformatted, rewrapped, documented, hinted, imported, demonstrated, or "
        "praised; again for more (all but the last)",
    )  # fmt: skip
    step.add_argument("--copies", type=int, default=1, help="of a program, at most (%(default)s)")
    step.add_argument("--max-rewrites", type=int, default=1, help="of a copy, one after the other (%(default)s)")
    step.add_argument("--seed", type=int, default=0, help="of what is chosen (%(default)s)")


def _add_negatives(steps: Any) -> None:
    step = add_step(
        steps,
        "negatives",
        _run_negatives,
        "Add programs that do not do what the problem asks, for training.",
        "groups to write",
    )
    step.add_argument("labelled", type=Path, help="labelled groups, such as `data label` writes; .gz too")
    step.add_argument(
        "--kind", action="append", metavar="NAME",
        help="other (a correct program of another problem), renamed (the same under this problem's name), near_miss "
        "(its own program under a misspelled name), no_return, none, constant; again for more (all)",
    )  # fmt: skip
    step.add_argument("--n", type=int, default=3, help="programs of a group, at most (%(default)s)")
    step.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")


def _add_pairs(steps: Any) -> None:
    step = add_step(
        steps, "pairs", _run_pairs, "Pair labelled programs by what was measured.", "file to write, for training"
    )
    step.add_argument("labelled", type=Path, nargs="+", help="labelled groups, such as `data label` writes; .gz too")
    step.add_argument(
        "--aspect", action="append", choices=("correctness", "efficiency", "readability"),
        help="what to prefer by; again for more (correctness)",
    )  # fmt: skip
    step.add_argument("--rule", default="all", choices=("all", "acecoder"), help="of correctness (%(default)s)")
    step.add_argument(
        "--margin", action="append", default=[], metavar="ASPECT=NUMBER", help="that training asks for (0 of each)"
    )
    step.add_argument("--min-tests", type=int, help="leave out programs with fewer (0; 5 for what is not correctness)")
    step.add_argument(
        "--min-weight", type=float, default=0.0,
        help="leave out labels of a smaller weight, which `label --audit` gives (%(default)s)",
    )  # fmt: skip
    step.add_argument("--max-pairs", type=int, help="of a problem and aspect (all)")
    step.add_argument("--human", type=Path, action="append", default=[], help="people's pairs; again for more files")
    step.add_argument(
        "--held-out",
        action="append",
        default=[],
        metavar="FILE_OR_IDS",
        help="problems not to learn from; again for more",
    )
    step.add_argument("--on-leak", default="leave-out", choices=("leave-out", "refuse"), help="(%(default)s)")


def _sample(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.sample.sampling import choose_tasks, sample_tasks

    sampling = make_sampling(options)
    tasks = choose_tasks(load_tasks(options.tasks, options.format), options.split, options.limit, options.difficulty)
    sampler = make_sampler(options, sampling)
    with tqdm(total=len(tasks), unit=" problems", disable=None) as bar:
        counts = sample_tasks(tasks, sampler, sampling, options.output, bar.update)
    retries = f"; {sampler.num_retries} requests were tried again" if hasattr(sampler, "num_retries") else ""
    print(
        f"{options.output}: {counts['completions']} completions for {counts['groups']} problems, of which "
        f"{counts['invalid']} hold no program, {counts['duplicates']} repeat another, {counts['cut_short']} were cut "
        f"at --max-tokens, {counts['empty']} are empty{retries}",
        file=sys.stderr,
    )


def _label(options: argparse.Namespace) -> None:
    import time

    from codescaler.data.audit.report import read_trust
    from codescaler.data.label.labels import label_groups
    from codescaler.errors import make_printable

    with _running(options, options.groups) as (tasks, sandbox, advance):
        started = time.perf_counter()
        report = label_groups(
            options.groups, tasks, options.output, sandbox,
            limits=describe_limits(options, sandbox), check_references=options.check_references,
            trust=None if options.audit is None else read_trust(options.audit), advance=advance,
        )  # fmt: skip
        isolation = sandbox.isolation
    seconds = time.perf_counter() - started
    for task_id, seen in list(report.bad_references.items())[:5]:
        print(make_printable(f"the reference of {task_id} fails its own tests: {seen}"), file=sys.stderr)
    print(
        f"{options.output}: {format_counts(report.counts)}. This run: {report.num_run} distinct programs in "
        f"{seconds:.1f} "
        f"s, {report.num_run / seconds:.1f} programs/s; {len(report.bad_references)} references fail their own tests; "
        f"isolation: {isolation}",
        file=sys.stderr,
    )


@contextmanager
def _running(options: argparse.Namespace, groups: Path) -> "Iterator[tuple[list[Task], Sandbox, Callable[[int], Any]]]":
    """What a step runs programs with: the tasks, a sandbox, and what to tell of groups of a file that are done."""
    from tqdm import tqdm

    from codescaler.io.records import read_lines

    tasks = load_tasks(options.tasks, options.format)
    num_groups = sum(1 for _ in read_lines(groups))
    with make_sandbox(options) as sandbox, tqdm(total=num_groups, unit=" problems", disable=None) as bar:
        yield tasks, sandbox, bar.update


def _run_cost(options: argparse.Namespace) -> None:
    from codescaler.data.label.costs import measure_groups

    _read_labelled(options.labelled)
    with _running(options, options.labelled) as (tasks, sandbox, advance):
        num_measured, num_failed = measure_groups(
            options.labelled, tasks, options.output, sandbox,
            num_rounds=options.rounds, limits=describe_limits(options, sandbox), advance=advance,
        )  # fmt: skip
    print(
        f"{options.output}: this run measured {num_measured} programs of problems with two that passed, in "
        f"{options.rounds} rounds; {num_failed} did not pass each time, and have no cost",
        file=sys.stderr,
    )


def _run_tests(options: argparse.Namespace) -> None:
    import json

    from tqdm import tqdm

    from codescaler.data.label.generated_tests import strengthen_tasks
    from codescaler.io.files import open_output
    from codescaler.io.resumable import require_new_file
    from codescaler.tasks import make_task_record
    from codescaler.types import CallTests

    require_new_file(options.output)
    tasks = load_tasks(options.tasks, options.format)
    num_made = num_kept = num_tasks = 0
    with make_sandbox(options) as sandbox, open_output(options.output, "x") as file:
        made = strengthen_tasks(sandbox, tasks, num_tests=options.n, seed=options.seed)
        for task, number in tqdm(made, total=len(tasks), unit=" problems", disable=None):
            num_made += number
            if isinstance(task.tests, CallTests):
                num_kept, num_tasks = num_kept + len(task.tests.statements), num_tasks + 1
                file.write(f"{json.dumps(make_task_record(task))}\n".encode())
    print(
        f"{options.output}: {num_kept} tests for {num_tasks} of {len(tasks)} problems; others have no reference, or "
        f"tests of another kind. {num_made - num_kept} tests were left out that the reference does not pass",
        file=sys.stderr,
    )


def _read_labelled(path: Path) -> list[tuple[str, Any]]:
    """The records of a file with their names.

    Raises: InvalidInput if all are groups, and no candidate has a verdict, so that there would be nothing to do.
    """
    from codescaler.io.records import read_lines

    records = [(name, record) for name, _, record in read_lines(path)]
    groups = [record.get("candidates") if isinstance(record, dict) else None for _, record in records]
    candidates = [candidate for group in groups if isinstance(group, list) for candidate in group]
    has_verdict = any(isinstance(candidate, dict) and candidate.get("passed") is not None for candidate in candidates)
    if not has_verdict and all(isinstance(group, list) for group in groups):
        raise InvalidInput(f"{path} has no program with a verdict; run `codescaler data label` on it first")
    return records


def _run_augment(options: argparse.Namespace) -> None:
    import json
    from collections import Counter

    from codescaler.data.augment import augment_group
    from codescaler.io.files import write_text_file
    from codescaler.io.resumable import require_new_file
    from codescaler.text.rewriting import REWRITES

    require_new_file(options.output)
    for name in ("copies", "max_rewrites"):
        if (value := getattr(options, name)) < 1:
            raise InvalidInput(f"--{name.replace('_', '-')} {value}; give a whole number of at least 1")
    settings = {"num_copies": options.copies, "max_rewrites": options.max_rewrites, "seed": options.seed}
    counts: Counter[str] = Counter()
    rewrites = list(dict.fromkeys(options.rewrite or REWRITES))
    lines = [
        json.dumps(augment_group(record, name, rewrites=rewrites, counts=counts, **settings))
        for name, record in _read_labelled(options.labelled)
    ]
    write_text_file(options.output, "".join(f"{line}\n" for line in lines))
    print(
        f"{options.output}: {len(lines)} groups; added or passed over: {format_counts(counts) or 'nothing'}",
        file=sys.stderr,
    )


def _run_negatives(options: argparse.Namespace) -> None:
    import json
    from collections import Counter

    from codescaler.data.negatives import NAMES, add_negatives
    from codescaler.io.files import write_text_file
    from codescaler.io.resumable import require_new_file

    require_new_file(options.output)
    if options.n < 1:
        raise InvalidInput(f"--n {options.n}; give a whole number of at least 1")
    counts: Counter[str] = Counter()
    records = _read_labelled(options.labelled)
    kinds = list(dict.fromkeys(options.kind or NAMES))
    groups = add_negatives(records, kinds=kinds, num_negatives=options.n, seed=options.seed, counts=counts)
    write_text_file(options.output, "".join(f"{json.dumps(group)}\n" for group in groups))
    print(f"{options.output}: {len(groups)} groups; added or passed over: {format_counts(counts)}", file=sys.stderr)


def _run_pairs(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.prefer.card import write_preferences
    from codescaler.data.prefer.leakage import read_held_out
    from codescaler.data.prefer.pairs import PairSettings, make_preferences
    from codescaler.io.resumable import require_new_file

    require_new_file(options.output)
    settings = PairSettings(
        aspects=tuple(dict.fromkeys(options.aspect or ["correctness"])),
        rule=options.rule,
        margins=_parse_margins(options.margin),
        min_tests=options.min_tests,
        max_pairs=options.max_pairs,
        refuse_leaks=options.on_leak == "refuse",
        min_weight=options.min_weight,
    )
    held_out = read_held_out(options.held_out)
    with tqdm(unit=" problems", disable=None) as bar:
        data = make_preferences(options.labelled, settings, people=options.human, held_out=held_out, advance=bar.update)
    sources = [*options.labelled, *options.human]
    card = write_preferences(data, settings, options.output, sources=sources, held_out=held_out)
    pairs = {
        aspect: sum(counts["pairs"] for counts in card["preferences"][aspect].values())
        for aspect in card["preferences"]
    }
    print(
        f"{options.output}: {format_counts(pairs) or 'no'} pairs. Left out: "
        f"{format_counts(card['left_out']) or 'nothing'}; "
        f"conflicts: {format_counts(card['conflicts']) or 'none'}. The card: {options.output}.card.md",
        file=sys.stderr,
    )


def _parse_margins(given: list[str]) -> dict[str, float]:
    margins = {}
    for text in given:
        aspect, _, number = text.partition("=")
        try:
            margins[aspect] = float(number)
        except ValueError as error:
            raise InvalidInput(f"--margin {text!r}; give an aspect and a number, such as correctness=0.5") from error
    return margins
