"""The command `rerank`."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codescaler.commands.options import Add, add_engine_options, add_model_option, open_engine, read_text
from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.records import Candidate, Group
    from codescaler.types import RankedCandidate


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    rerank = add("rerank", _rerank, "Rank candidate programs of a problem, best first.")
    rerank.add_argument("problem", type=Path, help="text of the problem; or groups, JSON lines (.jsonl, .jsonl.gz)")
    rerank.add_argument("candidates", type=Path, nargs="*", help="files of one program each")
    add_model_option(rerank)
    rerank.add_argument("--extract", action="store_true", help="take the program out of the fenced block of each file")
    rerank.add_argument("--language", default="python", help="that the programs must parse as (%(default)s)")
    rerank.add_argument("--top-k", type=int, help="show this many")
    rerank.add_argument("--json", action="store_true", help="print JSON, for a file of groups one line each")
    add_engine_options(rerank)


def _rerank(options: argparse.Namespace) -> None:
    from codescaler import report
    from codescaler.records import Candidate, Group, read_groups

    if options.top_k is not None and options.top_k < 1:
        raise InvalidInput(f"--top-k {options.top_k}; give a whole number of at least 1")
    if options.candidates:
        programs = tuple(Candidate(read_text(path)) for path in options.candidates)
        groups = [Group(str(options.problem), read_text(options.problem), programs)]
        names = [str(path) for path in options.candidates]
    elif options.problem.name.endswith((".jsonl", ".jsonl.gz")):
        if options.extract:
            raise InvalidInput("--extract is for files of completions; the code of a group has been extracted")
        groups, names = read_groups(options.problem), None
    else:
        raise InvalidInput(
            f"there is no candidate for {options.problem}; name files of programs, or give a .jsonl file"
        )
    engine = open_engine(options)
    rankings = []
    for group in groups:
        where = names or [f"{group.name}: candidates[{index}]" for index in range(len(group.candidates))]
        ranked = _ranked(engine, group, options.extract, options.language, where)
        rankings.append(ranked)
        labels = names or [f"candidate {index}: {_preview(c)}" for index, c in enumerate(group.candidates)]
        shown = ranked[: options.top_k]
        if options.json:
            record = {"task_id": group.task_id, "ranking": [dataclasses.asdict(candidate) for candidate in shown]}
            print(json.dumps(record))
        else:
            print(report.ranking_table(group, shown, labels), end="\n\n")
    summary = report.ranking_summary(groups, rankings)
    if summary and not options.json:
        print(summary)


def _ranked(
    engine: "Engine", group: "Group", extract: bool, language: str, names: Sequence[str]
) -> "list[RankedCandidate]":
    """Ranks a group; candidates without code come last, unscored."""
    from codescaler.types import RankedCandidate

    held = [index for index, candidate in enumerate(group.candidates) if candidate.code is not None]
    codes = [group.candidates[index].code or "" for index in held]
    ranked = [
        dataclasses.replace(candidate, index=held[candidate.index])
        for candidate in engine.rerank(
            group.prompt, codes, extract=extract, language=language, names=[names[index] for index in held]
        )
    ]
    absent = [RankedCandidate(i, None, False, None) for i, c in enumerate(group.candidates) if c.code is None]
    return ranked + absent


def _preview(candidate: "Candidate") -> str:
    """What tells a program from its siblings at a glance: its last line, where they mostly differ."""
    from codescaler import report

    if candidate.code is None:
        return "(no program)"
    line = candidate.code.strip().rpartition("\n")[2].strip()
    return f"... {report.printable(line[:60])}"
