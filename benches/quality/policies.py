"""Compares the runs of `make rl-demo` on the same held-out problems: `python benches policies FOLDER`.

Avg@k is the share of samples that pass all tests. Gains are paired by problem: over the policy as it was, and over the
run whose reward is validity, which shows what the other reward adds to answers in the right form.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness.results import RESULTS
from benches.tools.page_tables import format_estimate
from codescaler.commands.info import describe_environment
from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import Estimate, estimate_means
from codescaler.io.records import read_objects
from codescaler.io.tables import format_table

PEERS = ("base", "rejection-validity", "validity")
SHOWN = ("avg_at_k", "any_of_k", "valid_share", "length_chars")

Shares = Mapping[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Compares, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    figures = {record["run"]: record for _, record in read_objects(options.folder / "figures.jsonl")}
    shares = {name: read_shares(options.folder / name / "eval_labelled.jsonl") for name in figures}
    runs = [
        {
            "run": name,
            **{key: record[key] for key in ("seed", "minutes", "num_problems", "num_samples", *SHOWN)},
            # Rewards by two models are not of one scale, and runs of before do not say whose theirs are.
            **{key: record.get(key) for key in ("reward", "reward_models", "stopped") if "reward_models" in record},
            "gains": {peer: compare(shares[name], shares[peer]) for peer in PEERS if peer in shares.keys() - {name}},
        }
        for name, record in figures.items()
    ]
    print(format_table(("run", "Avg@k", "gain over", "valid", "characters"), list(_list_lines(runs))))
    if options.save:
        values = {**describe_environment("auto", "transformers", "trl"), "recipe": options.recipe, "runs": runs}
        (RESULTS / f"policies_{options.save}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


def read_shares(labelled: Path) -> dict[str, float]:
    """The share of each problem's samples that pass, of those that could be judged."""
    verdicts = {
        group["task_id"]: [c["passed"] for c in group["candidates"] if c["passed"] is not None]
        for _, group in read_objects(labelled)
    }
    return {task_id: float(np.mean(passed)) for task_id, passed in verdicts.items() if passed}


def compare(shares: Shares, of_peer: Shares) -> Estimate:
    """The mean difference on the problems of both, and its interval. Says how many are not of both.

    Raises: InvalidInput if none is.
    """
    names = [name for name in shares if name in of_peer]
    if not names:
        raise InvalidInput("two runs have no problem that was judged in both; evaluate them on the same problems")
    if others := shares.keys() ^ of_peer.keys():
        print(f"left out: {len(others)} problems that were judged in one of two runs", file=sys.stderr)
    return estimate_means({"": np.array([shares[name] - of_peer[name] for name in names])}, names)[""]


def _list_lines(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            run["run"] if not run.get("stopped") else f"{run['run']}, of step {run['stopped']['policy_step']}",
            format_estimate(run["avg_at_k"]),
            "; ".join(f"{peer}: {format_estimate(gain)}" for peer, gain in run["gains"].items()),
            f"{100 * run['valid_share']['mean']:.0f}%",
            f"{run['length_chars']['mean']:.0f}",
        )
        for run in runs
    ]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches policies", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder of runs, by make rl-demo")
    parser.add_argument("--recipe", default="", help="how the runs were made, for the page")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/policies_NAME.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
