"""The data card: what a file of preferences holds, where it comes from, and what was left out. Knows counts only."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codescaler import __version__
from codescaler.data.prefer import correctness, efficiency, human, leakage, readability
from codescaler.data.prefer.leakage import HeldOut
from codescaler.data.prefer.pairs import MIN_QUALITY_TESTS, PairSettings, PreferenceData, make_records
from codescaler.io.files import open_output, write_text_file
from codescaler.io.resumable import compute_file_digest


def write_preferences(
    data: PreferenceData, settings: PairSettings, target: Path, *, sources: Sequence[Path], held_out: HeldOut
) -> dict[str, Any]:
    """Writes the records to `target`, and beside it the card, as .card.json and .card.md; returns the card.

    The file appears last, when it and its card are whole.
    """
    scratch = target.with_name(f".{target.name}-unfinished")
    with open_output(scratch, "w") as file:
        for record in make_records(data, settings):
            file.write(f"{json.dumps(record)}\n".encode())
    card = make_card(data, settings, sources=sources, held_out=held_out)
    write_text_file(target.with_name(f"{target.name}.card.json"), json.dumps(card, indent=2) + "\n")
    write_text_file(target.with_name(f"{target.name}.card.md"), format_card(card, target.name))
    scratch.replace(target)
    return card


def make_card(
    data: PreferenceData, settings: PairSettings, *, sources: Sequence[Path], held_out: HeldOut
) -> dict[str, Any]:
    """Counts preferences, problems and programs, and states the rules that made them."""
    used = [
        data.problems[task_id] for task_id in {item.task_id for item in data.preferences} if task_id in data.problems
    ]
    programs = {(item.task_id, p.code): p for item in data.preferences for p in (item.chosen, item.rejected)}
    return {
        "made_by": f"codescaler {__version__}",
        "sources": {path.name: compute_file_digest([path]) for path in sources},
        "preferences": _count_by_aspect_and_split(data),
        "programs_by_source": _sort_counts(Counter(program.generator for program in programs.values())),
        "problems_by_license": _sort_counts(Counter(problem.license for problem in used)),
        "problems_by_isolation": _sort_counts(Counter(name for problem in used for name in problem.isolations)),
        "tests_of_a_program": _summarize_tests(data),
        "left_out": _sort_counts(data.left_out),
        "conflicts": _sort_counts(data.conflicts),
        "leakage": {
            "held_out_ids": len(held_out.task_ids),
            "held_out_prompts": len(held_out.prompts or {}),
            "problems_by_kind": _sort_counts(Counter(leak.kind for leak in data.leaks.values())),
            "problems": {
                task_id: f"{leak.kind} of {leak.held_out}, {leak.overlap}" for task_id, leak in data.leaks.items()
            },
        },
        "margins": {aspect: settings.margins.get(aspect, 0.0) for aspect in settings.aspects},
        "rules": _describe_rules(settings),
        "versions": dict(data.versions),
    }


def _count_by_aspect_and_split(data: PreferenceData) -> dict[str, dict[str, dict[str, int]]]:
    aspects: dict[str, dict[str, dict[str, int]]] = {}
    tasks: dict[tuple[str, str], set[str]] = {}
    for item in data.preferences:
        split = item.split or "none"
        counts = aspects.setdefault(item.aspect, {}).setdefault(split, {"pairs": 0, "from_people": 0, "problems": 0})
        tasks.setdefault((item.aspect, split), set()).add(item.task_id)
        counts["pairs"] += 1
        counts["from_people"] += item.is_human
        counts["problems"] = len(tasks[item.aspect, split])
    return aspects


def _summarize_tests(data: PreferenceData) -> dict[str, int]:
    """How weak the labels may be: a program that few tests let pass may still be incorrect."""
    numbers = [program.num_tests for problem in data.problems.values() for program in problem.programs]
    known = sorted(number for number in numbers if number is not None)
    median = {"least": known[0], "median": known[len(known) // 2], "most": known[-1]} if known else {}
    return {**median, "programs_unknown": len(numbers) - len(known)}


def _describe_rules(settings: PairSettings) -> dict[str, str]:
    stated = {
        "correctness": correctness.RULES[settings.rule],
        "efficiency": efficiency.RULE,
        "readability": readability.RULE,
    }
    return {
        **{aspect: stated[aspect] for aspect in settings.aspects},
        "tests": f"programs have at least {settings.min_tests or 0} tests, and for other aspects than correctness "
        f"{MIN_QUALITY_TESTS if settings.min_tests is None else settings.min_tests}",
        "duplicates": "of programs that differ in names, comments, docstrings and layout only, the first is kept; "
        "where their labels differ, none is",
        "conflicts": human.RULE,
        "leakage": leakage.RULE,
        "margin": "training asks that chosen scores above rejected by this much more; 0 asks for the order alone",
    }


def _sort_counts(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}


def format_card(card: Mapping[str, Any], name: str) -> str:
    """The card for people."""
    lines = [f"# Data card of {name}", "", f"Made by {card['made_by']} from {', '.join(card['sources'])}.", ""]
    lines += ["| aspect | split | pairs | from people | problems |", "| --- | --- | ---: | ---: | ---: |"]
    for aspect, splits in card["preferences"].items():
        for split, counts in splits.items():
            cells = (
                _format_cell(aspect),
                _format_cell(split),
                *(str(counts[key]) for key in ("pairs", "from_people", "problems")),
            )
            lines.append(f"| {' | '.join(cells)} |")
    titles = (
        ("programs_by_source", "Programs by source"),
        ("problems_by_license", "Problems by license"),
        ("problems_by_isolation", "Problems by what isolated the programs while they were labelled"),
        ("tests_of_a_program", "Tests of a program"),
        ("left_out", "Left out"),
        ("conflicts", "Conflicts"),
        ("leakage", "Leakage"),
        ("margins", "Margins"),
        ("rules", "Rules"),
        ("versions", "Versions"),
    )
    for key, title in titles:
        lines += ["", f"## {title}", ""]
        shown = {name: value for name, value in card[key].items() if name != "problems"}
        lines += [f"- {_format_cell(item)}: {_format_cell(value)}" for item, value in shown.items()] or ["None."]
    return "\n".join(lines) + "\n"


def _format_cell(value: Any) -> str:
    """A value on one line of a table; names are untrusted text."""
    text = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, Mapping) else str(value)
    return "".join(char if char.isprintable() else " " for char in text).replace("|", "\\|") or "none"
