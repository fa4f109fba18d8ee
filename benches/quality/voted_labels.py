"""A reward model from majority votes beside one from real tests: `python benches voted_labels BASE GROUPS VOTED POOL`.

GROUPS are samples labelled by real tests, VOTED the same samples labelled by suites that no reference wrote
(`codescaler data synth suites --no-references`, `codescaler data label`). To each set of labels a head is fitted on the
frozen features of BASE (`codescaler fit-head`). Both have the same programs, those that both sets label, so that the
labels alone differ. POOL and further files are labelled programs of other problems, on which the two models are
compared by their share of correct pairs, paired by problem.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benches.harness.options import report_progress
from benches.harness.results import RESULTS
from benches.quality.sampled import write_groups
from benches.quality.smaller import list_labels, score_groups
from benches.tools.page_tables import format_estimate
from codescaler import cli
from codescaler.commands.info import describe_environment
from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import estimate_means
from codescaler.io.records import Group, read_groups
from codescaler.io.tables import format_table
from codescaler.metrics import pair_accuracy

Labelled = dict[str, bool]  # a program, and whether it passes


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    real, voted = join_labels(read_groups(options.groups), read_groups(options.voted))
    values: dict[str, Any] = {"labels": count_agreement(real, voted), "pools": {}}
    print(format_table(("labels", ""), [(name, str(count)) for name, count in values["labels"].items()]))
    pools = [(path, [group for group in read_groups(path) if is_mixed(list_labels(group))]) for path in options.pools]
    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: fit_head(options.base, groups, Path(folder) / name)
            for name, groups in (("real", real), ("voted", voted))
        }
        for path, groups in pools:
            values["pools"][path.stem] = compare(models, groups, options.dtype)
            report_progress(f"{path.stem}: {values['pools'][path.stem]}")
    rows = [
        (name, str(pool["num_problems"]), *(format_estimate(pool[key]) for key in ("real", "voted", "voted_over_real")))
        for name, pool in values["pools"].items()
    ]
    print(format_table(("pool", "problems", "real tests", "voted", "voted over real"), rows))
    if options.save:
        values = {**describe_environment("cpu"), "base": options.base.name, **values}
        (RESULTS / f"voted_labels_{options.save}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


def is_mixed(labelled: Labelled) -> bool:
    return len({*labelled.values()}) == 2


def join_labels(real: Sequence[Group], voted: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """The groups of both, each with the programs that both label.

    Raises:
        InvalidInput: no problem is in both.
    """
    labels_of_votes = {group.task_id: list_labels(group) for group in voted}
    matched: tuple[list[Group], list[Group]] = ([], [])
    for group in real:
        labels, others = list_labels(group), labels_of_votes.get(group.task_id, {})
        shared = [code for code in labels if code in others]
        if not shared:
            continue
        first = {c.code: c for c in reversed(group.candidates) if c.code is not None}
        for groups, verdicts in zip(matched, (labels, others), strict=True):
            candidates = tuple(dataclasses.replace(first[code], passed=verdicts[code]) for code in shared)
            groups.append(dataclasses.replace(group, candidates=candidates))
    if not matched[0]:
        raise InvalidInput("the two files share no problem with labels; label the same groups twice")
    return matched


def count_agreement(real: Sequence[Group], voted: Sequence[Group]) -> dict[str, int]:
    """How far the labels of votes are those of the tests."""
    labels, votes = ([list_labels(group) for group in groups] for groups in (real, voted))
    pairs = [
        (passes, of_votes[code]) for own, of_votes in zip(labels, votes, strict=True) for code, passes in own.items()
    ]
    return {
        "problems": len(real),
        "problems_mixed_by_tests": sum(map(is_mixed, labels)),
        "problems_mixed_by_votes": sum(map(is_mixed, votes)),
        "programs": len(pairs),
        "correct": sum(passes for passes, _ in pairs),
        "correct_voted_incorrect": sum(passes and not vote for passes, vote in pairs),
        "incorrect_voted_correct": sum(vote and not passes for passes, vote in pairs),
    }


def fit_head(base: Path, groups: Sequence[Group], folder: Path) -> Path:
    """Writes the groups, and a reward model that is fitted to them, and returns its folder."""
    path = folder.with_suffix(".jsonl")
    write_groups(
        path,
        (
            {
                "task_id": group.task_id,
                "prompt": group.prompt,
                "candidates": [{"code": c.code, "passed": c.passed} for c in group.candidates],
            }
            for group in groups
        ),
    )
    if cli.main(["fit-head", str(base), str(path), "-o", str(folder)]):
        raise SystemExit(1)
    return folder


def compare(models: dict[str, Path], groups: Sequence[Group], dtype: str) -> dict[str, Any]:
    """Mean share of correct pairs of each model, and the difference, in one table of problems."""
    columns = {name: score_pairs(folder, groups, dtype) for name, folder in models.items()}
    columns["voted_over_real"] = columns["voted"] - columns["real"]
    return {"num_problems": len(groups), **estimate_means(columns, [group.task_id for group in groups])}


def score_pairs(folder: Path, groups: Sequence[Group], dtype: str) -> npt.NDArray[np.float64]:
    """The share of correct pairs of each problem."""
    labelled = [(group, list_labels(group)) for group in groups]
    scores = score_groups(folder, labelled, dtype)
    return np.array([pair_accuracy(part, list(own.values())) for part, (_, own) in zip(scores, labelled, strict=True)])


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches voted_labels", description=__doc__.partition("\n\n")[0])
    parser.add_argument("base", type=Path, help="folder of a language model whose features a head reads")
    parser.add_argument("groups", type=Path, help="samples labelled by real tests; .gz too")
    parser.add_argument("voted", type=Path, help="the same samples labelled by voted suites")
    parser.add_argument("pools", type=Path, nargs="+", metavar="POOL", help="labelled programs of other problems")
    parser.add_argument("--dtype", default="bfloat16", help="that programs are scored in (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/voted_labels_NAME.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
