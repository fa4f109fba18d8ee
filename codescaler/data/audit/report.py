"""Reports of an audit: figures of all suites, and what was found in the worst ones. All text is escaped."""

import html
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines

Record = Mapping[str, Any]
NUM_WORST = 10
_MAX_CHARS = 300  # of an input or an output that is shown
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #999;padding:.2em .6em;text-align:left}"
)


def read_audit(path: Path) -> list[dict[str, Any]]:
    """The lines of an audit. Raises: InvalidInput if a line is of another kind."""
    records = []
    for name, _, record in read_lines(path):
        if not {"task_id", "trivial", "trust", "redundant", "programs"} <= record.keys():
            raise InvalidInput(f"{name} is not a line of `codescaler data audit`; give the file that it wrote")
        records.append(record)
    return records


def read_trust(path: Path) -> dict[str, tuple[float, float]]:
    """The true negative rate and the true positive rate of each suite of an audit."""
    return {record["task_id"]: (record["trust"]["tnr"], record["trust"]["tpr"]) for record in read_audit(path)}


def list_findings(record: Record) -> list[tuple[int, str]]:
    """What is wrong with one suite: how much it matters, 3 the most, and words for it."""
    found = []
    reference, mutation, coverage = (record[key] or {} for key in ("reference", "mutation", "coverage"))
    if reference.get("passes") is False:
        found.append((3, f"The reference fails its own tests: {_cut(reference.get('message', ''))}"))
    for item in reference.get("contradictions", ()):
        words = (
            f"{item['share']:.0%} of the programs that pass disagree with the reference on {_cut(item['arguments'])}: "
            f"{_cut(item['majority'])}, not {_cut(item['reference'])}"
        )
        found.append((3, words))
    found += [(3, f"A program passes that only does this: {name}") for name in record["trivial"]["passing"]]
    for survivor in mutation.get("survivors", ()):
        seen = "no plain output" if survivor["seen"] is None else _cut(survivor["seen"])
        words = f"A mutant passes that gives {seen} for {_cut(survivor['arguments'])}, not {_cut(survivor['expected'])}"
        found.append((2, words))
    programs = record["programs"]
    if programs["wrong_passed"]:
        found.append((2, f"{programs['wrong_passed']} programs pass that are known to be incorrect"))
    if programs["correct_failed"]:
        found.append((3, f"{programs['correct_failed']} programs fail that are known to be correct"))
    found += [(2, f"An input breaks a constraint: {_cut(text)}") for text in record["constraints"]["violations"]]
    if (places := record["trivial"]["tests_passed_by_pass"]) and "pass" not in record["trivial"]["passing"]:
        found.append((1, f"{len(places)} tests pass with a program that does nothing"))
    found += [(1, f"No test reaches {words}") for words in coverage.get("missed", ())]
    found += [(1, f"No test has {text}") for text in record["edge_cases"]["missing"]]
    return sorted(found, key=lambda item: -item[0])


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."


