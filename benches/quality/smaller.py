"""Says what a smaller copy keeps of a reward model's rankings: `python benches smaller MODEL GROUPS --rm NAME=FOLDER`.

MODEL is the folder of a reward model, each --rm a copy of it, with fewer bits, tokens or channels. GROUPS are labelled
programs. The figures are megabytes of weights, Kendall's tau-b of the scores of a problem's distinct programs to those
of MODEL, mean over the problems, and the share of correct pairs. All run in bfloat16.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benches.harness.options import parse_count, report_progress
from benches.harness.results import RESULTS
from benches.quality.tau import kendall_tau
from codescaler.checkpoint.load import open_checkpoint
from codescaler.commands.info import describe_environment
from codescaler.commands.options import parse_models
from codescaler.engine import Engine
from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import Estimate, estimate_means
from codescaler.io.records import Group, read_groups
from codescaler.io.tables import format_table
from codescaler.metrics import pair_accuracy


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    groups = [(group, programs) for group in read_groups(arguments.groups) if len(programs := list_labels(group)) > 1]
    copies = {name: Path(model.folder) for name, model in parse_models(arguments.rm, taken=["model"]).items()}
    rows: dict[str, dict[str, Any]] = {}
    truth: list[npt.NDArray[np.float32]] = []
    for name, folder in {"model": arguments.model, **copies}.items():
        scores = score_groups(folder, groups)
        truth = truth or scores
        taus = [kendall_tau(found, exact) for found, exact in zip(scores, truth, strict=True)]
        accuracies = [
            pair_accuracy(found, list(programs.values())) for found, (_, programs) in zip(scores, groups, strict=True)
        ]
        right = [accuracy for accuracy in accuracies if accuracy is not None]
        if not right:
            raise InvalidInput(f"{arguments.groups} has no problem with a correct and an incorrect program")
        rows[name] = {
            "megabytes": _count_megabytes(folder),
            "tau": _estimate(taus),
            "pair_accuracy": _estimate(right),
        }
        report_progress(f"{name}: tau {rows[name]['tau']['mean']:.3f}")
    print(f"{len(groups)} problems, {len(right)} of them with a correct and an incorrect program")
    means = {name: (row["tau"]["mean"], 100 * row["pair_accuracy"]["mean"]) for name, row in rows.items()}
    table = [
        (name, f"{rows[name]['megabytes']:.0f}", f"{tau:.3f}", f"{pairs:.1f}") for name, (tau, pairs) in means.items()
    ]
    print(format_table(("", "MB", "Kendall's tau", "correct pairs, %"), table))
    if arguments.save:
        values = {
            **describe_environment("cpu"),
            "groups": arguments.groups.name,
            "num_problems": len(groups),
            "num_mixed": len(right),
            "models": rows,
        }
        (RESULTS / f"smaller_{arguments.save}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


def list_labels(group: Group) -> dict[str, bool]:
    """The distinct programs of a problem with their verdicts; those without a verdict are left out."""
    return {c.code: c.passed for c in group.candidates if c.code is not None and c.passed is not None}


def score_groups(
    folder: Path, groups: Sequence[tuple[Group, Mapping[str, bool]]], dtype: str = "bfloat16"
) -> list[npt.NDArray[np.float32]]:
    """Scores of each problem's distinct programs."""
    engine = Engine.from_pretrained(folder, device="cpu", dtype=dtype)
    pairs = [(group.problem, program) for group, programs in groups for program in programs]
    return np.split(engine.score(pairs), np.cumsum([len(programs) for _, programs in groups])[:-1])


def _estimate(values: Sequence[float]) -> Estimate:
    """The mean over problems, and its interval."""
    return estimate_means({"mean": np.array(values)}, [str(index) for index in range(len(values))])["mean"]


def _count_megabytes(folder: Path) -> float:
    """The size of a folder's weights; of an adapter's, with those of its base."""
    folders = [folder, open_checkpoint(folder).base_folder]
    return sum(path.stat().st_size for each in folders if each for path in each.glob("*.safetensors")) / 1e6


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches smaller", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a reward model")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs; .gz too")
    parser.add_argument("--rm", action="append", default=[], metavar="NAME=FOLDER", help="a copy; repeat")
    parser.add_argument("--threads", type=parse_count, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/smaller_NAME.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
