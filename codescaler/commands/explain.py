"""The command `explain`: scores by line, in the terminal and as a page."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from codescaler.commands.options import (
    HEAD_OPTIONS,
    Add,
    add_engine_options,
    add_model_option,
    collect_options,
    read_problem,
    read_text,
)
from codescaler.env import may_use_colours


def add_commands(add: Add) -> None:
    """Adds it to the command line."""
    explain = add("explain", _explain, "Show where a reward model's score of a program rises and falls, line by line.")
    explain.add_argument("problem", type=Path, help="text of the problem")
    explain.add_argument("programs", type=Path, nargs="+", help="files of one program each")
    add_model_option(explain)
    explain.add_argument("--html", type=Path, metavar="FILE", help="write a page too: programs side by side")
    explain.add_argument("--json", action="store_true", help="print JSON, one line a program")
    add_engine_options(explain, HEAD_OPTIONS)


def _explain(options: argparse.Namespace) -> None:
    from codescaler.commands.heat_map import format_heat_map, make_page
    from codescaler.engine import Engine
    from codescaler.engine.trace import choose_shades, find_common_lines, find_largest_drop
    from codescaler.io.files import write_text_file

    names = [str(path) for path in options.programs]
    problem, programs = read_problem(options.problem), [read_text(path) for path in options.programs]
    engine = Engine.from_pretrained(options.model, **collect_options(options, HEAD_OPTIONS))
    traces = engine.trace(problem, programs, names=names)
    pairs = find_common_lines([[line.text for line in lines] for lines in traces])
    common = [set(numbers) for numbers in zip(*pairs, strict=True)] or [set[int]() for _ in traces]
    drops = [find_largest_drop(lines, shared) for lines, shared in zip(traces, common, strict=True)]
    shades = choose_shades(traces)
    for name, lines, shade, shared, drop in zip(names, traces, shades, common, drops, strict=True):
        if options.json:
            facts = {"program": name, "lines": [dataclasses.asdict(line) for line in lines]}
            print(json.dumps(facts | {"largest_drop": None if drop is None else drop.number}))
        else:
            print(format_heat_map(name, lines, shade, shared, drop, has_colours=_has_colours()), end="\n\n")
    if options.html is not None:
        write_text_file(options.html, make_page(problem, names, traces, shades, common, drops))
        print(f"wrote {options.html}", file=sys.stderr)


def _has_colours() -> bool:
    return sys.stdout.isatty() and may_use_colours()