def summarize_audit(records: Sequence[Record]) -> dict[str, Any]:
    """Figures of all suites together. A rate is None where there is nothing to count."""
    totals = {key: sum(record["programs"][key] for record in records) for key in _PROGRAMS}
    mutations = [record["mutation"] for record in records if record["mutation"] is not None]
    coverages = [record["coverage"] for record in records if record["coverage"] is not None]
    killed, survived = (sum(item[key] for item in mutations) for key in ("killed", "survived"))
    branches, reached = (sum(item[key] for item in coverages) for key in ("branches", "reached"))
    covered, missing = (sum(len(record["edge_cases"][key]) for record in records) for key in ("covered", "missing"))
    num_tests = sum(record["num_tests"] for record in records)
    return {
        "suites": len(records),
        "tests": num_tests,
        "tests_of_a_suite_median": statistics.median([record["num_tests"] for record in records]) if records else None,
        "true_positive_rate": _divide(totals["correct_passed"], totals["correct_passed"] + totals["correct_failed"]),
        "true_negative_rate": _divide(totals["wrong_failed"], totals["wrong_failed"] + totals["wrong_passed"]),
        "known_programs": sum(totals.values()),
        "mutation_score": _divide(killed, killed + survived),
        "mutants": sum(item["made"] for item in mutations),
        "mutants_equivalent_so_far": sum(item["equivalent"] for item in mutations),
        "mutants_that_pass_without_inputs_to_try": sum(item["unknown"] for item in mutations),
        "suites_that_a_mutant_passes": sum(item["survived"] > 0 for item in mutations),
        "branch_coverage": _divide(reached, branches),
        "suites_with_all_branches": sum(item["branches"] == item["reached"] for item in coverages),
        "edge_case_coverage": _divide(covered, covered + missing),
        "suites_with_constraints": sum(record["constraints"]["read"] > 0 for record in records),
        "suites_with_inputs_that_break_them": sum(record["constraints"]["num_violations"] > 0 for record in records),
        "suites_that_a_trivial_program_passes": sum(bool(record["trivial"]["passing"]) for record in records),
        "suites_with_tests_that_pass_passes": sum(bool(r["trivial"]["tests_passed_by_pass"]) for r in records),
        "references_that_fail": sum((record["reference"] or {}).get("passes") is False for record in records),
        "references_contradicted": sum(bool(r["reference"].get("num_contradictions")) for r in records),
        "tests_that_add_nothing": _divide(sum(len(record["redundant"]["tests"]) for record in records), num_tests),
    }


_PROGRAMS = ("correct_passed", "correct_failed", "wrong_passed", "wrong_failed")


def _divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def find_worst(records: Sequence[Record], count: int = NUM_WORST) -> list[Record]:
    """The suites whose findings matter the most: first by findings of weight 3, then 2, then 1."""

    def weigh(record: Record) -> tuple[int, ...]:
        weights = [weight for weight, _ in list_findings(record)]
        return tuple(-weights.count(weight) for weight in (3, 2, 1))

    found = [record for record in records if list_findings(record)]
    return sorted(found, key=weigh)[:count]


def format_summary(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the figures, for people."""
    shown = ((name, "none" if value is None else value) for name, value in summary.items())
    return [
        (name.replace("_", " "), f"{value:.1%}" if isinstance(value, float) and value <= 1 else str(value))
        for name, value in shown
    ]


def format_markdown(records: Sequence[Record], title: str) -> str:
    """The report in Markdown."""
    lines = [f"# {_escape_markdown(title)}", "", "| figure | value |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in format_summary(summarize_audit(records))]
    for record, findings in _list_worst(records):
        lines += ["", f"## {_escape_markdown(record['task_id'])}", ""]
        lines += [f"- {_escape_markdown(words)}" for words in findings]
    return "\n".join(lines) + "\n"


def format_html(records: Sequence[Record], title: str) -> str:
    """The report as one page of HTML, which loads nothing."""
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in format_summary(summarize_audit(records))
    ]
    parts = [f"<h1>{html.escape(title)}</h1>", "<table>", *rows, "</table>"]
    for record, findings in _list_worst(records):
        parts += [f"<h2>{html.escape(record['task_id'])}</h2>", "<ul>"]
        parts += [f"<li>{html.escape(words)}</li>" for words in findings]
        parts += ["</ul>"]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return "\n".join([f"{head}<style>{_STYLE}</style><body>", *parts, "</body></html>"]) + "\n"


def _list_worst(records: Sequence[Record]) -> Iterable[tuple[Record, list[str]]]:
    for record in find_worst(records):
        yield record, [_show(words) for _, words in list_findings(record)]


def _show(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _escape_markdown(text: str) -> str:
    """A text that Markdown shows as it is: HTML is escaped, and each sign that may mean something."""
    escaped = html.escape(_show(text), quote=False)
    return "".join(f"\\{char}" if char in "\\`*_{}[]()#+-.!|~" else char for char in escaped)


FORMATS: Mapping[str, Callable[[Sequence[Record], str], str]] = {".md": format_markdown, ".html": format_html}
