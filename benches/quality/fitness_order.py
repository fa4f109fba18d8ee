"""Do fitness cards order reward models as they teach? `python benches fitness_order FOLDER CARDS... SAMPLES`.

FOLDER/NAME/rejection is the run of `make rl-demo RUN=rejection` on SAMPLES, with the reward model that CARDS call NAME.
FOLDER/validity/rejection-validity is that of `RUN=rejection-validity`, which gains are over. CARDS are what `codescaler
eval fitness --json` wrote, on samples of the policy as it was; of a model in two of them, the first counts.
SAMPLES have labels, so that it is known how much of what a model kept is correct.

The rank correlation is of the cards' gain over validity with the gain that was measured. Its interval draws held-out
problems with replacement, paired. It takes the cards and the policies as they are: each model taught one policy, from
one seed. `p` is the share of all orders of the models that agree with the cards as well as the measured one, or better.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness.results import RESULTS
from benches.quality.policies import compare, read_shares
from benches.tools.page_tables import format_estimate
from codescaler.commands.info import describe_environment
from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import Estimate
from codescaler.io.records import read_objects
from codescaler.io.tables import format_table
from codescaler.metrics import Figures, compute_percentile_intervals, rank, resample_means

PEER = Path("validity/rejection-validity")
RUN = "rejection"
COUNTED = ("num_groups", "num_mixed")
CARD_KEYS = ("pair_accuracy", "gain_over_validity", "verdict")
MIN_MODELS, MAX_MODELS = 3, 9  # of two, every order agrees or disagrees; of ten there are too many to list

Verdicts = Mapping[tuple[str, str], bool | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Compares, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    cards = join_cards(options.cards)
    verdicts = read_verdicts(options.samples)
    runs = find_runs(options.folder, cards["scorers"])
    peer = read_shares(options.folder / PEER / "eval_labelled.jsonl")
    shares = {name: read_shares(run / "eval_labelled.jsonl") for name, run in runs.items()}
    models = [
        {
            "model": name,
            "card": {key: cards["scorers"][name][key] for key in CARD_KEYS},
            **measure_kept(runs[name] / "kept.jsonl", verdicts),
            "avg_at_k": float(np.mean([*shares[name].values()])),
            "gain": compare(shares[name], peer),
        }
        for name in sorted(runs, key=lambda name: -cards["scorers"][name]["gain_over_validity"]["mean"])
    ]
    wanted = [model["card"]["gain_over_validity"]["mean"] for model in models]
    names = list(peer)
    correlation, p = correlate(wanted, np.array([[shares[m["model"]][task] for m in models] for task in names]))
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
    print(f"rank correlation of the two gains: {format_estimate(correlation, 1, 2)}, p {p:.3f}")
    if options.save:
        values = describe_environment("auto", "transformers", "trl") | {"recipe": options.recipe}
        values |= {"num_problems": len(peer), "num_groups_of_card": cards["num_groups"]}
        values |= {"num_mixed_of_card": cards["num_mixed"], "validity_avg_at_k": float(np.mean([*peer.values()]))}
        values |= {"models": models, "spearman": correlation, "p": p}
        (RESULTS / f"fitness_order_{options.save}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches fitness_order", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of runs for each reward model, and one for validity")
    parser.add_argument("cards", type=Path, nargs="+", help="JSON of `codescaler eval fitness`, on the same samples")
    parser.add_argument("samples", type=Path, help="labelled samples that the runs kept from")
    parser.add_argument("--recipe", default="", help="of the runs, for the page")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/fitness_order_NAME.json")
    return parser


def join_cards(files: Sequence[Path]) -> dict[str, Any]:
    """The figures of the first file, with the scorers of all.

    Raises: InvalidInput if the files are not of the same samples.
    """
    records = [json.loads(file.read_text()) for file in files]
    counted = [[record["file"], *(record["figures"][key] for key in COUNTED)] for record in records]
    if any(counts != counted[0] for counts in counted):
        raise InvalidInput(f"cards are of {counted}; give cards of the same samples")
    scorers = {name: of for record in reversed(records) for name, of in record["figures"]["scorers"].items()}
    return records[0]["figures"] | {"scorers": scorers}


def find_runs(folder: Path, scorers: Mapping[str, Any]) -> dict[str, Path]:
    """The evaluated run of each reward model.

    Raises: InvalidInput if that of validity is not there, a model has no card, or their number is not from 3 to 9.
    """
    runs = {path.parent.parent.name: path.parent for path in sorted(folder.glob(f"*/{RUN}/eval_labelled.jsonl"))}
    if not (folder / PEER / "eval_labelled.jsonl").is_file():
        raise InvalidInput(f"{folder / PEER} has not been evaluated; make that run")
    if unknown := runs.keys() - scorers.keys():
        raise InvalidInput(f"there is no card of {', '.join(sorted(unknown))}, only of {', '.join(scorers)}")
    if not MIN_MODELS <= len(runs) <= MAX_MODELS:
        raise InvalidInput(f"{folder} has evaluated runs of {len(runs)} models; give {MIN_MODELS} to {MAX_MODELS}")
    return runs


def read_verdicts(samples: Path) -> Verdicts:
    """Whether a completion of a problem passes; None where that is not known."""
    return {
        (group["prompt"], candidate["completion"]): candidate["passed"]
        for _, group in read_objects(samples)
        for candidate in group["candidates"]
    }


def measure_kept(file: Path, verdicts: Verdicts) -> dict[str, float]:
    """The share of what a run kept that is correct, of what could be judged, and how much was kept and not judged.

    Raises: InvalidInput if something was kept that is not among the samples.
    """
    kept = [(row["prompt"][0]["content"], row["completion"][0]["content"]) for _, row in read_objects(file)]
    if missing := sum(pair not in verdicts for pair in kept):
        raise InvalidInput(f"{file}: {missing} of {len(kept)} are not among the samples; give those of the runs")
    judged = [verdict for pair in kept if (verdict := verdicts[pair]) is not None]
    return {
        "kept_correct": float(np.mean(judged)) if judged else float("nan"),
        "num_kept": len(kept),
        "num_kept_unjudged": len(kept) - len(judged),
    }


def correlate(wanted: Sequence[float], shares: Figures) -> tuple[Estimate, float]:
    """Spearman's correlation of figures of models with their means over problems, drawn by problem, and p.

    A draw in which all models are equal counts as 0. Shape of shares: [problems, models].
    """
    first = rank(wanted)
    found = _correlate_ranks(first, shares.mean(axis=0))
    drawn = np.array([_correlate_ranks(first, means) for means in resample_means(shares)])
    measured = rank(_round(shares.mean(axis=0)))
    orders = np.array([*itertools.permutations(measured)])
    p = float(np.mean(orders @ first >= measured @ first - 1e-9))
    return Estimate(mean=found, interval=compute_percentile_intervals(drawn[:, None])[0]), p


def _correlate_ranks(first: Figures, means: Figures) -> float:
    second = rank(_round(means))
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(second) and np.ptp(first) else 0.0


def _round(means: Figures) -> list[float]:
    """Equal means differ by how their sums were rounded."""
    return list(np.round(means, 9))


if __name__ == "__main__":
    sys.exit(main())
