"""The commands `score` and `join-shards`."""

import argparse
import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from codescaler.commands.combination import add_scorer_options, open_scorer
from codescaler.commands.options import Add, add_engine_options, collect_options, open_engine
from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.engine import Engine


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    score = add("score", _score, "Add a score to each row of a file of JSON lines, or to each program of groups.")
    score.add_argument(
        "rows",
        type=Path,
        help='JSON lines, {"prompt": ..., "response": ...} or {"messages": [...]}, or groups (with -o); .gz too',
    )
    add_scorer_options(score)
    target = score.add_mutually_exclusive_group()
    target.add_argument("-o", "--output", type=Path, help="file to write; a killed run goes on. Without: stdout")
    target.add_argument("--out-dir", type=Path, metavar="DIR", help="folder to write shards to; a killed run goes on")
    shards = score.add_mutually_exclusive_group()
    shards.add_argument("--shard", metavar="I/N", help="score shard I of N into --out-dir, e.g. 3/64")
    shards.add_argument("--shards", type=int, metavar="N", help="score all N shards into --out-dir")
    score.add_argument(
        "--ray",
        type=int,
        nargs="?",
        const=0,
        metavar="WORKERS",
        help="with --shards, score them on a Ray cluster, on so many workers (as many as it has room for)",
    )
    add_engine_options(score)
    join = add("join-shards", _join, "Check that shards hold every line of a file once, and join them in its order.")
    join.add_argument("rows", type=Path, help="the file that was scored")
    join.add_argument("shards", type=Path, metavar="DIR", help="the --out-dir of its shards")
    join.add_argument("-o", "--output", type=Path, help="file to write. Without: check only")


def _score(options: argparse.Namespace) -> None:
    if (options.out_dir is None) != (options.shard is None and options.shards is None):
        raise InvalidInput("--out-dir goes with --shard I/N or --shards N; give both, or neither")
    if options.ray is not None and (options.shards is None or options.ray < 0):
        raise InvalidInput("--ray goes with --shards N, and its number of workers is 1 or more")
    if options.rm or options.combine is not None:
        _score_combined(options)
    elif options.out_dir is not None:
        _score_shards(options)
    else:
        _score_file(options)


def _score_file(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.commands.score_file import has_groups, score_file, score_groups, score_lines
    from codescaler.io.records import read_lines
    from codescaler.io.resumable import require_new_file

    are_groups = False
    if options.rows.is_file() or not options.rows.exists():  # a pipe gives its rows once
        are_groups = has_groups(options.rows)  # what can be refused at once should not wait for the model
    if are_groups and options.output is None:
        raise InvalidInput(f"{options.rows} holds groups, whose scores are written to a file only; give -o")
    if options.output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")  # rows are passed on as they are
        for line in score_lines(open_engine(options), read_lines(options.rows)):
            print(line)
        return
    require_new_file(options.output)
    engine = open_engine(options)
    started = time.perf_counter()
    with tqdm(total=_count_lines(options.rows), unit=" lines", disable=None) as bar:
        score = score_groups if are_groups else score_file
        num_rows = score(engine, options.rows, options.output, bar.update)
    _report(engine, f"{options.output}: {num_rows} {'groups' if are_groups else 'rows'}", started)


def _score_combined(options: argparse.Namespace) -> None:
    """Scores are standardised within a problem, so that they need all programs of it side by side: groups."""
    from tqdm import tqdm

    from codescaler.commands.score_file import has_groups, score_groups
    from codescaler.io.resumable import require_new_file

    if options.output is None or not options.rows.is_file() or not has_groups(options.rows):
        raise InvalidInput("a combination scores files of groups, and writes them to a file; give groups, and -o")
    require_new_file(options.output)
    with tqdm(total=_count_lines(options.rows), unit=" lines", disable=None) as bar:
        num_groups = score_groups(open_scorer(options), options.rows, options.output, bar.update)
    print(f"{options.output}: {num_groups} groups", file=sys.stderr)


def _score_shards(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from codescaler.commands.shards import list_shards, parse_shard, score_shard

    shards = list_shards(options.shards) if options.shard is None else [parse_shard(options.shard)]
    if not options.rows.is_file():
        raise InvalidInput(f"{options.rows} is no regular file; each shard reads it from its start")
    if options.ray is not None:
        _score_on_ray(options, [f"{shard.index}/{shard.count}" for shard in shards])
        return
    engine = open_engine(options)
    started, num_lines = time.perf_counter(), 0
    with tqdm(unit=" lines", disable=None) as bar:
        for shard in shards:
            num_lines += score_shard(engine, options.rows, options.out_dir, shard, bar.update)
    _report(engine, f"{options.out_dir}: {num_lines} lines in {len(shards)} of {shards[0].count} shards", started)


def _score_on_ray(options: argparse.Namespace, tasks: list[str]) -> None:
    from functools import partial

    from tqdm import tqdm

    from codescaler.commands.shards import open_shard_scorer
    from codescaler.integrations.ray import run_tasks

    arguments = collect_options(options)
    for name, value in (("model", options.model), ("base_model", arguments.pop("base_model"))):
        is_here = value is not None and Path(value).exists()
        arguments[name] = str(Path(value).resolve()) if is_here else value  # workers run in another folder
    opener = partial(open_shard_scorer, options.rows.resolve(), options.out_dir.resolve(), arguments)
    results = run_tasks(
        tasks,
        opener,
        num_workers=options.ray or None,
        num_cpus=options.num_threads or 1,
        wants_gpu={"cpu": False, "auto": None}.get(options.device, True),
    )
    num_lines = sum(num_rows for _, num_rows in tqdm(results, total=len(tasks), unit=" shards", disable=None))
    print(f"{options.out_dir}: {num_lines} lines in {len(tasks)} shards", file=sys.stderr)


def _join(options: argparse.Namespace) -> None:
    from codescaler.commands.shards import join_shards
    from codescaler.io.files import open_output
    from codescaler.io.resumable import require_new_file

    if options.output is None:
        num_lines = join_shards(options.rows, options.shards, lambda _: None)
    else:
        require_new_file(options.output)
        partial = options.output.with_name(f"{options.output.name}.partial")
        with open_output(partial, "w") as file:
            num_lines = join_shards(options.rows, options.shards, lambda line: file.write(f"{line}\n".encode()))
        partial.replace(options.output)
    print(f"{options.shards}: {num_lines} lines, each line of {options.rows} once", file=sys.stderr)


def _report(engine: "Engine", what: str, started: float) -> None:
    seconds = time.perf_counter() - started
    text, forward = engine.text_seconds / seconds, engine.forward_seconds / seconds
    print(
        f"{what}. This run: {seconds:.1f} s, {engine.num_tokens} tokens, "
        f"{engine.num_distinct_tokens} of them computed; {engine.num_truncated} rows truncated; "
        f"forward {forward:.1%} of the time, text {text:.1%} beside it",
        file=sys.stderr,
    )


def _count_lines(path: Path) -> int | None:
    """The number of lines of a plain file, for the progress bar."""
    if path.suffix == ".gz" or not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
