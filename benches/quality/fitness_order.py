"""Do fitness cards order reward models as they teach? `python benches fitness_order FOLDER CARDS SAMPLES`.

FOLDER holds a folder of runs of `make rl-demo` for each reward model, named as in CARDS: `RUN=rejection` on the samples
in SAMPLES, or `RUN=rejection-validity` in the folder `validity`, which the gains are over. CARDS is what `codescaler
eval fitness --json` wrote on samples of the policy as it was. SAMPLES have labels, so that it is known how much of what
a model kept is correct.

The rank correlation is of the cards' gain over validity with the gain that was measured. Its interval draws held-out
problems with replacement, paired, and takes the cards as they are.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness.results import RESULTS
from benches.quality.delta import rank
from benches.quality.policies import compare, read_shares
from benches.tools.page_tables import format_estimate
from codescaler.commands.info import describe_environment
from codescaler.evaluate.estimates import Estimate
from codescaler.io.records import read_objects
from codescaler.io.tables import format_table
from codescaler.metrics import Figures, compute_percentile_intervals, resample_means

PEER = "validity"
CARD_KEYS = ("pair_accuracy", "gain_over_validity", "verdict")


def main(argv: Sequence[str] | None = None) -> int:
    """Compares, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    cards = json.loads(options.cards.read_text())["figures"]
    verdicts = read_verdicts(options.samples)
    shares = {name: read_shares(path / "eval_labelled.jsonl") for name, path in find_runs(options.folder).items()}
    models = [
        {
            "model": name,
            "card": {key: cards["scorers"][name][key] for key in CARD_KEYS},
            "kept_correct": measure_kept(options.folder / name / "rejection/kept.jsonl", verdicts),
            "avg_at_k": float(np.mean([*shares[name].values()])),
            "gain": compare(shares[name], shares[PEER]),
        }
        for name in shares
        if name != PEER
    ]
    models.sort(key=lambda model: -model["card"]["gain_over_validity"]["mean"])
    correlation = correlate(models, shares)
    print(
        format_table(
            ("model", "card: gain over validity", "verdict", "kept that is correct", "Avg@k", "gain over validity"),
            [
                (
                    model["model"],
                    format_estimate(model["card"]["gain_over_validity"]),
                    model["card"]["verdict"]["word"],
                    f"{100 * model['kept_correct']:.1f}",
                    f"{100 * model['avg_at_k']:.1f}",
                    format_estimate(model["gain"]),
                )
                for model in models
            ],
        )
    )
    print(f"rank correlation of the two gains: {format_estimate(correlation, 1, 2)}")
    if options.save:
        values = describe_environment("auto", "transformers", "trl") | {"recipe": options.recipe}
        values |= {"num_problems": len(shares[PEER]), "num_mixed": cards["num_mixed"]}
        values |= {"validity_avg_at_k": float(np.mean([*shares[PEER].values()])), "models": models}
        values |= {"spearman": correlation}
        (RESULTS / f"fitness_order_{options.save}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches fitness_order", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of runs for each reward model, and one for validity")
    parser.add_argument("cards", type=Path, help="JSON of `codescaler eval fitness`")
    parser.add_argument("samples", type=Path, help="labelled samples that the runs kept from")
    parser.add_argument("--recipe", default="", help="of the runs, for the page")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/fitness_order_NAME.json")
    return parser


def find_runs(folder: Path) -> dict[str, Path]:
    """The folder of the one run of each reward model that has been evaluated; that of validity among them."""
    runs = {path.parent.parent.name: path.parent for path in sorted(folder.glob("*/*/eval_labelled.jsonl"))}
    if PEER not in runs or len(runs) < 3:
        raise SystemExit(f"{folder} has evaluated runs of {sorted(runs)}; make one for {PEER}, and two others")
    return runs


def read_verdicts(samples: Path) -> dict[tuple[str, str], bool]:
    """Whether a completion of a problem passes."""
    return {
        (group["prompt"], candidate["completion"]): bool(candidate["passed"])
        for _, group in read_objects(samples)
        for candidate in group["candidates"]
    }


def measure_kept(file: Path, verdicts: Mapping[tuple[str, str], bool]) -> float:
    """The share of what a run kept that is correct."""
    kept = [(row["prompt"][0]["content"], row["completion"][0]["content"]) for _, row in read_objects(file)]
    return float(np.mean([verdicts[pair] for pair in kept]))


def correlate(models: Sequence[Mapping[str, Any]], shares: Mapping[str, Mapping[str, float]]) -> Estimate:
    """Spearman's correlation of the cards' gains with those measured, which are drawn by problem."""
    wanted = rank([model["card"]["gain_over_validity"]["mean"] for model in models])
    names = list(shares[PEER])
    gains = np.array([[shares[model["model"]][task] - shares[PEER][task] for model in models] for task in names])
    drawn = [_correlate_ranks(wanted, row) for row in resample_means(gains)]
    known = np.array([value for value in drawn if np.isfinite(value)])
    return Estimate(
        mean=_correlate_ranks(wanted, gains.mean(axis=0)), interval=compute_percentile_intervals(known[:, None])[0]
    )


def _correlate_ranks(wanted: Figures, values: Figures) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(wanted, rank(values.tolist()))[0, 1])


if __name__ == "__main__":
    sys.exit(main())
