"""The command `explain`: scores by line, in the terminal and as a page."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from codescaler.commands.options import (
    HEAD_OPTIONS,
    Add,
    add_engine_options,
    add_extract_option,
    add_model_option,
    collect_options,
    read_problem,
    read_text,
)
from codescaler.env import may_use_colours
from codescaler.errors import InvalidInput


def add_commands(add: Add) -> None:
    """Adds it to the command line."""
    explain = add("explain", _explain, "Show where a reward model's score of a program rises and falls, line by line.")
    explain.add_argument("problem", type=Path, help="text of the problem")
    explain.add_argument("programs", type=Path, nargs="+", help="files of one program each")
    add_model_option(explain)
    add_extract_option(explain, is_optional=True)
    explain.add_argument("--html", type=Path, metavar="FILE", help="write a page too: programs side by side")
    explain.add_argument("--json", action="store_true", help="print JSON, one line a program")
    add_engine_options(explain, HEAD_OPTIONS)


def _explain(options: argparse.Namespace) -> None:
    from codescaler.commands.heat_map import format_heat_map, make_page
    from codescaler.engine import Engine
    from codescaler.engine.trace import choose_shades, find_common_lines, find_largest_drop
    from codescaler.io.files import write_text_file

    names = [str(path) for path in options.programs]
    problem = read_problem(options.problem)
    programs = _take_programs(options.programs, options.extract)
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


def _take_programs(paths: Sequence[Path], extract: bool | str) -> list[str]:
    """The programs of files, or of the completions that they hold.

    Raises: InvalidInput if a completion holds none.
    """
    from codescaler.text.extraction import read_programs

    taken = []
    for path, (code, _) in zip(
        paths, read_programs([read_text(path) for path in paths], extract, "python"), strict=True
    ):
        if code is None:
            raise InvalidInput(
                f"{path} holds no program that --extract {extract} takes; try another way, or leave it out"
            )
        taken.append(code)
    return taken


def _has_colours() -> bool:
    return sys.stdout.isatty() and may_use_colours()
