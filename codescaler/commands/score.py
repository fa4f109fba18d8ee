"""The command `score`."""

import argparse
import io
import sys
from pathlib import Path

from codescaler.commands.options import Add, add_engine_options, add_model_option, open_engine
from codescaler.errors import InvalidInput


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    score = add("score", _score, "Add a score to each row of a file of JSON lines, or to each program of groups.")
    score.add_argument(
        "rows",
        type=Path,
        help='JSON lines, {"prompt": ..., "response": ...} or {"messages": [...]}, or groups (with -o); .gz too',
    )
    add_model_option(score)
    score.add_argument("-o", "--output", type=Path, help="file to write; a killed run goes on. Without: stdout")
    add_engine_options(score)


def _score(options: argparse.Namespace) -> None:
    import time

    from codescaler.commands.score_file import score_file, score_groups, score_lines
    from codescaler.io.records import read_lines
    from codescaler.io.resumable import require_new_file

    has_groups = False
    if options.rows.is_file() or not options.rows.exists():  # a pipe gives its rows once
        first = next(read_lines(options.rows), None)  # what can be refused at once should not wait for the model
        has_groups = first is not None and "candidates" in first[2]
    if has_groups and options.output is None:
        raise InvalidInput(f"{options.rows} holds groups, whose scores are written to a file only; give -o")
    if options.output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")  # rows are passed on as they are
        for line in score_lines(open_engine(options), read_lines(options.rows)):
            print(line)
        return
    require_new_file(options.output)
    engine = open_engine(options)
    from tqdm import tqdm

    started = time.perf_counter()
    with tqdm(total=_count_lines(options.rows), unit=" lines", disable=None) as bar:
        score = score_groups if has_groups else score_file
        num_rows = score(engine, options.rows, options.output, bar.update)
    seconds = time.perf_counter() - started
    text, forward = engine.text_seconds / seconds, engine.forward_seconds / seconds
    kind = "groups" if has_groups else "rows"
    print(
        f"{options.output}: {num_rows} {kind}. This run: {seconds:.1f} s, {engine.num_tokens} tokens, "
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
