"""The steps `data synth`: concepts of seed problems, their graph, walks over it, new problems and their difficulty."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from codescaler.commands.suites import add_suites
from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.data.prefer.leakage import HeldOut

_RESUMES = "file to write; a killed run goes on"


def add_synth(steps: Any) -> None:
    """Adds them to the steps of `data`."""
    summary = "Make new problems from the concepts of known problems."
    synth = steps.add_parser("synth", help=summary, description=summary)
    inner = synth.add_subparsers(metavar="step", required=True)
    _add_concepts(inner)
    _add_graph(inner)
    _add_walk(inner)
    _add_generate(inner)
    _add_difficulty(inner)
    add_suites(inner)


def _add_concepts(steps: Any) -> None:
    step = add_step(
        steps,
        "concepts",
        _run_concepts,
        "Name the concepts of seed problems, by tags or by a language model.",
        _RESUMES,
    )
    step.add_argument("tasks", type=Path, help="file of seed problems, in any form that codescaler reads")
    step.add_argument("--format", default="auto", help="form of the file of problems (%(default)s)")
    add_sampling_options(
        step, num_samples=1, what="tries of a problem; the first that can be read counts", is_optional=True
    )
    step.add_argument("--license", default="unknown", help="of problems whose source names none (%(default)s)")
    step.add_argument("--split", help="problems of this split only")
    step.add_argument("--limit", type=int, help="problems from the first on")
    _add_held_out_option(step)


def _add_graph(steps: Any) -> None:
    from codescaler.data.synthesis import ALPHA, EPSILON

    step = add_step(steps, "graph", _run_graph, "Join concepts that occur in one problem.", "file to write")
    step.add_argument("concepts", type=Path, help="what `data synth concepts` wrote")
    step.add_argument("--alpha", type=float, default=ALPHA, help="weight of frequency beside difficulty (%(default)s)")
    step.add_argument("--epsilon", type=float, default=EPSILON, help="added before the logarithm (%(default)s)")


def _add_walk(steps: Any) -> None:
    from codescaler.data.synthesis import MAX_STEPS

    step = add_step(steps, "walk", _run_walk, "Choose concepts for new problems, by random walks.", "file to write")
    step.add_argument("graph", type=Path, help="what `data synth graph` wrote")
    step.add_argument("--n", type=int, default=100, help="walks (%(default)s)")
    step.add_argument("--steps", type=int, default=MAX_STEPS, help=f"of a walk, at most {MAX_STEPS} (%(default)s)")
    step.add_argument("--seed", type=int, default=0, help="(%(default)s)")


def _add_generate(steps: Any) -> None:
    step = add_step(steps, "generate", _run_generate, "Ask a language model for new problems.", _RESUMES)
    step.add_argument("walks", type=Path, help="what `data synth walk` wrote")
    step.add_argument("concepts", type=Path, help="what `data synth concepts` wrote")
    add_sampling_options(step, num_samples=8, what="candidates of a walk")
    step.add_argument("--form", default="program", help="of the problems: program, call (%(default)s)")
    step.add_argument("--examples", type=int, default=2, help="seed problems to show (%(default)s)")
    _add_held_out_option(step)


def _add_difficulty(steps: Any) -> None:
    step = add_step(
        steps, "difficulty", _run_difficulty, "Keep the hardest candidate on which solutions still agree.", _RESUMES
    )
    step.add_argument("generated", type=Path, help="what `data synth generate` wrote")
    add_sampling_options(step, num_samples=8, what="solutions of a candidate")
    step.add_argument("--inputs", type=int, default=20, help="that solutions run on (%(default)s)")
    step.add_argument("--generators", type=int, default=2, help="answers that give inputs (%(default)s)")
    step.add_argument("--agreement", type=float, default=0.3, help="least mean share of the majority (%(default)s)")
    step.add_argument("--min-share", type=float, default=0.5, help="of a majority that becomes a test (%(default)s)")
    step.add_argument("--emit-problems", type=Path, metavar="FILE", help="write the problems that are kept")
    step.add_argument("--emit-sft", type=Path, metavar="FILE", help="write conversations to fine-tune the generator")
    _add_held_out_option(step)
    add_sandbox_options(step, has_format=False)


def _add_held_out_option(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--held-out", action="append", default=[], metavar="FILE_OR_IDS",
        help="problems that nothing may come near; again for more",
    )  # fmt: skip


def _read_held_out(options: argparse.Namespace) -> "HeldOut":
    from codescaler.data.prefer.leakage import read_held_out

    return read_held_out(options.held_out)


def _run_concepts(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.sample.sampling import choose_tasks
    from codescaler.data.synthesis.concepts import write_concepts

    tasks = choose_tasks(load_tasks(options.tasks, options.format), options.split, options.limit)
    if options.endpoint and not options.model:
        raise InvalidInput("--endpoint without --model; name the model of the endpoint, or leave both out for tags")
    sampling = make_sampling(options) if options.model else None
    with tqdm(total=len(tasks), unit=" problems", disable=None) as bar:
        counts = write_concepts(
            tasks,
            options.output,
            sampler=None if sampling is None else make_sampler(options, sampling),
            sampling=sampling,
            held_out=_read_held_out(options),
            license=options.license,
            advance=bar.update,
        )
    print(f"{options.output}: {format_counts(counts)}", file=sys.stderr)


def _run_graph(options: argparse.Namespace) -> None:
    from codescaler.data.synthesis.concepts import read_seeds
    from codescaler.data.synthesis.graph import build_graph, make_graph_records
    from codescaler.io.files import write_text_file
    from codescaler.io.resumable import require_new_file

    require_new_file(options.output)
    graph = build_graph(read_seeds(options.concepts), alpha=options.alpha, epsilon=options.epsilon)
    write_text_file(options.output, "".join(f"{json.dumps(record)}\n" for record in make_graph_records(graph)))
    print(
        f"{options.output}: {graph.number_of_nodes()} concepts, {graph.number_of_edges()} pairs of them occur in one "
        "problem",
        file=sys.stderr,
    )


def _run_walk(options: argparse.Namespace) -> None:
    from codescaler.data.synthesis.graph import read_graph
    from codescaler.data.synthesis.walk import walk_graph
    from codescaler.io.files import write_text_file
    from codescaler.io.resumable import require_new_file

    require_new_file(options.output)
    walks = list(walk_graph(read_graph(options.graph), options.n, seed=options.seed, num_steps=options.steps))
    write_text_file(options.output, "".join(f"{json.dumps(record)}\n" for record in walks))
    distinct = len({frozenset(record["concepts"]) for record in walks})
    print(f"{options.output}: {len(walks)} walks, {distinct} sets of concepts", file=sys.stderr)


def _run_generate(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.synthesis.concepts import read_seeds
    from codescaler.data.synthesis.generate import generate_problems

    sampling = make_sampling(options)
    with tqdm(unit=" walks", disable=None) as bar:
        counts = generate_problems(
            options.walks,
            read_seeds(options.concepts),
            options.output,
            make_sampler(options, sampling),
            sampling,
            form=options.form,
            num_examples=options.examples,
            held_out=_read_held_out(options),
            advance=bar.update,
        )
    print(f"{options.output}: {format_counts(counts)}", file=sys.stderr)


def _run_difficulty(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.data.synthesis.difficulty import DifficultySettings, judge_problems
    from codescaler.data.synthesis.emit import emit_problems, emit_sft
    from codescaler.io.resumable import require_new_file

    emitted = [(options.emit_problems, emit_problems, "problems"), (options.emit_sft, emit_sft, "conversations")]
    emitted = [item for item in emitted if item[0] is not None]
    for target, _, _ in emitted:
        require_new_file(target)
    settings = DifficultySettings(options.inputs, options.generators, options.agreement, options.min_share)
    sampling = make_sampling(options)
    with make_sandbox(options) as sandbox, tqdm(unit=" walks", disable=None) as bar:
        counts = judge_problems(
            options.generated,
            options.output,
            make_sampler(options, sampling),
            sampling,
            sandbox,
            settings,
            limits=describe_limits(options, sandbox),
            held_out=_read_held_out(options),
            advance=bar.update,
        )
    print(f"{options.output}: {format_counts(counts)}", file=sys.stderr)
    for target, emit, what in emitted:
        print(f"{target}: {emit(options.output, target)} {what}", file=sys.stderr)
